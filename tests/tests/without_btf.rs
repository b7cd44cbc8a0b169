//! What the agent says on a kernel that it cannot work on: `cargo xtask vm-test no-btf`.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::path::Path;

use leakguard::lab::{Agent, AgentConfig, Bpffs, wait_until};
use leakguard_tests::{Guest, Origin, Transport, Volley, agent_binary, isp};

const N: usize = 10;
/// What is missing has this exit code.
const MISSING: i32 = 4;

fn seen(guest: &mut Guest) -> usize {
    let origin = Origin {
        netns: guest.topology.host(),
        cgroup: Some(&guest.cgroup),
    };
    let volley = Volley::send(origin, Transport::Udp, isp(0, 53), N);
    let frames = guest
        .observer
        .drain_past_fence(guest.topology.host())
        .unwrap();
    volley.seen(&frames)
}

#[test]
fn a_kernel_that_cannot_tell_namespaces_apart_is_refused_by_name_and_nothing_is_attached() {
    assert!(
        !Path::new("/sys/kernel/btf/vmlinux").exists(),
        "this kernel has BTF: `cargo xtask vm-test no-btf`"
    );
    let mut guest = Guest::new("without-btf");
    let bpffs = Bpffs::new().unwrap();
    assert_eq!(seen(&mut guest), N, "control");
    let mut agent = Agent::spawn(&AgentConfig {
        binary: agent_binary(),
        netns: guest.topology.host(),
        cgroup: &guest.cgroup,
        bpffs: &bpffs,
        tunnels: vec!["wg0".to_owned()],
        arguments: Vec::new(),
    })
    .unwrap();
    let mut code = None;
    wait_until("the agent ends", Guest::LIMIT, || {
        code = agent.exit_status()?.map(|status| status.code());
        Ok(code.is_some())
    })
    .unwrap();
    let said = agent.stderr();
    assert_eq!(code, Some(Some(MISSING)), "{said}");
    assert!(said.contains("/sys/kernel/btf/vmlinux"), "{said}");

    let status = agent.status_json().unwrap();
    println!("fact: level: {}", status["level"].as_str().unwrap());
    let lacks = said.lines().find(|line| line.contains(" is missing: "));
    let (_, lacks) = lacks.unwrap().split_once(": ").unwrap();
    println!("fact: causes: refused with exit code {MISSING}, nothing attached: \"{lacks}\"");
    assert_eq!(status["level"], "none", "{status:#}");
    assert!(!bpffs.path().join("leakguard").exists(), "no pins");
    assert_eq!(seen(&mut guest), N, "as before");
}
