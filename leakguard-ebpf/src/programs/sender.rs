//! Who sends a packet, as far as a hook can know.

use core::ffi::c_void;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel,
};
use leakguard_common::abi::{Event, Owner};

/// Offset of `group_leader` in `struct task_struct`; from the kernel's BTF.
///
/// 0 where programs cannot read the current task: constants, so that the verifier does not look at what cannot be reached.
#[unsafe(no_mangle)]
static LEADER_OFFSET: Global<u32> = Global::new(0);

/// Offset of `tgid` in `struct task_struct`; from the kernel's BTF.
#[unsafe(no_mangle)]
static TGID_OFFSET: Global<u32> = Global::new(0);

/// Offset of `comm` in `struct task_struct`; from the kernel's BTF.
#[unsafe(no_mangle)]
static COMM_OFFSET: Global<u32> = Global::new(0);

/// What is known of a sender.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    /// The first thread of the current process, if that is the one; else 0.
    leader: u64,
    /// Its number.
    pid: u32,
    /// Who is known to have used the socket.
    owner: Option<&'static Owner>,
}

impl Sender {
    /// `is_current` says whether the current task is the one that sends.
    #[inline(always)]
    pub(super) fn new(is_current: bool, owner: Option<&'static Owner>) -> Self {
        let leader = if is_current { leader() } else { 0 };
        Self {
            leader,
            pid: if leader == 0 { 0 } else { tgid(leader) },
            owner,
        }
    }

    /// The process that is known best; 0 if none is.
    #[inline(always)]
    pub(super) fn known(&self) -> u32 {
        match self.owner {
            Some(owner) if self.pid == 0 => owner.pid,
            _ => self.pid,
        }
    }

    /// Writes what is known into an event.
    #[inline(always)]
    pub(super) fn sign(&self, event: &mut Event) {
        event.pid = self.pid;
        event.comm = [0; 16];
        if self.pid != 0 {
            read_comm(self.leader, &mut event.comm);
        }
        event.owner = match self.owner {
            Some(owner) => *owner,
            None => Owner::NOBODY,
        };
    }
}

/// The number of the current process, in hooks where every kernel tells it.
#[inline(always)]
pub(super) fn current_pid() -> u32 {
    // SAFETY: no arguments.
    let pid_tgid = unsafe { bpf_get_current_pid_tgid() };
    (pid_tgid >> 32) as u32
}

/// The name of the current process, in hooks where every kernel tells that of the current thread: of its first thread, if
/// that can be read.
#[inline(always)]
pub(super) fn name_current(comm: &mut [u8; 16]) {
    match leader() {
        // SAFETY: 16 writable bytes, which the helper fills, or clears if it fails.
        0 => unsafe {
            bpf_get_current_comm(comm.as_mut_ptr().cast(), 16);
        },
        leader => read_comm(leader, comm),
    }
}

/// The address of the first thread of the current process; 0 if it cannot be read.
#[inline(always)]
fn leader() -> u64 {
    if LEADER_OFFSET.load() == 0 {
        return 0;
    }
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    let mut leader = 0_u64;
    read(task + u64::from(LEADER_OFFSET.load()), &mut leader);
    leader
}

#[inline(always)]
fn tgid(task: u64) -> u32 {
    let mut tgid = 0_u32;
    read(task + u64::from(TGID_OFFSET.load()), &mut tgid);
    tgid
}

#[inline(always)]
fn read_comm(task: u64, comm: &mut [u8; 16]) {
    read(task + u64::from(COMM_OFFSET.load()), comm);
}

/// Reads kernel memory into a value of which any bytes are valid; clears it where that fails.
#[inline(always)]
fn read<T>(address: u64, into: &mut T) {
    // SAFETY: `into` is so many writable bytes, which the helper clears if it cannot read the source.
    let _failed = unsafe {
        bpf_probe_read_kernel(
            core::ptr::from_mut(into).cast(),
            size_of::<T>() as u32,
            address as *const c_void,
        )
    };
}
