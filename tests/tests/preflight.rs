//! The look before enforcing says truly what will happen to names, and asks nobody past the tunnel.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use leakguard::lab::{Frame, Query, WHO_NAME, address, output_within};
use leakguard_tests::{Bench, Place, agent_binary};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A host with this resolv.conf, and what systemd-resolved would have written.
struct Host<'bench> {
    bench: &'bench Bench,
    files: TempDir,
}

impl<'bench> Host<'bench> {
    fn new(bench: &'bench Bench, resolv_conf: &str, resolved: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        fs::write(files.path().join("resolv.conf"), resolv_conf).unwrap();
        fs::write(files.path().join("resolved.conf"), resolved).unwrap();
        Self { bench, files }
    }

    /// leakguard in a mount namespace of its own, where these are the machine's files.
    fn leakguard(&self, arguments: &[&str]) -> Command {
        const SCRIPT: &str = "mount --make-rprivate / && mount --bind \"$1/resolv.conf\" /etc/resolv.conf && \
                              mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/resolve && \
                              cp \"$1/resolved.conf\" /run/systemd/resolve/resolv.conf && shift && exec \"$@\"";
        let mut command = self.bench.topology.host().command("unshare");
        command.args(["--mount", "sh", "-c", SCRIPT, "sh"]);
        command.arg(self.files.path()).arg(agent_binary());
        command.args(arguments);
        command.arg("--bpffs").arg(self.bench.bpffs.path());
        command
            .arg("--control")
            .arg(self.files.path().join("control.sock"));
        self.bench.cgroup.attach(&mut command);
        command
    }

    fn enforce(&self, verb: &str, arguments: &[&str]) -> Output {
        let arguments = [&[verb, "--tunnel", Bench::TUNNEL], arguments].concat();
        let mut command = self.leakguard(&arguments);
        command.arg("--cgroup").arg(self.bench.cgroup.path());
        output_within(command, PATIENCE).unwrap()
    }

    fn level(&self) -> serde_json::Value {
        let status = output_within(self.leakguard(&["status", "--json"]), PATIENCE).unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        status["level"].clone()
    }

    /// Enforces with a warning, and lifts it; returns what was said.
    fn warned(&self, arguments: &[&str]) -> String {
        let applied = self.enforce("apply", arguments);
        assert!(applied.status.success(), "{applied:?}");
        let released = output_within(self.leakguard(&["release"]), PATIENCE).unwrap();
        assert!(released.status.success(), "{released:?}");
        text(&applied)
    }

