//! A machine with a tunnel, an agent, and files of its own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use leakguard::lab::{Daemon, output_within, wait_until};
use leakguard_tests::{Bench, agent_binary};
use serde_json::Value;

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The lab's host, where `/etc` is a copy and `/run` is empty.
pub(crate) struct Machine {
    /// Declared first: it goes before the network that it lives in.
    keeper: Daemon,
    pub(crate) bench: Bench,
    directory: tempfile::TempDir,
}

impl Machine {
    /// A machine that sends everything through its tunnel and is protected.
    pub(crate) fn sound() -> Self {
        let mut machine = Self::unprotected();
        machine.bench.protect(&[]);
        machine
    }

    /// The same without an agent.
    pub(crate) fn unprotected() -> Self {
        const SCRIPT: &str = r#"
mount --make-rprivate /
cp -a /etc "$1/etc"
cd "$1/etc"
rm -rf resolv.conf leakguard docker containers cni dhcp dhcpcd.conf NetworkManager chromium firefox \
    unbound dnsmasq.d dnsmasq.conf systemd nftables.conf
mount --bind "$1/etc" /etc
mount -t tmpfs tmpfs /run
: > "$1/ready"
exec sleep infinity
"#;
        let bench = Bench::with_tunnel();
        let host = bench.topology.host();
        host.ip_batch(
            "route add 203.0.113.10/32 via 192.168.77.1\n\
             route add 0.0.0.0/1 dev wg0\n\
             route add 128.0.0.0/1 dev wg0\n\
             route add 2001:db8:113::10/128 via fd77::1\n\
             route add ::/1 dev wg0\n\
             route add 8000::/1 dev wg0\n",
        )
        .unwrap();
        host.sysctl("net.ipv4.ip_forward", "0").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut command = host.command("unshare");
        command.args(["--mount", "sh", "-ec", SCRIPT, "sh"]);
        command.arg(directory.path());
        let mut keeper = Daemon::start(command, directory.path()).unwrap();
        wait_until("the machine has its files", PATIENCE, || {
            keeper.check_running()?;
            Ok(directory.path().join("ready").exists())
        })
        .unwrap();
        let machine = Self {
            keeper,
            bench,
            directory,
        };
        machine.write("resolv.conf", "nameserver 10.8.0.1\n");
        machine.write("nsswitch.conf", "hosts: files dns\n");
        // The computer that runs the test has podman.
        machine.write(
            "containers/containers.conf",
            "[containers]\ndns_servers = [\"10.8.0.1\"]\n",
        );
        machine.write(
            "leakguard/leakguard.toml",
            "[interfaces]\ntunnel = [\"wg0\"]\n",
        );
        let toml = machine.etc("leakguard/leakguard.toml");
        fs::set_permissions(toml, fs::Permissions::from_mode(0o600)).unwrap();
        machine
    }

    /// A file of its `/etc`, as seen from outside.
    pub(crate) fn etc(&self, path: &str) -> PathBuf {
        self.directory.path().join("etc").join(path)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.etc(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A command inside it, in the guarded cgroup.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.keeper.pid()))
            .args(["--mount", "--net", "--", program]);
        self.bench.cgroup.attach(&mut command);
        command
    }

    /// Runs one line of a shell inside it.
    pub(crate) fn shell(&self, line: &str) -> Output {
        let mut command = self.command("sh");
        command.args(["-c", line]);
        output_within(command, PATIENCE).unwrap()
    }

    /// The same; it has to succeed.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) {
        let output = self.shell(line);
        assert!(output.status.success(), "{line}: {output:?}");
    }

    /// `leakguard doctor`, with more arguments.
    pub(crate) fn doctor(&mut self, arguments: &[&str]) -> Output {
        let mut command = self.command(agent_binary().to_str().unwrap());
        command.arg("doctor").args(arguments);
        command.arg("--bpffs").arg(self.bench.bpffs.path());
        if self.bench.is_protected() {
            let control = self.bench.agent().control();
            command.arg("--control").arg(control);
        }
        output_within(command, PATIENCE).unwrap()
    }

    /// What it reports.
    #[track_caller]
    pub(crate) fn report(&mut self, arguments: &[&str]) -> Value {
        let output = self.doctor(&[&["--json"], arguments].concat());
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let expected = if report["worst"] == "problem" { 3 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{report:#}");
        report
    }

    /// What it finds of this machine, but for what is the whole computer's, and what the lab opens on purpose.
    #[track_caller]
    pub(crate) fn findings(&mut self, arguments: &[&str]) -> Vec<Value> {
        const COMPUTER: [&str; 7] = [
            "kernel",
            "privileges",
            "cpu",
            "network",
            "clock",
            "browsers",
            "open-ways",
        ];
        let report = self.report(arguments);
        let findings = report["findings"].as_array().unwrap().iter();
        findings
            .filter(|finding| {
                !COMPUTER
                    .iter()
                    .any(|subject| finding["subject"] == *subject)
            })
            .cloned()
            .collect()
    }
}

/// The names of findings.
pub(crate) fn ids(findings: &[Value]) -> BTreeSet<&str> {
    let ids = findings.iter().map(|finding| finding["id"].as_str());
    ids.map(Option::unwrap).collect()
}

/// Makes a file changeable again, so that it can be removed.
pub(crate) struct Mutable(pub(crate) PathBuf);

impl Drop for Mutable {
    fn drop(&mut self) {
        let mut chattr = Command::new("chattr");
        chattr.arg("-i").arg(&self.0);
        if let Err(error) = output_within(chattr, PATIENCE) {
            log_failure(&error.to_string());
        }
    }
}

#[expect(clippy::print_stderr, reason = "a test tells what it leaves behind")]
fn log_failure(error: &str) {
    eprintln!("chattr -i: {error}");
}
