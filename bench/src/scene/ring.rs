//! How much lies in a BPF ring that its reader has not taken yet.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use leakguard::kernel::pins::Pins;
use leakguard_tests::open_pin;
use nix::libc;
use nix::unistd::{SysconfVar, sysconf};

/// The two positions of a ring; each has a page of its own.
pub(super) struct Ring {
    pages: *mut libc::c_void,
    page: usize,
}

impl Ring {
    /// That of an agent's events.
    pub(super) fn new(pins: &Pins) -> Result<Self> {
        let map: OwnedFd = open_pin(&pins.map("EVENTS"));
        let page = usize::try_from(sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(4096))?;
        // The consumer's may be written, the producer's not; reading is enough.
        // SAFETY: a new mapping, wherever the kernel likes.
        let pages = unsafe {
            libc::mmap(
                ptr::null_mut(),
                2 * page,
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if pages == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(Self { pages, page })
    }

    /// Whether everything was taken.
    pub(super) fn is_empty(&self) -> bool {
        let position = |offset| {
            // SAFETY: each page begins with its position, which the kernel and the reader write as a whole; they are mapped
            // as long as this lives.
            let position = unsafe { &*self.pages.byte_add(offset).cast::<AtomicU64>() };
            position.load(Ordering::Acquire)
        };
        position(0) == position(self.page)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: what was mapped, and nobody refers to it any more.
        unsafe { libc::munmap(self.pages, 2 * self.page) };
    }
}
