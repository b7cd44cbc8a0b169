//! Who uses a socket: recorded where the kernel runs for whoever does, for the hooks that may run for somebody else.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_uid_gid, bpf_sk_storage_get,
};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use leakguard_common::abi::Owner;

use super::context::Skb;
use super::maps::OWNERS;
use super::sender::{current_pid, name_current};

/// These hooks could refuse; none does.
const PASS: i32 = 1;

/// Every new socket of IP: the only hook that sees those of raw sockets.
#[cgroup_sock(sock_create)]
pub(super) fn owner_create(context: SockContext) -> i32 {
    record(context.sock.cast());
    PASS
}

/// The owner of a packet's socket, if it has one that was recorded.
#[inline(always)]
pub(super) fn owner(skb: Skb) -> Option<&'static Owner> {
    let socket = skb.socket()?;
    // SAFETY: an owner that is written meanwhile is the old or the new one, or a mix: of one socket at one time.
    unsafe { storage(socket.cast(), 0).as_ref() }
}

/// Records that the current process uses a socket.
#[inline(always)]
pub(super) fn record(socket: *mut c_void) {
    if socket.is_null() {
        return;
    }
    // SAFETY: null, or a value of this type that lives as long as the socket.
    let Some(owner) = (unsafe { storage(socket, u64::from(BPF_SK_STORAGE_GET_F_CREATE)).as_mut() })
    else {
        return;
    };
    // SAFETY: no arguments.
    unsafe {
        owner.boot_time = bpf_ktime_get_boot_ns();
        owner.cgroup_id = bpf_get_current_cgroup_id();
        owner.uid = bpf_get_current_uid_gid() as u32;
    }
    owner.pid = current_pid();
    name_current(&mut owner.comm);
}

#[inline(always)]
fn storage(socket: *mut c_void, flags: u64) -> *mut Owner {
    let map = ptr::from_ref(&OWNERS).cast_mut().cast();
    // SAFETY: the map's own address, and a socket that the verifier checks.
    unsafe { bpf_sk_storage_get(map, socket, ptr::null_mut(), flags) }.cast()
}
