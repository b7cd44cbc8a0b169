//! After `purge` the machine is as it was before leakguard.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod device;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use device::{PATIENCE, Run};
use leakguard::lab::{Cgroup, Daemon, Topology, wait_until};
use leakguard_tests::agent_binary;
use nix::errno::Errno;
use nix::libc;
use serde_json::Value;
use tempfile::TempDir;

const CONFIGURATION: &str = "/etc/leakguard/leakguard.toml";

/// A machine whose mounts, `/run`, `/var/lib` and `/etc/leakguard` are its own, so that leakguard can be used on it with
/// all its defaults.
struct Machine {
    holder: Daemon,
    files: TempDir,
    cgroup: Cgroup,
    topology: Topology,
}

impl Machine {
    /// `prepare` is a shell script that runs in it first.
    fn new(prepare: &str) -> Self {
        let topology = Topology::with_client().unwrap();
        topology
            .host()
            .ip_batch("tuntap add tun0 mode tun\nlink set tun0 up\naddr add 10.8.0.2/24 dev tun0\n")
            .unwrap();
        let files = tempfile::tempdir().unwrap();
        fs::write(files.path().join("leakguard.toml"), "preflight = \"off\"\n").unwrap();
        let script = format!(
            "set -e; mount --make-rprivate /; umount -l /sys/fs/bpf 2>/dev/null || true; \
             mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/lib; mount -t tmpfs tmpfs /etc; \
             mkdir /etc/leakguard; cp \"$1/leakguard.toml\" /etc/leakguard/; {prepare}\n\
             touch \"$1/ready\"; exec sleep infinity"
        );
        let mut command = topology.host().command("unshare");
        command
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(files.path());
        let mut holder = Daemon::start(command, files.path()).unwrap();
        wait_until("the machine is ready", PATIENCE, || {
            holder.check_running()?;
            Ok(files.path().join("ready").exists())
        })
        .unwrap();
        Self {
            holder,
            files,
            cgroup: Cgroup::new("purge").unwrap(),
            topology,
        }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = self.topology.host().command("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.pid()));
        command.arg(program).args(arguments);
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        Run::of(self.command(program, arguments)).ok().to_owned()
    }

    fn leakguard(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(agent_binary(), arguments))
    }

    fn enforce(&self, verb: &str, more: &[&str]) -> Command {
        let cgroup = self.cgroup.path().to_str().unwrap();
        let all = [verb, "--tunnel", "tun0", "--cgroup", cgroup];
        let redirect = ["--redirect", "10.8.0.1", "--redirect", "fd08::1"];
        let arguments = [&all[..], &redirect, more].concat();
        self.command(agent_binary(), &arguments)
    }

    fn agent(&self) -> Daemon {
        let logs = self.files.path().join("agent");
        fs::create_dir_all(&logs).unwrap();
        let mut agent = Daemon::start(self.enforce("run", &[]), &logs).unwrap();
        wait_until("the agent answers", PATIENCE, || {
            agent.check_running()?;
            Ok(self.status()["agent"].is_number())
        })
        .unwrap();
        agent
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.leakguard(&["status", "--json"]).stdout).unwrap()
    }

    /// Where a path of this machine is for the test.
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.pid()))
    }

    /// Everything that leakguard could have changed.
    fn look(&self) -> BTreeMap<&'static str, String> {
        let shell = |script: &str| self.run("sh", &["-c", script]);
        BTreeMap::from([
            ("qdiscs", self.run("tc", &["qdisc", "show"])),
            (
                "filters",
                shell(
                    "for dev in $(ls /proc/sys/net/ipv4/conf); do for end in ingress egress; do \
                     echo $dev $end; tc filter show dev $dev $end 2>/dev/null || true; done; done",
                ),
            ),
            ("nftables", self.run("nft", &["-s", "list", "ruleset"])),
            ("mounts", self.mounts()),
            (
                "files",
                shell("find /run /var/lib /etc /sys/fs/bpf -printf '%p %y %m %U %s\\n' | sort"),
            ),
            // The count of connections is the one value that changes by itself.
            (
                "sysctls",
                shell("grep -rs '' /proc/sys/net | grep -v nf_conntrack_count | sort"),
            ),
            ("links", self.run("ip", &["-o", "link"])),
        ])
    }

    /// Without those of labs that other tests build and take down meanwhile.
    fn mounts(&self) -> String {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.pid())).unwrap();
        let others = |line: &&str| !line.contains("/leakguard-");
        table.lines().filter(others).collect::<Vec<_>>().join("\n")
    }

    /// The numbers of all links, programs and maps that enforce: what is pinned, and what the agent holds.
    fn objects(&self, agent: Option<&Daemon>) -> BTreeSet<(String, u32)> {
        let mut found = BTreeSet::new();
        let root = self.path("/sys/fs/bpf/leakguard");
        let mut pending = vec![root];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    pending.push(path);
                } else {
                    let pinned = object_get(&path);
                    let number = std::os::fd::AsRawFd::as_raw_fd(&pinned);
                    found.extend(numbers(Path::new(&format!("/proc/self/fdinfo/{number}"))));
                }
            }
        }
        if let Some(agent) = agent {
            for entry in fs::read_dir(format!("/proc/{}/fdinfo", agent.pid())).unwrap() {
                found.extend(numbers(&entry.unwrap().path()));
            }
        }
        found
    }
}

