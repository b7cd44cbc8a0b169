//! What this process holds open, so that it stays whatever becomes of its pin.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::KernelError;
use super::pins::set_aside;
use super::syscall::{LinkInfo, link_info, map_id, object_get, object_pin};

/// A link or a map, by its descriptor and its number.
#[derive(Debug)]
pub(super) struct Held {
    fd: OwnedFd,
    id: u32,
    identify: fn(BorrowedFd<'_>) -> io::Result<u32>,
}

impl Held {
    /// Holds a link.
    pub(super) fn link(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, |fd| link_info(fd).map(|info| info.id))
    }

    /// Holds a map.
    pub(super) fn map(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, map_id)
    }

    fn new(fd: OwnedFd, identify: fn(BorrowedFd<'_>) -> io::Result<u32>) -> io::Result<Self> {
        Ok(Self {
            id: identify(fd.as_fd())?,
            fd,
            identify,
        })
    }

    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// What the kernel says of a link now.
    pub(super) fn link_info(&self) -> Result<LinkInfo, KernelError> {
        link_info(self.fd.as_fd()).map_err(KernelError::call(
            "BPF_OBJ_GET_INFO_BY_FD",
            format!("link {}", self.id),
        ))
    }

    /// Sees to it that this is what is pinned there; says what was wrong if it was not.
    ///
    /// Numbers are compared, never names: anything can be pinned anywhere.
    pub(super) fn keep_pinned(&self, pin: &Path) -> Result<Option<String>, KernelError> {
        let wrong = match object_get(pin) {
            Ok(found) if (self.identify)(found.as_fd()).is_ok_and(|id| id == self.id) => {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                "its pin was gone: pinned again".to_owned()
            }
            Ok(_) | Err(_) => format!(
                "something else was pinned in its place: pinned again, and that set aside as {}",
                set_aside(pin)?.display()
            ),
        };
        self.pin(pin)?;
        Ok(Some(wrong))
    }

    /// Pins this in place of whatever is pinned there, which goes.
    pub(super) fn pin_over(&self, pin: &Path) -> Result<(), KernelError> {
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        let staged = pin.with_file_name(format!("{name}-new"));
        // Left by a process that was killed right here; what it was to replace is still in place.
        unpin(&staged)?;
        self.pin(&staged)?;
        fs::rename(&staged, pin).map_err(KernelError::call("rename", staged.display().to_string()))
    }

    fn pin(&self, pin: &Path) -> Result<(), KernelError> {
        object_pin(pin, self.fd.as_fd())
            .map_err(KernelError::call("BPF_OBJ_PIN", pin.display().to_string()))
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens what is pinned somewhere, of whatever kind it is.
pub(super) fn open(pin: &Path) -> Result<Option<OwnedFd>, KernelError> {
    match object_get(pin) {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KernelError::call("BPF_OBJ_GET", pin.display().to_string())(
            error,
        )),
    }
}

/// Removes a pin; says whether there was one.
pub(super) fn unpin(pin: &Path) -> Result<bool, KernelError> {
    // A read-only file system refuses even what there is nothing to do for.
    if pin
        .symlink_metadata()
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    {
        return Ok(false);
    }
    match fs::remove_file(pin) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(KernelError::call("unlink", pin.display().to_string())(
            error,
        )),
    }
}
