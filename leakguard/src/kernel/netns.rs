//! The identity of the managed network namespace: an interface number means nothing outside its own.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use leakguard_common::abi::SOCKET_HEAD;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::KernelError;
use super::btf::Btf;

/// `SO_NETNS_COOKIE` (`include/uapi/asm-generic/socket.h`, since 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The current namespace, in the two forms that programs can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Unique since boot; 0 on kernels before 5.14, which have no way to ask.
    pub cookie: u64,
    /// The inode of the namespace's file; reused after the namespace is gone.
    pub inode: u32,
}

impl Identity {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, KernelError> {
        const FILE: &str = "/proc/thread-self/ns/net";
        let inode = std::fs::metadata(FILE)
            .map_err(KernelError::call("stat", FILE))?
            .ino();
        let inode = u32::try_from(inode)
            .map_err(io::Error::other)
            .map_err(KernelError::call("stat", FILE))?;
        let cookie = cookie().map_err(KernelError::call("getsockopt(SO_NETNS_COOKIE)", FILE))?;
        Ok(Self { cookie, inode })
    }
}

fn cookie() -> io::Result<u64> {
    cookie_of(&socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// Whether this is the cookie of the calling thread's namespace; also where the kernel cannot say (0).
pub fn is_current(found: u64) -> bool {
    cookie().is_ok_and(|current| current == found)
}

/// The cookie of the namespace that a socket belongs to.
pub fn cookie_of(socket: &OwnedFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: `cookie` is `len` writable bytes, and the descriptor is open.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        return Ok(cookie);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(0),
        error => Err(error),
    }
}

/// Where the running kernel keeps a socket's namespace, a namespace's inode, and what names a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// Bytes from the start of `struct sock_common` to `skc_net`.
    pub skc_net: u32,
    /// Bytes from the start of `struct net` to `ns.inum`.
    pub net_inum: u32,
    /// Bytes from the start of `struct task_struct` to `group_leader`.
    pub leader: u32,
    /// Bytes from the start of `struct task_struct` to `tgid`.
    pub tgid: u32,
    /// Bytes from the start of `struct task_struct` to `comm`.
    pub comm: u32,
}

impl Offsets {
    /// Reads them from the kernel's type information; `None` if it has none, or nothing that the program can use.
    pub fn from_btf(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let btf = Btf::parse(&bytes)?;
        let skc_net = btf.offset("sock_common", "skc_net")?;
        let end = usize::try_from(skc_net)
            .ok()?
            .checked_add(size_of::<u64>())?;
        if end > SOCKET_HEAD {
            return None;
        }
        Some(Self {
            skc_net,
            net_inum: btf
                .offset("net", "ns")?
                .checked_add(btf.offset("ns_common", "inum")?)?,
            leader: btf.offset("task_struct", "group_leader")?,
            tgid: btf.offset("task_struct", "tgid")?,
            comm: btf.offset("task_struct", "comm")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_namespace_has_an_identity() {
        let identity = Identity::current().unwrap();
        assert_ne!(identity.inode, 0);
        assert_eq!(identity, Identity::current().unwrap());
    }

    #[test]
    fn a_file_that_is_no_btf_has_no_offsets() {
        assert_eq!(Offsets::from_btf(Path::new("/proc/self/status")), None);
    }
}
