//! Somebody else's TC program.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;

/// A program that lets every packet out, at the head of an interface's TCX egress chain until it is dropped.
#[derive(Debug)]
pub struct Foreign {
    _link: OwnedFd,
}

impl Foreign {
    /// Goes to the head of the chain, in the network namespace of the calling thread.
    pub fn at_head(ifindex: u32) -> io::Result<Self> {
        const BPF_TCX_EGRESS: u32 = 47;
        const BPF_F_BEFORE: u32 = 8;
        const BPF_LINK_CREATE: libc::c_long = 28;
        let program = load()?;
        let mut attr = [0_u8; 64];
        let words = [
            program.as_raw_fd().cast_unsigned(),
            ifindex,
            BPF_TCX_EGRESS,
            BPF_F_BEFORE,
        ];
        for (slot, word) in attr.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(Self {
            _link: bpf(BPF_LINK_CREATE, &mut attr)?,
        })
    }
}

/// Loads `return TC_ACT_OK`, which ends the chain and lets the packet go.
fn load() -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    // r0 = 0; exit
    let instructions: [u64; 2] = [0xb7, 0x95];
    let licence = c"GPL";
    let mut attr = [0_u8; 64];
    attr[..4].copy_from_slice(&BPF_PROG_TYPE_SCHED_CLS.to_ne_bytes());
    attr[4..8].copy_from_slice(&2_u32.to_ne_bytes());
    attr[8..16].copy_from_slice(&(instructions.as_ptr() as u64).to_ne_bytes());
    attr[16..24].copy_from_slice(&(licence.as_ptr() as u64).to_ne_bytes());
    bpf(BPF_PROG_LOAD, &mut attr)
}

fn bpf(command: libc::c_long, attr: &mut [u8; 64]) -> io::Result<OwnedFd> {
    // SAFETY: the callers fill in the start of a bpf_attr; what their pointers point to outlives the call.
    let made = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), attr.len()) };
    let made = RawFd::try_from(made).map_err(io::Error::other)?;
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}
