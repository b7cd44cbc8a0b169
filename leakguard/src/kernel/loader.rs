//! aya's loader, without the kernel's type information.
//!
//! aya 0.14 reads and parses all of that for each loader, also where it is told to do without afterwards: 25 ms and as many
//! MiB. No program here is relocated by it; the five offsets that are needed `netns` reads by itself.

use std::io;
use std::thread;

use aya::EbpfLoader;
use nix::libc;
use nix::sys::prctl::set_no_new_privs;

/// A loader that relocates nothing by the kernel's types.
pub(super) fn loader() -> EbpfLoader<'static> {
    let made = thread::Builder::new().name("loader".into()).spawn(|| {
        open_nothing()
            .inspect_err(|error| log::debug!("cannot refuse files to a thread: {error}"))
            .is_ok()
            .then(EbpfLoader::new)
    });
    let made = made.ok().and_then(|thread| thread.join().ok().flatten());
    // It takes its time then.
    let mut loader = made.unwrap_or_default();
    loader.btf(None);
    loader
}

/// Makes the calling thread unable to open files, for as long as it lives.
#[expect(
    clippy::cast_possible_truncation,
    reason = "codes of instructions have 16 bits, and there are four of them"
)]
fn open_nothing() -> io::Result<()> {
    // Without this, a filter takes CAP_SYS_ADMIN. It counts for the thread alone, like the filter.
    set_no_new_privs()?;
    let step = |code: u32, k, (jt, jf)| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut filter = [
        // The number of the call comes first in `struct seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, (0, 0)),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, OPENAT, (0, 1)),
        step(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | libc::EACCES.unsigned_abs(),
            (0, 0),
        ),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, (0, 0)),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` and the instructions that it points to live until the call returns; the kernel copies them.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "system calls have small numbers"
)]
const OPENAT: u32 = libc::SYS_openat as u32;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_thread_that_is_to_open_nothing_opens_nothing_and_others_do() {
        let refused = thread::spawn(|| {
            open_nothing().unwrap();
            File::open("/proc/self/status").unwrap_err().kind()
        });
        assert_eq!(refused.join().unwrap(), io::ErrorKind::PermissionDenied);
        File::open("/proc/self/status").unwrap();
    }
}
