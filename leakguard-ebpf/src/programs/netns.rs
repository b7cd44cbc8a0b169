//! The network namespace of a socket, by the helper for it or without.

use core::ffi::c_void;

use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_probe_read_kernel};
use leakguard_common::abi::{SOCKET_HEAD, Settings};

/// Offset of `skc_net` in `struct sock_common`; from the kernel's BTF.
#[unsafe(no_mangle)]
static SKC_NET_OFFSET: Global<u32> = Global::new(0);

/// Offset of `ns.inum` in `struct net`; from the kernel's BTF.
#[unsafe(no_mangle)]
static NET_INUM_OFFSET: Global<u32> = Global::new(0);

/// Whether the socket of a hook's context lives in the managed namespace, by the namespace's cookie; true when in doubt.
///
/// The context is the program's own.
#[inline(always)]
pub(super) fn is_managed_by_cookie(context: *mut c_void, settings: &Settings) -> bool {
    settings.netns_cookie == 0 || settings.netns_cookie == cookie(context)
}

/// The cookie of the namespace of a hook's socket.
#[inline(always)]
pub(super) fn cookie(context: *mut c_void) -> u64 {
    // SAFETY: the helper takes the program's own context, which the verifier checks.
    unsafe { bpf_get_netns_cookie(context) }
}

/// Whether a socket lives in the managed namespace, by the namespace's inode; true when in doubt.
#[inline(always)]
pub(super) fn is_managed_by_inode(socket: *const bpf_sock, settings: &Settings) -> bool {
    match inode(socket) {
        Some(inode) => settings.netns_inode == 0 || settings.netns_inode == inode,
        None => true,
    }
}

/// The inode of the socket's namespace, if it can be read.
#[inline(always)]
fn inode(socket: *const bpf_sock) -> Option<u32> {
    if socket.is_null() {
        return None;
    }
    // The verifier refuses arithmetic on a socket pointer, so the head is copied and looked into.
    let mut head = [0_u64; SOCKET_HEAD / 8];
    // SAFETY: `head` is SOCKET_HEAD writable bytes; the helper fails on a source that cannot be read.
    let result = unsafe {
        bpf_probe_read_kernel(head.as_mut_ptr().cast(), SOCKET_HEAD as u32, socket.cast())
    };
    if result != 0 {
        return None;
    }
    let net = *head.get(SKC_NET_OFFSET.load() as usize / 8)?;
    let inum = net.wrapping_add(u64::from(NET_INUM_OFFSET.load())) as *const c_void;
    let mut inode = 0_u32;
    // SAFETY: `inode` is 4 writable bytes; the helper fails on a source that cannot be read.
    let result = unsafe { bpf_probe_read_kernel((&raw mut inode).cast(), 4, inum) };
    (result == 0).then_some(inode)
}
