//! TC egress on kernels without TCX (before 6.6): a filter on the clsact qdisc.
//!
//! The filter stays when the agent goes. It has no pin; it is known by its handle, which is chosen here.

use std::io;

use aya::programs::tc::{NlOptions, SchedClassifierLink, TcError, TcHandle, qdisc_add_clsact};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use nix::libc;

use super::KernelError;

/// Before every filter that names no priority of its own.
const PRIORITY: u16 = 1;

/// "lg" and the ABI version: nobody else's filter has it by chance.
const HANDLE: TcHandle = TcHandle::new(0x6c67, 1);

/// That handle as the kernel lists it.
pub const RAW_HANDLE: u32 = 0x6c67_0001;

/// Adds the filter to an interface, or replaces the program of the one that is there.
///
/// Returns `false` if the interface is gone.
pub(super) fn attach(program: &mut SchedClassifier, interface: &str) -> Result<bool, KernelError> {
    match qdisc_add_clsact(interface) {
        Ok(()) => {}
        Err(error) => match errno(&error) {
            // Somebody has added the qdisc before, perhaps we.
            Some(libc::EEXIST) => {}
            Some(libc::ENODEV) => return Ok(false),
            _ => return Err(failed("clsact qdisc", interface, error)),
        },
    }
    let attached = match existing(interface)
        .and_then(|link| program.attach_to_link(link).map_err(io::Error::other))
    {
        Ok(attached) => attached,
        Err(_none_to_replace) => {
            let options = NlOptions {
                priority: PRIORITY,
                handle: HANDLE,
                classid: None,
            };
            match program.attach_with_options(
                interface,
                TcAttachType::Egress,
                aya::programs::tc::TcAttachOptions::Netlink(options),
            ) {
                Ok(attached) => attached,
                Err(error) if is_gone(&error) => return Ok(false),
                Err(error) => return Err(failed("TC egress filter", interface, error)),
            }
        }
    };
    let link = program
        .take_link(attached)
        .map_err(|error| failed("TC egress filter", interface, error))?;
    // Dropping it would detach.
    std::mem::forget(link);
    Ok(true)
}

/// Removes the filter from an interface; says whether one was there.
pub(super) fn detach(interface: &str) -> bool {
    existing(interface)
        .map_err(|error| error.to_string())
        .and_then(|link| {
            aya::programs::links::Link::detach(link).map_err(|error| error.to_string())
        })
        .is_ok()
}

fn existing(interface: &str) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, TcAttachType::Egress, PRIORITY, HANDLE, None)
}

fn errno(error: &TcError) -> Option<i32> {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        _ => None,
    }
}

fn is_gone(error: &ProgramError) -> bool {
    matches!(error, ProgramError::TcError(error) if errno(error) == Some(libc::ENODEV))
}

fn failed(
    what: &'static str,
    interface: &str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> KernelError {
    KernelError::call(what, interface)(io::Error::other(error))
}