    /// Asserts that both commands refuse with these words, and change nothing.
    fn refused(&self, words: &str) {
        for verb in ["apply", "run"] {
            let refused = self.enforce(verb, &["--preflight", "refuse"]);
            assert_eq!(refused.status.code(), Some(3), "{refused:?}");
            let said = text(&refused);
            let errors: Vec<&str> = said
                .lines()
                .filter(|line| line.starts_with("error: "))
                .collect();
            assert_eq!(errors.len(), 1, "{said}");
            assert!(errors[0].contains(words), "{said}");
            assert!(
                errors[0].ends_with("--preflight warn"),
                "the remedy: {said}"
            );
            assert_eq!(self.level(), "none", "nothing was changed");
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The DNS packets that the ISP has seen of the host since the last look.
fn escaped(bench: &mut Bench) -> usize {
    let frames = bench.frames(Place::Host);
    let dns = frames
        .iter()
        .filter_map(|bytes| Frame::parse(bytes))
        .filter(|frame| frame.destination.port() == 53);
    dns.count()
}

#[test]
fn a_resolver_over_the_uplink_is_named_and_never_asked() {
    let mut bench = Bench::with_tunnel();
    for (resolver, line) in [
        (address::ISP_RESOLVER_V4.to_string(), "198.51.100.53"),
        (address::ISP_RESOLVER_V6.to_string(), "2001:db8:53::53"),
    ] {
        let control = Query::new(
            resolver.parse::<std::net::IpAddr>().unwrap(),
            WHO_NAME,
            "TXT",
        )
        .timeout(Duration::from_secs(1));
        control
            .run(bench.topology.host(), Some(&bench.cgroup))
            .unwrap();
        assert!(escaped(&mut bench) > 0, "control: a question would be seen");

        let words = format!(
            "names will not resolve: nameserver {line} is reached over eth0, which is an uplink"
        );
        let host = Host::new(&bench, &format!("nameserver {resolver}\n"), "");
        let said = host.warned(&[]);
        assert!(said.contains(&format!("warning: {words}")), "{said}");
        assert!(said.contains("/etc/resolv.conf"), "the remedy: {said}");
        host.refused(&words);
        let said = host.warned(&["--preflight", "off"]);
        assert!(!said.contains("nameserver"), "{said}");
        let said = host.warned(&["--mode", "observe", "--preflight", "refuse"]);
        assert!(
            said.contains(&format!("info: if it were enforced: {words}")),
            "{said}"
        );
        let said = host.warned(&["--block", "dot"]);
        assert!(
            !said.contains("nameserver"),
            "port 53 is not blocked: {said}"
        );
        assert_eq!(escaped(&mut bench), 0, "{resolver} must not be asked");
    }
}

#[test]
fn a_resolver_behind_the_tunnel_is_asked_and_found() {
    let mut bench = Bench::with_tunnel();
    for resolver in ["10.8.0.1", "fd08::1"] {
        let host = Host::new(&bench, &format!("nameserver {resolver}\n"), "");
        let said = host.warned(&["--preflight", "refuse"]);
        assert!(
            said.contains(&format!(
                "info: nameserver {resolver} is reached over wg0, which is a tunnel, and answers"
            )),
            "{said}"
        );
        assert!(!said.contains("warning"), "{said}");
    }
    assert_eq!(escaped(&mut bench), 0);
}

/// It was said that names would not resolve, and `refuse` refused what works.
#[test]
fn a_resolver_over_the_uplink_does_no_harm_where_questions_are_redirected() {
    let mut bench = Bench::with_tunnel();
    let host = Host::new(&bench, "nameserver 198.51.100.53\n", "");
    let said = host.warned(&["--redirect", "10.8.0.1", "--preflight", "refuse"]);
    assert!(
        said.contains(
            "info: nameserver 10.8.0.1 (by redirection, instead of 198.51.100.53) is reached over wg0, which is a tunnel, and \
             answers"
        ),
        "{said}"
    );
    assert!(!said.contains("warning"), "{said}");
    // Of the other family nobody is there to redirect to.
    let host = Host::new(&bench, "nameserver 2001:db8:53::53\n", "");
    let said = host.warned(&["--redirect", "10.8.0.1"]);
    assert!(
        said.contains("names will not resolve: nameserver 2001:db8:53::53 is reached over eth0"),
        "{said}"
    );
    assert_eq!(escaped(&mut bench), 0);
}

#[test]
fn a_resolver_that_does_not_answer_is_waited_for_a_second() {
    let bench = Bench::with_tunnel();
    let host = Host::new(
        &bench,
        "nameserver 10.8.0.99\nnameserver 10.8.0.98\nnameserver fd08::99\n",
        "",
    );
    let started = Instant::now();
    host.refused(
        "names will not resolve: nameserver 10.8.0.99 is reached over wg0, which is a tunnel, and does not answer \
         within 1 s; nameserver 10.8.0.98",
    );
    let per_run = started.elapsed() / 2;
    assert!(
        per_run < Duration::from_secs(3),
        "all at once, not one after the other: {per_run:?}"
    );
}

#[test]
fn behind_systemd_resolved_its_upstreams_are_looked_at() {
    let mut bench = Bench::with_tunnel();
    let stub = "nameserver 127.0.0.53\n";
    let uplink = format!("nameserver {}\n", address::ISP_RESOLVER_V4);
    Host::new(&bench, stub, &uplink).refused(
        "nameserver 198.51.100.53 (of systemd-resolved) is reached over eth0, which is an uplink",
    );
    let said = Host::new(&bench, stub, "nameserver 10.8.0.1\n").warned(&["--preflight", "refuse"]);
    assert!(
        said.contains("nameserver 10.8.0.1 (of systemd-resolved) is reached over wg0, which is a tunnel, and answers"),
        "{said}"
    );
    // A resolver on this host whose upstream nobody tells: neither a failure nor silently well.
    for (resolv_conf, resolved) in [(stub, ""), ("nameserver 127.0.0.1\n", uplink.as_str())] {
        let said = Host::new(&bench, resolv_conf, resolved).warned(&["--preflight", "refuse"]);
        assert!(
            said.contains("is on this host, and whom it asks is not known"),
            "{said}"
        );
    }
    assert_eq!(escaped(&mut bench), 0);
}

#[test]
fn no_tunnel_yet_is_said_before_anything_else() {
    let bench = Bench::new();
    let host = Host::new(&bench, "nameserver 10.8.0.1\n", "");
    let words = "no tunnel is up yet (wanted: wg0): names will not resolve until one is";
    let said = host.warned(&[]);
    assert!(
        said.contains(&format!("warning: {words}; bring the VPN up")),
        "{said}"
    );
    host.refused(words);
}
