//! Podman with netavark, with nothing of the machine's own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use leakguard::host::cgroup2_root;
use leakguard::lab::{Cgroup, Daemon, Netns, output_within, wait_until};
use tempfile::TempDir;

use super::Origin;

/// How long one of its commands may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Where it keeps its state: in memory that only it sees.
const STATE: &str = "/run/leakguard-lab";

/// The user of a rootless engine and its group: `nobody` and `nogroup`.
const USER: &str = "65534";

/// Replaces what the engine must not touch: its state is in a `/run` of its own, the cgroups are those of version 2
/// whatever the machine has, a TUN device is anybody's, as udev makes it, and the resolver is the one that is given.
const HOLD: &str = r#"
set -e
chown -R "$2:$2" "$1"
mount -t tmpfs tmpfs /run
mkdir -m 700 "$3"
chown "$2:$2" "$3"
mount -t tmpfs tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
mount -t cgroup2 cgroup2 /sys/fs/cgroup
resolv=$(readlink -m /etc/resolv.conf)
mkdir -p "${resolv%/*}"
[ -e "$resolv" ] || : >"$resolv"
mount --bind "$1/resolv.conf" "$resolv"
: >"$1/ready"
exec sleep infinity
"#;

/// A container engine on a host of the lab.
///
/// Its containers and helpers have process numbers and mounts of their own, which end with the process that holds
/// them. Their cgroups are below the one that is given.
#[derive(Debug)]
pub struct Podman {
    // Declared in the order in which they go.
    holder: Daemon,
    engine: Cgroup,
    containers: Cgroup,
    directory: TempDir,
    /// Whether it is an unprivileged user's.
    rootless: bool,
}

/// A running container.
#[derive(Debug)]
pub struct Container<'lab> {
    podman: &'lab Podman,
    name: String,
    netns: Netns,
    cgroup: Cgroup,
}

impl Podman {
    /// Prepares it on `host`, which asks `resolvers` for names.
    pub fn new(host: &Netns, cgroup: &Cgroup, resolvers: &[String]) -> Self {
        Self::start(host, cgroup, resolvers, false)
    }

    /// Prepares that of an unprivileged user. Its containers stay in the cgroup that they are started from.
    pub fn rootless(host: &Netns, cgroup: &Cgroup, resolvers: &[String]) -> Self {
        Self::start(host, cgroup, resolvers, true)
    }

    fn start(host: &Netns, cgroup: &Cgroup, resolvers: &[String], rootless: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write_files(directory.path(), resolvers);
        let engine = cgroup.below("engine").unwrap();
        let mut hold = host.command("unshare");
        // Slave: a namespace that is deleted outside must vanish here too.
        hold.args(["--mount", "--propagation=slave", "--pid", "--fork"]);
        hold.args(["--kill-child", "--mount-proc", "sh", "-c", HOLD, "sh"]);
        hold.arg(directory.path());
        hold.args([if rootless { USER } else { "0" }, STATE]);
        engine.attach(&mut hold);
        let mut holder = Daemon::start(hold, directory.path()).unwrap();
        wait_until("the engine's namespaces are there", LIMIT, || {
            holder.check_running()?;
            Ok(directory.path().join("ready").exists())
        })
        .unwrap();
        Self {
            holder,
            engine,
            containers: cgroup.below("containers").unwrap(),
            directory,
            rootless,
        }
    }

