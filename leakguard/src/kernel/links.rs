//! Attachments: made once, pinned at once, replaced in place, and read back from the kernel.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use leakguard_common::abi::LOOPBACK_IFINDEX;
use nix::libc;

use super::KernelError;
use super::object::ProgramHandle;
use super::pins::Pins;
use super::requirements::check_cgroup;
use super::syscall::{
    AttachedTo, LinkInfo, Target, link_create, link_detach, link_info, link_update, object_get,
    object_pin, tcx_egress_programs,
};

/// What the kernel has at the cgroup hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupAttachment {
    /// The cgroup's id.
    pub cgroup_id: u64,
    /// The program's id.
    pub program_id: u32,
}

/// What the kernel has at TC egress of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcAttachment {
    /// Ours runs first in the TCX chain.
    Head,
    /// Ours runs first on the clsact qdisc.
    Clsact,
    /// A foreign program runs before ours, and can end the chain.
    Behind,
    /// Ours is not there.
    Absent,
}

/// Checks that what is pinned as a link is one; nothing must be attached next to something foreign.
pub(super) fn check_pinned(pins: &Pins) -> Result<(), KernelError> {
    let tcx = pins.tcx_links()?.into_iter().map(|(_, pin)| pin);
    for pin in tcx.chain([pins.cgroup_link()]) {
        open_link(&pin)?;
    }
    Ok(())
}

/// Attaches the program to a cgroup, or replaces the one that the pinned link has; says whether anything changed.
pub(super) fn attach_cgroup(
    pins: &Pins,
    cgroup: &Path,
    program: &ProgramHandle,
) -> Result<bool, KernelError> {
    let pin = pins.cgroup_link();
    let wanted = check_cgroup(cgroup)?;
    if let Some((link, info)) = open_link(&pin)? {
        if info.attached_to == AttachedTo::Cgroup(wanted) {
            return replace(link.as_fd(), info.program_id, program, "cgroup_skb");
        }
        // Another cgroup, or one that was removed: the new link must stand before the old one goes.
        let new = create_cgroup(cgroup, program)?;
        let staged = pin.with_file_name("egress-new");
        pin_link(&staged, new.as_fd())?;
        fs::rename(&staged, &pin)
            .map_err(KernelError::call("rename", staged.display().to_string()))?;
        return Ok(true);
    }
    let link = create_cgroup(cgroup, program)?;
    pin_link(&pin, link.as_fd())?;
    Ok(true)
}

fn create_cgroup(cgroup: &Path, program: &ProgramHandle) -> Result<OwnedFd, KernelError> {
    let subject = || cgroup.display().to_string();
    let directory = File::open(cgroup).map_err(KernelError::call("open", subject()))?;
    link_create(program.fd.as_fd(), Target::CgroupEgress(directory.as_fd())).map_err(|error| {
        if error.raw_os_error() == Some(libc::EPERM) {
            return KernelError::Missing {
                what: format!("the right to add a program to the cgroup {}", subject()),
                remedy: "another tool has attached one there exclusively; find it with `bpftool cgroup tree`, or \
                         name another cgroup with --cgroup"
                    .into(),
                source: Some(Box::new(error)),
            };
        }
        KernelError::call("BPF_LINK_CREATE (cgroup_skb/egress)", subject())(error)
    })
}

/// Whether this kernel has TCX (6.6 and later).
pub(super) fn has_tcx() -> Result<bool, KernelError> {
    match tcx_egress_programs(LOOPBACK_IFINDEX) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(KernelError::call(
            "BPF_PROG_QUERY (tcx egress)",
            "the loopback interface",
        )(error)),
    }
}

/// Puts the program at the head of an interface's TCX egress chain, or replaces the one that is there; says whether
/// anything changed.
///
/// An interface that is gone is no error.
pub(super) fn attach_tcx(
    pins: &Pins,
    ifindex: u32,
    program: &ProgramHandle,
) -> Result<bool, KernelError> {
    let subject = || format!("interface {ifindex}");
    let pin = pins.tcx_link(ifindex);
    if let Some((link, info)) = open_link(&pin)? {
        let chain = tcx_egress_programs(ifindex)
            .map_err(KernelError::call("BPF_PROG_QUERY (tcx egress)", subject()))?;
        if info.attached_to == AttachedTo::Interface(ifindex) && chain.contains(&info.program_id) {
            return replace(link.as_fd(), info.program_id, program, &subject());
        }
        // The pinned link belongs to a device that has gone, or that was moved to another namespace with the
        // program on it: there it must stay.
        set_aside(&pin, info.attached_to, ifindex)?;
    }
    let link = match link_create(program.fd.as_fd(), Target::TcxEgress(ifindex)) {
        Ok(link) => link,
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        Err(error) => {
            return Err(KernelError::call("BPF_LINK_CREATE (tcx egress)", subject())(error));
        }
    };
    pin_link(&pin, link.as_fd())?;
    Ok(true)
}

