//! bpf(2) on what is pinned, as a tool of an administrator's would call it.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// Calls it, which has to succeed; pointers among the attributes have to be live.
///
/// What the kernel answers by them is in them afterwards.
pub fn bpf(command: libc::c_long, attributes: &mut [u64; 16]) -> i32 {
    // SAFETY: as many bytes as are said, all writable; what they point to is live, and has room for the answer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    i32::try_from(Errno::result(result).unwrap()).unwrap()
}

/// Opens what is pinned at a path.
pub fn open_pin(pin: &Path) -> OwnedFd {
    const BPF_OBJ_GET: libc::c_long = 7;

    let path = CString::new(pin.as_os_str().as_bytes()).unwrap();
    let mut attributes = [0; 16];
    attributes[0] = path.as_ptr() as u64;
    let opened = bpf(BPF_OBJ_GET, &mut attributes);
    // SAFETY: the kernel has just made it, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(opened) }
}

/// Changes the only value of a pinned array, which has that many bytes.
pub fn edit_value(pin: &Path, size: usize, edit: impl FnOnce(&mut [u8])) {
    const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
    const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;

    let map = open_pin(pin);
    let key = 0_u32;
    // The kernel copies in words.
    let mut value = vec![0_u8; size.next_multiple_of(8)];
    let mut element = [0; 16];
    element[0] = u64::from(map.as_raw_fd().unsigned_abs());
    element[1] = (&raw const key) as u64;
    element[2] = value.as_mut_ptr() as u64;
    bpf(BPF_MAP_LOOKUP_ELEM, &mut element);
    edit(&mut value);
    bpf(BPF_MAP_UPDATE_ELEM, &mut element);
}

/// Detaches a pinned link, as `bpftool link detach` does.
pub fn detach(pin: &Path) {
    const BPF_LINK_DETACH: libc::c_long = 34;

    let link = open_pin(pin);
    let mut number = [0; 8];
    number[..4].copy_from_slice(&link.as_raw_fd().to_ne_bytes());
    let mut attributes = [0; 16];
    attributes[0] = u64::from_ne_bytes(number);
    bpf(BPF_LINK_DETACH, &mut attributes);
}