    /// Runs one of its commands, which has to succeed; gives what it wrote.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        succeeded(self.attempt(arguments), arguments)
    }

    /// Runs one of its commands, whatever comes of it.
    pub fn attempt(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args([
            "--mount",
            "--pid",
            "--net",
            "--target",
            &self.first_process(),
        ]);
        if self.rootless {
            command.args([
                "setpriv",
                "--reuid",
                USER,
                "--regid",
                USER,
                "--clear-groups",
            ]);
        }
        command
            .args(["podman", "--network-config-dir"])
            .arg(format!("{STATE}/networks"))
            .args(["--runtime=runc", "--cgroup-manager=cgroupfs"])
            .arg("--events-backend=none")
            .args(arguments);
        self.isolate(&mut command);
        output_within(command, LIMIT).unwrap()
    }

    /// Starts a container that has the machine's programs and does nothing by itself.
    #[track_caller]
    pub fn container(&self, name: &str, network: &str) -> Container<'_> {
        let rootfs = self.directory.path().join("rootfs");
        self.run_container(&[
            "--detach",
            "--name",
            name,
            "--network",
            network,
            "--volume=/usr:/usr:ro",
            "--rootfs",
            rootfs.to_str().unwrap(),
            "sleep",
            "infinity",
        ]);
        let pid = self.process_of(name);
        Container {
            podman: self,
            name: name.to_owned(),
            netns: Netns::of_process(name, pid).unwrap(),
            cgroup: Cgroup::of_process(pid).unwrap(),
        }
    }

    /// Runs a container with these arguments of `podman run`, whatever comes of it.
    pub fn attempt_run(&self, arguments: &[&str]) -> Output {
        let parent = self.cgroup_parent();
        let mut all = vec!["run"];
        all.extend(parent.as_deref());
        all.extend([
            "--pids-limit=0",
            // The machine's own limits may be lower than podman's, which not everybody may raise.
            "--ulimit=nofile=4096:4096",
            "--ulimit=nproc=4096:4096",
        ]);
        all.extend(arguments);
        self.attempt(&all)
    }

    /// The same, and it has to succeed.
    #[track_caller]
    pub fn run_container(&self, arguments: &[&str]) {
        succeeded(self.attempt_run(arguments), arguments);
    }

    /// Nothing of the caller's configuration, and the cgroup that its helpers stay in.
    fn isolate(&self, command: &mut Command) {
        let path = self.directory.path();
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", STATE)
            .env("XDG_RUNTIME_DIR", STATE)
            .env("CONTAINERS_CONF", path.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", path.join("storage.conf"));
        self.engine.attach(command);
    }

    /// The first process of its namespace, by its number outside.
    fn first_process(&self) -> String {
        let holder = self.holder.pid();
        fs::read_to_string(format!("/proc/{holder}/task/{holder}/children"))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// Where its containers' cgroups are to be.
    fn cgroup_parent(&self) -> Option<String> {
        let root = cgroup2_root().unwrap();
        let path = self.containers.path().strip_prefix(root).unwrap();
        (!self.rootless).then(|| format!("--cgroup-parent=/{}", path.display()))
    }

    /// The process of a container, by its number outside.
    fn process_of(&self, name: &str) -> u32 {
        let number = self.run(&["inspect", "--format={{.State.Pid}}", name]);
        // The engine knows it by the number in its own namespace, which is the second of those that it has.
        let is_it = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
                let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
                numbers.and_then(|numbers| numbers.split_whitespace().nth(1)) == Some(&number)
            })
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        // Other engines count from 1 as well.
        let ours = |pid: &u32| self.holds(*pid);
        pids.find(|pid| ours(pid) && is_it(pid)).unwrap()
    }

    /// Whether a process is in one of its cgroups.
    fn holds(&self, pid: u32) -> bool {
        let cgroups = [&self.engine, &self.containers].map(Cgroup::path);
        // It may have ended.
        Cgroup::of_process(pid).is_ok_and(|cgroup| {
            let path = cgroup.path();
            cgroups.iter().any(|ours| path.starts_with(ours))
        })
    }
}

impl Container<'_> {
    /// Where its sockets are made.
    pub fn origin(&self) -> Origin<'_> {
        Origin {
            netns: &self.netns,
            cgroup: Some(&self.cgroup),
        }
    }

    /// Runs a program inside it, which has to succeed; gives what it wrote.
    #[track_caller]
    pub fn exec(&self, words: &[&str]) -> String {
        self.podman.run(&[&["exec", &self.name], words].concat())
    }
}

/// What a command that has to succeed wrote.
#[track_caller]
fn succeeded(output: Output, arguments: &[&str]) -> String {
    assert!(
        output.status.success(),
        "podman {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The engine's configuration, and a root for containers: empty but for links to where `/usr` will be.
fn write_files(directory: &Path, resolvers: &[String]) {
    let lines: Vec<_> = resolvers
        .iter()
        .map(|address| format!("nameserver {address}\n"))
        .collect();
    fs::write(directory.join("resolv.conf"), lines.concat()).unwrap();
    fs::write(
        directory.join("containers.conf"),
        "[network]\nnetwork_backend = \"netavark\"\n",
    )
    .unwrap();
    fs::write(
        directory.join("storage.conf"),
        format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{STATE}/root\"\nrunroot = \"{STATE}/run\"\n"
        ),
    )
    .unwrap();
    let rootfs = directory.join("rootfs");
    for name in ["usr", "etc", "proc", "sys", "dev", "tmp", "run", "var"] {
        fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(Path::new("usr").join(name), rootfs.join(name)).unwrap();
    }
    fs::write(rootfs.join("etc/nsswitch.conf"), "hosts: files dns\n").unwrap();
}
