//! Who holds which socket, out of /proc.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::libc;
use serde::Serialize;

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its command name.
    pub name: String,
}

/// The sockets with these inodes, or all there are, of every process that may be asked, with a copy of the descriptor.
///
/// A process that ends meanwhile, or that is not ours to ask, is left out.
pub(super) fn holders(
    inodes: Option<BTreeSet<u64>>,
) -> impl Iterator<Item = (u64, Holder, OwnedFd)> {
    let is_wanted = move |inode: &u64| inodes.as_ref().is_none_or(|inodes| inodes.contains(inode));
    let is_wanted = Rc::new(is_wanted);
    numbers(Path::new("/proc")).flat_map(move |pid| {
        let is_wanted = Rc::clone(&is_wanted);
        let process = open(pid).ok();
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let holder = Holder {
            pid,
            name: name.trim_end().to_owned(),
        };
        let descriptors = format!("/proc/{pid}/fd");
        process.into_iter().flat_map(move |process| {
            let is_wanted = Rc::clone(&is_wanted);
            let holder = holder.clone();
            let links = descriptors.clone();
            numbers(Path::new(&descriptors)).filter_map(move |number| {
                let link = fs::read_link(format!("{links}/{number}")).ok()?;
                let inode = inode(link.to_str()?).filter(|inode| is_wanted(inode))?;
                let copy = copy(process.as_fd(), number).ok()?;
                Some((inode, holder.clone(), copy))
            })
        })
    })
}

/// The entries of a directory that are numbers.
fn numbers(directory: &Path) -> impl Iterator<Item = u32> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The inode of a socket, by what /proc says a descriptor is.
pub(crate) fn inode(link: &str) -> Option<u64> {
    let number = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

/// Takes a copy of another process's descriptor.
fn copy(process: BorrowedFd<'_>, number: u32) -> io::Result<OwnedFd> {
    // SAFETY: three integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    owned(fd)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(Errno::result(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn only_sockets_have_an_inode() {
        assert_eq!(inode("socket:[4711]"), Some(4711));
        for other in ["/dev/null", "pipe:[4711]", "socket:[]", "socket:[x]"] {
            assert_eq!(inode(other), None, "{other}");
        }
    }

    #[test]
    fn an_own_socket_is_found() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let wanted = inode(link.to_str().unwrap()).unwrap();
        let (_, holder, copy) = holders(Some(BTreeSet::from([wanted]))).next().unwrap();
        assert_eq!(holder.pid, std::process::id());
        let copy = UdpSocket::from(copy);
        assert_eq!(copy.local_addr().unwrap(), socket.local_addr().unwrap());
    }
}