fn object_get(path: &Path) -> OwnedFd {
    const BPF_OBJ_GET: libc::c_long = 7;
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // The start of `union bpf_attr`: a pointer to the path.
    let attributes = [path.as_ptr() as u64, 0];
    // SAFETY: the attributes are as long as said and point to a path that lives as long as the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, attributes.as_ptr(), 16) };
    let fd = i32::try_from(Errno::result(fd).unwrap()).unwrap();
    // SAFETY: the kernel has just made this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The objects that a descriptor's information names.
fn numbers(fdinfo: &Path) -> Vec<(String, u32)> {
    let text = fs::read_to_string(fdinfo).unwrap_or_default();
    let named = |line: &str| {
        let (key, value) = line.split_once(":\t")?;
        let kind = key.strip_suffix("_id")?;
        ["link", "prog", "map"]
            .contains(&kind)
            .then(|| (kind.to_owned(), value.trim().parse().unwrap()))
    };
    text.lines().filter_map(named).collect()
}

/// Whether an object is still in the kernel.
fn exists((kind, id): &(String, u32)) -> bool {
    let command: libc::c_long = match kind.as_str() {
        "prog" => 13,
        "map" => 14,
        _ => 30,
    };
    let attributes = [u64::from(*id), 0];
    // SAFETY: the attributes are as long as said, and begin with a number.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), 16) };
    match Errno::result(fd) {
        Ok(fd) => {
            // SAFETY: the kernel has just made this descriptor.
            drop(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) });
            true
        }
        Err(error) => {
            assert_eq!(error, Errno::ENOENT);
            false
        }
    }
}

#[track_caller]
fn assert_same(before: &BTreeMap<&str, String>, after: &BTreeMap<&str, String>) {
    for (what, text) in before {
        let (before, after): (BTreeSet<_>, BTreeSet<_>) =
            (text.lines().collect(), after[what].lines().collect());
        let gone: Vec<_> = before.difference(&after).collect();
        let new: Vec<_> = after.difference(&before).collect();
        assert!(
            gone.is_empty() && new.is_empty(),
            "{what}: gone {gone:#?}, new {new:#?}"
        );
    }
}

/// Purges what is enforced, and compares.
fn purge(machine: &Machine, before: &BTreeMap<&str, String>, objects: &BTreeSet<(String, u32)>) {
    let during = machine.look();
    for what in ["nftables", "files"] {
        assert_ne!(during[what], before[what], "control: {what} are changed");
    }
    for table in ["table ip leakguard", "table ip6 leakguard"] {
        let nftables = &during["nftables"];
        assert!(nftables.contains(table), "control: {table}: {nftables}");
    }
    for kind in ["link", "prog", "map"] {
        let of_kind = objects.iter().filter(|object| object.0 == kind);
        let alive = of_kind.filter(|object| exists(object)).count();
        assert!(alive > 0, "control: there are objects: {objects:?}");
    }
    let purged = machine.leakguard(&["purge"]);
    let text = purged.ok();
    assert!(text.starts_with("removed: enforcement"), "{text}");
    assert!(
        text.ends_with(&format!("kept: {CONFIGURATION}, which is yours")),
        "{text}"
    );
    assert_same(before, &machine.look());
    // The kernel frees them after a grace period.
    wait_until("the kernel has freed everything", PATIENCE, || {
        Ok(!objects.iter().any(exists))
    })
    .unwrap();
    let again = machine.leakguard(&["purge"]);
    assert!(again.ok().starts_with("nothing was left\n"), "{again:?}");
    assert_same(before, &machine.look());
}

/// Things of others that could be taken for leakguard's, or be in its way.
const FOREIGN: &str = "nft 'add table inet other; add chain inet other forward { type filter hook forward priority 0; }; \
                       add rule inet other forward tcp dport 53 accept; add table bridge leakguard2'; \
                       tc qdisc add dev eth0 clsact; \
                       tc filter add dev eth0 egress protocol ip prio 7 u32 match u32 0 0 flowid 1:1; \
                       tc qdisc add dev cont0 clsact";

