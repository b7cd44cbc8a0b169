//! Who sends a packet, as far as a hook can know.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use leakguard_common::abi::{Event, Owner};

/// What this kernel says of the current task in packet hooks: [`NOTHING`], its number, or its name as well.
///
/// A constant for the verifier, which does not look at calls that cannot be reached. What may be called depends on the
/// kernel: the number since 6.10, the name since 6.16 or so.
#[unsafe(no_mangle)]
static CURRENT_TASK: Global<u32> = Global::new(NOTHING);

const NOTHING: u32 = 0;
const ITS_NAME: u32 = 2;

/// Whether packet hooks can name the current task.
#[inline(always)]
pub(super) fn names_current() -> bool {
    CURRENT_TASK.load() == ITS_NAME
}

/// What is known of a sender.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    /// The current process, if that is the one; else 0.
    pub(super) pid: u32,
    /// Who is known to have used the socket.
    pub(super) owner: Option<&'static Owner>,
}

impl Sender {
    /// `is_current` says whether the current task is the one that sends.
    #[inline(always)]
    pub(super) fn new(is_current: bool, owner: Option<&'static Owner>) -> Self {
        let pid = if is_current && CURRENT_TASK.load() != NOTHING {
            current_pid()
        } else {
            0
        };
        Self { pid, owner }
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
        if self.pid != 0 && names_current() {
            name_current(event);
        }
        event.owner = match self.owner {
            Some(owner) => *owner,
            None => Owner::NOBODY,
        };
    }
}

/// Names the current task as the sender, in hooks where every kernel knows it.
#[inline(always)]
pub(super) fn sign_current(event: &mut Event) {
    event.pid = current_pid();
    name_current(event);
}

#[inline(always)]
fn current_pid() -> u32 {
    // SAFETY: no arguments.
    let pid_tgid = unsafe { bpf_get_current_pid_tgid() };
    (pid_tgid >> 32) as u32
}

#[inline(always)]
fn name_current(event: &mut Event) {
    // SAFETY: the buffer is 16 writable bytes, which the helper fills, or clears if it fails.
    unsafe { bpf_get_current_comm(event.comm.as_mut_ptr().cast(), 16) };
}
