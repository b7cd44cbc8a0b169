use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::{fs, panic, thread};

use nix::sched::{CloneFlags, setns, unshare};

use super::process::{run, run_with_input};
use super::{LabError, unique_name};

/// A named network namespace, deleted when dropped.
///
/// `ip netns` and `nsenter --net=/run/netns/NAME` see it. The lab itself never uses `ip netns
/// exec`: that mounts a new `/sys`, without cgroups and bpffs.
#[derive(Debug)]
pub struct Netns {
    name: String,
    handle: NetnsHandle,
}

impl Netns {
    /// Creates a namespace with `lo` up, whose name ends in `label`.
    pub fn new(label: &str) -> Result<Self, LabError> {
        let netns = Self::named(label, "add", None)?;
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Gives the namespace of a process a name that ends in `label`; it lives as long as either.
    pub fn of_process(label: &str, pid: u32) -> Result<Self, LabError> {
        Self::named(label, "attach", Some(pid))
    }

    fn named(label: &str, verb: &str, pid: Option<u32>) -> Result<Self, LabError> {
        let name = unique_name(label);
        let mut ip = Command::new("ip");
        ip.args(["netns", verb, &name]);
        ip.args(pid.map(|pid| pid.to_string()));
        run(ip)?;
        // From here on the guard deletes it, also if the rest fails.
        let path = Path::new("/run/netns").join(&name);
        let guard = NameGuard(&name);
        let file = File::open(&path).map_err(LabError::io(format!("open {}", path.display())))?;
        std::mem::forget(guard);
        Ok(Self {
            name,
            handle: NetnsHandle(Arc::new(file)),
        })
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `closure` on a fresh thread inside the namespace and waits for it; a panic is passed
    /// on.
    ///
    /// Only the network namespace changes: mounts, cgroups and `/sys` stay those of the caller.
    pub fn run_in<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.handle.run_in(closure)
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.handle.command(program)
    }

    /// Runs one `ip` command line inside the namespace, such as `["link", "del", "eth0"]`.
    pub fn ip(&self, arguments: &[&str]) -> Result<String, LabError> {
        let mut ip = self.command("ip");
        ip.args(arguments);
        run(ip)
    }

    /// Runs several `ip` command lines inside the namespace, without the word `ip`; stops at the
    /// first that fails.
    pub fn ip_batch(&self, lines: &str) -> Result<(), LabError> {
        self.handle.ip_batch(lines)
    }

    /// Sets a network parameter, such as `net.ipv4.ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        self.handle.sysctl(key, value)
    }

    pub(super) fn handle(&self) -> &NetnsHandle {
        &self.handle
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(NameGuard(&self.name));
    }
}

/// A namespace to start programs in, which keeps it alive but not its name.
#[derive(Clone, Debug)]
pub(crate) struct NetnsHandle(Arc<File>);

impl NetnsHandle {
    /// A new namespace without a name: it goes, with all that is in it, when nobody holds it any more, be it that this
    /// process was killed.
    pub(crate) fn anonymous() -> Result<Self, LabError> {
        let worker = thread::Builder::new()
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)
                    .map_err(LabError::syscall("unshare", "CLONE_NEWNET"))?;
                Self::current()
            })
            .map_err(LabError::Thread)?;
        worker
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// That of the calling thread.
    pub(crate) fn current() -> Result<Self, LabError> {
        const FILE: &str = "/proc/thread-self/ns/net";
        let file = File::open(FILE).map_err(LabError::io(format!("open {FILE}")))?;
        Ok(Self(Arc::new(file)))
    }

    /// A path that programs started by this process can open it by.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// See [`Netns::run_in`].
    pub(crate) fn run_in<T: Send>(
        &self,
        closure: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .spawn_scoped(scope, || {
                    setns(&*self.0, CloneFlags::CLONE_NEWNET)
                        .map_err(LabError::syscall("setns", "a network namespace"))?;
                    Ok(closure())
                })
                .map_err(LabError::Thread)?;
            worker
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }

    /// See [`Netns::sysctl`].
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        // The kernel shows a thread the parameters of the thread's own namespace.
        self.run_in(|| fs::write(&path, value))?
            .map_err(LabError::io(format!("set {key} to {value}")))
    }

    /// See [`Netns::ip_batch`].
    pub(crate) fn ip_batch(&self, lines: &str) -> Result<(), LabError> {
        let mut ip = self.command("ip");
        ip.args(["-batch", "-"]);
        run_with_input(ip, lines).map(drop)
    }

    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let netns = Arc::clone(&self.0);
        // SAFETY: setns is async-signal-safe, and the closure neither allocates nor locks.
        unsafe {
            command.pre_exec(move || {
                setns(&*netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
            });
        }
        command
    }
}

/// Deletes a named namespace when dropped.
struct NameGuard<'a>(&'a str);

impl Drop for NameGuard<'_> {
    fn drop(&mut self) {
        let mut delete = Command::new("ip");
        delete.args(["netns", "del", self.0]);
        if let Err(error) = run(delete) {
            log::warn!("{error}");
        }
    }
}
