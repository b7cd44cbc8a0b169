//! bpf(2), as far as it is needed to run programs without sending anything.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Instant;

use anyhow::{Result, ensure};
use leakguard_tests::{bpf, open_pin};
use nix::libc::c_long;

/// How often the kernel runs a program for one value: a few hundredths of a second.
const REPEAT: u32 = 200_000;

/// Types of programs (`include/uapi/linux/bpf.h`).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Type {
    SchedCls = 3,
    CgroupSkb = 8,
}

/// Two 32-bit fields that lie side by side, as one word.
pub(crate) fn pair(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

pub(crate) fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads a program that returns a number and does nothing else.
pub(crate) fn empty(of: Type, returns: i32) -> OwnedFd {
    const BPF_PROG_LOAD: c_long = 5;
    /// `BPF_ALU64 | BPF_MOV | BPF_K` of register 0, whose immediate value is the upper half.
    const MOVE: u32 = 0xb7;
    const EXIT: u64 = 0x95;

    let instructions = [pair(MOVE, returns.cast_unsigned()), EXIT];
    let license = c"GPL";
    let mut attributes = [0; 16];
    attributes[0] = pair(of as u32, instructions.len() as u32);
    attributes[1] = instructions.as_ptr() as u64;
    attributes[2] = license.as_ptr() as u64;
    owned(bpf(BPF_PROG_LOAD, &mut attributes))
}

/// Opens the program behind a pinned link.
pub(crate) fn program_of(link: &std::path::Path) -> OwnedFd {
    const BPF_PROG_GET_FD_BY_ID: c_long = 13;
    const BPF_OBJ_GET_INFO_BY_FD: c_long = 15;

    let link = open_pin(link);
    // `struct bpf_link_info`: type, number, and the number of the program.
    let mut info = [0_u32; 64];
    let mut attributes = [0; 16];
    attributes[0] = pair(link.as_raw_fd().cast_unsigned(), size_of_val(&info) as u32);
    attributes[1] = info.as_mut_ptr() as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes);
    let [_, _, program, ..] = info;
    let mut attributes = [0; 16];
    attributes[0] = pair(program, 0);
    owned(bpf(BPF_PROG_GET_FD_BY_ID, &mut attributes))
}

/// Runs a program over a frame again and again; returns nanoseconds for one run.
///
/// Time is that of the whole call: the kernel's own figure is in whole nanoseconds.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
    expected: i32,
) -> Result<f64> {
    const BPF_PROG_TEST_RUN: c_long = 10;
    /// The word of `struct __sk_buff` that holds the interface.
    const IFINDEX: usize = 10;

    let mut context = [0_u32; 48];
    context[IFINDEX] = ifindex;
    let mut attributes = [0; 16];
    attributes[0] = pair(number(program), 0);
    attributes[1] = pair(frame.len() as u32, 0);
    attributes[2] = frame.as_ptr() as u64;
    attributes[4] = pair(REPEAT, 0);
    attributes[5] = pair(size_of_val(&context) as u32, 0);
    attributes[6] = context.as_ptr() as u64;
    let started = Instant::now();
    bpf(BPF_PROG_TEST_RUN, &mut attributes);
    let took = started.elapsed();
    let returned = attributes[0].to_ne_bytes()[4..]
        .try_into()
        .map(i32::from_ne_bytes)?;
    ensure!(
        returned == expected,
        "the program returned {returned} in place of {expected}"
    );
    Ok(took.as_nanos() as f64 / f64::from(REPEAT))
}
