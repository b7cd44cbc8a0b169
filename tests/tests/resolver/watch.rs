//! The agent sees who changes what was set up, puts it back a few times, and then only reports.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use leakguard::lab::{Cgroup, Daemon, Topology, output_within, wait_until};
use leakguard_tests::agent_binary;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A machine whose `/etc`, `/run` and `/var/lib` are its own, with an agent.
struct Machine {
    // Declared in the order in which they go.
    agent: Daemon,
    holder: Daemon,
    topology: Topology,
    _cgroup: Cgroup,
    _files: TempDir,
}

impl Machine {
    /// `apply` are options of `leakguard resolver apply`.
    fn new(apply: &str) -> Self {
        let topology = Topology::new().unwrap();
        topology
            .host()
            .ip_batch("tuntap add tun0 mode tun\nlink set tun0 up\naddr add 10.8.0.2/24 dev tun0\n")
            .unwrap();
        let files = tempfile::tempdir().unwrap();
        let script = "set -e; mount --make-rprivate /; umount -l /sys/fs/bpf 2>/dev/null || true; \
                      mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/lib; mount -t tmpfs tmpfs /etc; \
                      mount -t tmpfs tmpfs /root; echo 'nameserver 192.0.2.53' >/etc/resolv.conf; \
                      touch \"$1/ready\"; exec sleep infinity";
        let mut command = topology.host().command("unshare");
        command
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(files.path());
        let mut holder = Daemon::start(command, files.path()).unwrap();
        wait_until("the machine is ready", LIMIT, || {
            holder.check_running()?;
            Ok(files.path().join("ready").exists())
        })
        .unwrap();
        let cgroup = Cgroup::new("resolver-watch").unwrap();
        let words = ["resolver", "apply", "--server", "10.8.0.1"];
        let mut command = within(&topology, &holder, agent_binary());
        command.args(words).args(apply.split_whitespace());
        let applied = output_within(command, LIMIT).unwrap();
        assert!(applied.status.success(), "{applied:?}");

        let mut command = within(&topology, &holder, agent_binary());
        command
            .args(["run", "--tunnel", "tun0", "--cgroup"])
            .arg(cgroup.path());
        let mut agent = Daemon::start(command, files.path()).unwrap();
        let descriptors = PathBuf::from(format!("/proc/{}/fd", agent.pid()));
        wait_until("the agent watches", LIMIT, || {
            agent.check_running()?;
            let open = fs::read_dir(&descriptors).into_iter().flatten().flatten();
            Ok(open
                .filter_map(|open| fs::read_link(open.path()).ok())
                .any(|target| target.to_string_lossy().contains("fanotify")))
        })
        .unwrap();
        Self {
            agent,
            holder,
            topology,
            _cgroup: cgroup,
            _files: files,
        }
    }

    fn run(&self, program: impl AsRef<std::ffi::OsStr>, words: &[&str]) -> String {
        let mut command = within(&self.topology, &self.holder, program);
        command.args(words);
        let output = output_within(command, LIMIT).unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn resolv_conf(&self) -> String {
        let path = format!("/proc/{}/root{RESOLV_CONF}", self.holder.pid());
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Does what the script of a DHCP client does; it is alive while it is looked at.
    fn rewrite(&self, server: &str) -> String {
        let script = "new=/etc/resolv.conf.dhclient-new.$$; chattr -i /etc/resolv.conf; rm /etc/resolv.conf; \
                      echo \"nameserver $1\" >$new; mv $new /etc/resolv.conf; echo $$; sleep 0.3";
        self.run("sh", &["-c", script, "dhclient-script", server])
    }

    fn notices(&self) -> Vec<String> {
        let text = self.agent.stdout();
        let about = |line: &&str| line.contains(" resolver ") && line.contains(RESOLV_CONF);
        text.lines().filter(about).map(str::to_owned).collect()
    }

    fn await_notices(&self, count: usize) {
        wait_until(&format!("{count} notices"), LIMIT, || {
            Ok(self.notices().len() >= count)
        })
        .unwrap_or_else(|error| panic!("{error}: {:?} {}", self.notices(), self.agent.stderr()));
    }
}

fn within(topology: &Topology, holder: &Daemon, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = topology.host().command("nsenter");
    command
        .arg(format!("--mount=/proc/{}/ns/mnt", holder.pid()))
        .arg(program);
    command
}

#[test]
fn what_is_rewritten_is_put_back_five_times_and_then_reported() {
    let machine = Machine::new("--strategy static");
    let wanted = machine.resolv_conf();
    assert!(wanted.contains("nameserver 10.8.0.1"), "{wanted}");
    for round in 1..=5 {
        let pid = machine.rewrite(&format!("192.0.2.{round}"));
        machine.await_notices(round);
        let notice = &machine.notices()[round - 1];
        let writer = format!("by sh (process {})", pid.trim());
        assert!(
            notice.contains("was changed") && notice.contains(&writer),
            "{notice}"
        );
        assert!(notice.contains("put back"), "{notice}");
        assert_eq!(machine.resolv_conf(), wanted);
        let kept = format!("cat /var/lib/leakguard/resolver/kept/etc-resolv.conf.{round}");
        assert_eq!(
            machine.run("sh", &["-c", &kept]),
            format!("nameserver 192.0.2.{round}\n")
        );
    }
    machine.rewrite("192.0.2.6");
    machine.await_notices(6);
    let notice = &machine.notices()[5];
    assert!(
        notice.contains("left as it is: it was put back 5 times in 10 minutes"),
        "{notice}"
    );
    assert_eq!(machine.resolv_conf(), "nameserver 192.0.2.6\n");
    // It is said once.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(machine.notices().len(), 6);
    let status = machine.run(agent_binary(), &["status", "--json"]);
    assert!(status.contains(r#""resolver_restores":5"#), "{status}");

    let purged = machine.run(agent_binary(), &["purge"]);
    assert!(purged.contains("put back: /etc/resolv.conf"), "{purged}");
    assert!(
        purged.contains("kept: /var/lib/leakguard/resolver/kept"),
        "{purged}"
    );
    assert_eq!(machine.resolv_conf(), "nameserver 192.0.2.53\n");
}

#[test]
fn without_watch_it_is_only_reported() {
    let machine = Machine::new("--strategy static --no-watch");
    machine.rewrite("192.0.2.1");
    machine.await_notices(1);
    assert!(
        machine.notices()[0].contains("left as it is"),
        "{:?}",
        machine.notices()
    );
    assert_eq!(machine.resolv_conf(), "nameserver 192.0.2.1\n");
    // What is right again is no news, and what is wrong again is.
    machine.run(
        agent_binary(),
        &[
            "resolver",
            "apply",
            "--server",
            "10.8.0.1",
            "--strategy",
            "static",
            "--no-watch",
        ],
    );
    machine.run("sleep", &["6"]);
    machine.rewrite("192.0.2.2");
    machine.await_notices(2);
}
