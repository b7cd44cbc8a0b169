//! Where a kernel refuses the full programs, smaller ones enforce, and `status` says so.

mod device;

use device::{Device, RunningAgent, TUNNEL};

#[test]
fn a_kernel_that_refuses_the_full_programs_is_enforced_on_by_ports() {
    let mut device = Device::new();
    assert_eq!(device.seen(5), (5, 5), "control");
    // Only debug builds can be told that the kernel refuses them.
    let debug = env!("CARGO_BIN_EXE_leakguard-debug");
    let mut command = device.command_of(debug, &["run", "--tunnel", TUNNEL]);
    command.env("LEAKGUARD_LEAN", "1");
    let agent = RunningAgent::spawn(command, device.directory());
    let mut agent = device.await_agent(agent);
    let status = device.status();
    assert_eq!(status["level"], "reduced", "{status}");
    let causes = status["causes"].to_string();
    assert!(causes.contains("refuses the full programs"), "{causes}");
    assert_eq!(device.seen(5), (0, 0));
    agent.kill9();
    assert_eq!(device.seen(5), (0, 0), "without an agent");

    // A later version, or a later kernel, takes over.
    let _agent = device.agent(&[]);
    let status = device.status();
    assert_eq!(status["level"], "full", "{status}");
    assert_eq!(device.seen(5), (0, 0));
}