#[test]
fn with_a_running_agent_nothing_is_left() {
    let machine = Machine::new(FOREIGN);
    let before = machine.look();
    assert!(before["filters"].contains("u32"), "control: {before:?}");
    let mut agent = machine.agent();
    let mounts = machine.look()["mounts"].clone();
    assert!(
        mounts
            .lines()
            .any(|line| line.contains(" /sys/fs/bpf ") && line.contains(" - bpf leakguard ")),
        "control: leakguard has mounted it: {mounts}"
    );
    let objects = machine.objects(Some(&agent));
    purge(&machine, &before, &objects);
    let mut ended = None;
    wait_until("the agent ends", PATIENCE, || {
        ended = agent.exit_status()?;
        Ok(ended.is_some())
    })
    .unwrap();
    assert_eq!(
        ended.unwrap().code(),
        Some(5),
        "whoever keeps it running is told not to start it again"
    );
}

#[test]
fn with_a_killed_agent_nothing_is_left() {
    let machine = Machine::new(FOREIGN);
    let before = machine.look();
    let mut agent = machine.agent();
    let objects = machine.objects(Some(&agent));
    agent.kill().unwrap();
    assert!(
        machine.path("/run/leakguard/control.sock").exists(),
        "control: it has left its socket"
    );
    purge(&machine, &before, &objects);
}

#[test]
fn without_an_agent_nothing_is_left() {
    let machine = Machine::new(FOREIGN);
    let before = machine.look();
    Run::of(machine.enforce("apply", &[])).ok();
    let objects = machine.objects(None);
    purge(&machine, &before, &objects);
}

#[test]
fn during_a_trial_nothing_is_left() {
    let machine = Machine::new("");
    let before = machine.look();
    Run::of(machine.enforce("apply", &["--confirm", "1h"])).ok();
    let objects = machine.objects(None);
    assert_eq!(machine.status()["confirmation"]["state"], "pending");
    purge(&machine, &before, &objects);
}

#[test]
fn what_belongs_to_others_stays() {
    // A bpffs of the machine's own with something in it, and a file in leakguard's directories.
    let machine = Machine::new(
        "mount -t bpf bpf /sys/fs/bpf; mkdir /sys/fs/bpf/other; mkdir -m 700 /run/leakguard; \
         touch /run/leakguard/theirs",
    );
    let before = machine.look();
    Run::of(machine.enforce("apply", &[])).ok();
    let objects = machine.objects(None);
    let during = machine.look();
    assert_ne!(during["files"], before["files"], "control");
    let purged = machine.leakguard(&["purge"]);
    assert!(
        purged
            .ok()
            .contains("kept: /run/leakguard, which holds files of others"),
        "{purged:?}"
    );
    assert_same(&before, &machine.look());
    wait_until("the kernel has freed everything", PATIENCE, || {
        Ok(!objects.iter().any(exists))
    })
    .unwrap();
}

#[test]
fn a_bpffs_that_others_use_meanwhile_stays_mounted() {
    let machine = Machine::new("mkdir -p /var/lib/leakguard/journal");
    Run::of(machine.enforce("apply", &[])).ok();
    machine.run("mkdir", &["/sys/fs/bpf/other"]);
    let purged = machine.leakguard(&["purge"]);
    let text = purged.ok();
    assert!(
        text.contains(
            "kept: the bpffs at /sys/fs/bpf, which leakguard had mounted, because others"
        ),
        "{text}"
    );
    assert!(text.contains("removed: /var/lib/leakguard"), "{text}");
    assert!(machine.path("/sys/fs/bpf/other").exists());
    machine.run("rmdir", &["/sys/fs/bpf/other"]);
    let text = machine.leakguard(&["purge"]).ok().to_owned();
    assert!(
        text.starts_with("removed: the bpffs at /sys/fs/bpf"),
        "{text}"
    );
    assert!(
        machine
            .leakguard(&["purge"])
            .ok()
            .starts_with("nothing was left")
    );
}

#[test]
fn it_takes_the_right_to_do_it() {
    let machine = Machine::new("");
    Run::of(machine.enforce("apply", &[])).ok();
    let before = machine.look();
    let binary = machine.files.path().join("leakguard");
    fs::set_permissions(
        machine.files.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    machine.run(
        "install",
        &[
            "-m",
            "755",
            agent_binary().to_str().unwrap(),
            binary.to_str().unwrap(),
        ],
    );
    let stranger = machine.command(
        "setpriv",
        &[
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            binary.to_str().unwrap(),
            "purge",
        ],
    );
    Run::of(stranger).refused(4, &["run leakguard as root"]);
    assert_same(&before, &machine.look());
    machine.leakguard(&["purge"]).ok();
}