/// Takes the program off an interface; says whether one was there.
pub(super) fn detach_tcx(pins: &Pins, ifindex: u32) -> Result<bool, KernelError> {
    detach(&pins.tcx_link(ifindex))
}

/// Takes every program off; the pins may stay or go then.
pub(super) fn detach_all(pins: &Pins) -> Result<(), KernelError> {
    for (_, pin) in pins.tcx_links()? {
        detach(&pin)?;
    }
    detach(&pins.cgroup_link()).map(drop)
}

/// Detaches and unpins; says whether there was a pin.
fn detach(pin: &Path) -> Result<bool, KernelError> {
    if let Some(link) = open(pin)?
        && let Err(error) = link_detach(link.as_fd())
    {
        log::debug!("{} goes with its pin: {error}", pin.display());
    }
    // By itself this would do, but only after a grace period in which the program still drops packets.
    unpin(pin)
}

/// Reads back what the pinned cgroup link does; `None` if there is none, or if its cgroup was removed.
pub fn cgroup_attachment(pins: &Pins) -> Result<Option<CgroupAttachment>, KernelError> {
    let Some((_, info)) = open_link(&pins.cgroup_link())? else {
        return Ok(None);
    };
    match info.attached_to {
        AttachedTo::Cgroup(0) | AttachedTo::Interface(_) | AttachedTo::Foreign => Ok(None),
        AttachedTo::Cgroup(cgroup_id) => Ok(Some(CgroupAttachment {
            cgroup_id,
            program_id: info.program_id,
        })),
    }
}

/// Reads back where the pinned link of an interface stands in its chain.
pub fn tcx_attachment(pins: &Pins, ifindex: u32) -> Result<TcAttachment, KernelError> {
    let Some((_, info)) = open_link(&pins.tcx_link(ifindex))? else {
        return Ok(TcAttachment::Absent);
    };
    let chain = tcx_egress_programs(ifindex).map_err(KernelError::call(
        "BPF_PROG_QUERY (tcx egress)",
        format!("interface {ifindex}"),
    ))?;
    Ok(match chain.iter().position(|&id| id == info.program_id) {
        Some(0) => TcAttachment::Head,
        Some(_) => TcAttachment::Behind,
        None => TcAttachment::Absent,
    })
}

/// Unpins the links of devices that are gone; says whether there were any.
pub(super) fn sweep(pins: &Pins) -> Result<bool, KernelError> {
    let mut swept = false;
    for (_, pin) in pins.tcx_links()? {
        if let Some(link) = open(&pin)?
            && let Ok(info) = link_info(link.as_fd())
            && info.attached_to == AttachedTo::Interface(0)
        {
            swept |= unpin(&pin)?;
        }
    }
    Ok(swept)
}

fn replace(
    link: BorrowedFd<'_>,
    current: u32,
    program: &ProgramHandle,
    subject: &str,
) -> Result<bool, KernelError> {
    if runs(current, program) {
        return Ok(false);
    }
    link_update(link, program.fd.as_fd()).map_err(KernelError::call("BPF_LINK_UPDATE", subject))?;
    Ok(true)
}

/// Whether a program in the kernel has the same instructions.
pub(super) fn runs(program_id: u32, program: &ProgramHandle) -> bool {
    program_id == program.id
        || aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .any(|info| info.id() == program_id && info.tag() == program.tag)
}

fn set_aside(pin: &Path, attached_to: AttachedTo, ifindex: u32) -> Result<(), KernelError> {
    if attached_to == AttachedTo::Interface(0) {
        return unpin(pin).map(drop);
    }
    for attempt in 0_u32.. {
        let aside = pin.with_file_name(format!("moved-{ifindex}-{attempt}"));
        if !aside.exists() {
            return fs::rename(pin, &aside)
                .map_err(KernelError::call("rename", pin.display().to_string()));
        }
    }
    Ok(())
}

fn open(pin: &Path) -> Result<Option<OwnedFd>, KernelError> {
    match object_get(pin) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KernelError::call("BPF_OBJ_GET", pin.display().to_string())(
            error,
        )),
    }
}

/// Opens a pinned link; an error if something else is pinned there.
fn open_link(pin: &Path) -> Result<Option<(OwnedFd, LinkInfo)>, KernelError> {
    let Some(link) = open(pin)? else {
        return Ok(None);
    };
    match link_info(link.as_fd()) {
        Ok(info) => Ok(Some((link, info))),
        Err(_not_a_link) => Err(KernelError::Foreign {
            path: pin.to_owned(),
            expected: "link",
        }),
    }
}

fn pin_link(pin: &Path, link: BorrowedFd<'_>) -> Result<(), KernelError> {
    object_pin(pin, link).map_err(KernelError::call("BPF_OBJ_PIN", pin.display().to_string()))
}

fn unpin(pin: &Path) -> Result<bool, KernelError> {
    match fs::remove_file(pin) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(KernelError::call("unlink", pin.display().to_string())(
            error,
        )),
    }
}
