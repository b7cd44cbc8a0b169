//! Attachments: made once, pinned at once, held open, replaced in place, and read back from the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use leakguard_common::abi::LOOPBACK_IFINDEX;
use nix::libc;

use super::KernelError;
use super::enforcement::{Device, Followed};
use super::held::{Held, open, unpin};
use super::object::{ProgramHandle, Twins};
use super::pins::Pins;
use super::requirements::check_cgroup;
use super::syscall::{
    AttachedTo, CgroupHook, Chained, LinkInfo, Target, link_create, link_detach, link_info,
    link_update, tcx_egress_chain,
};
use crate::change::Part;
use crate::error::chain as chain_of;

/// What the kernel has at a hook of a cgroup.
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

/// Where a program stands after it was seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Before every other.
    First,
    /// A foreign program runs before it.
    Behind,
    /// There is no such interface.
    Gone,
}

/// The links of this process's enforcement, each held open: what becomes of a pin detaches nothing.
#[derive(Debug)]
pub(super) struct Links {
    pins: Pins,
    cgroup: BTreeMap<CgroupHook, Held>,
    tcx: BTreeMap<u32, Held>,
    /// Of devices that were moved to another namespace with the program on them: there it must stay.
    moved: Vec<(PathBuf, Held)>,
}

impl Links {
    /// Takes over what is pinned. Call [`check_pinned`] before.
    pub(super) fn take_over(pins: &Pins) -> Result<Self, KernelError> {
        let hold = |pin: &Path| {
            let link = open_link(pin)?.map(|(link, _)| Held::link(link));
            link.transpose().map_err(KernelError::call(
                "BPF_OBJ_GET_INFO_BY_FD",
                pin.display().to_string(),
            ))
        };
        let mut links = Self {
            cgroup: BTreeMap::new(),
            tcx: BTreeMap::new(),
            moved: Vec::new(),
            pins: pins.clone(),
        };
        for hook in CgroupHook::ALL {
            let held = hold(&pins.link_of(hook))?;
            links.cgroup.extend(held.map(|link| (hook, link)));
        }
        for (ifindex, pin) in pins.tcx_links()? {
            links.tcx.extend(hold(&pin)?.map(|link| (ifindex, link)));
        }
        for pin in pins.moved_links()? {
            links.moved.extend(hold(&pin)?.map(|link| (pin, link)));
        }
        Ok(links)
    }

    /// Attaches a program to a hook of a cgroup, or replaces the one that the link has.
    pub(super) fn attach_cgroup(
        &mut self,
        hook: CgroupHook,
        cgroup: &Path,
        program: &ProgramHandle,
        twins: &mut Twins,
        done: &mut Followed,
    ) -> Result<(), KernelError> {
        let pin = self.pins.link_of(hook);
        let part = part(hook);
        let subject = || cgroup.display().to_string();
        let wanted = check_cgroup(cgroup)?;
        if let Some(link) = self.cgroup.get(&hook) {
            let info = link.link_info()?;
            if info.attached_to == AttachedTo::Cgroup(hook, wanted) {
                if replace(link, info, program, twins, hook.name())? {
                    done.change(part, subject(), "another program was attached: replaced");
                }
                done.keep_pinned(link, &pin);
                return Ok(());
            }
        }
        // Where there was another cgroup, or one that was removed, the new link stands before the old one goes.
        let link = hold(create_cgroup(hook, cgroup, program)?)?;
        done.change(part, subject(), "the program was not there: attached");
        done.pinned(&pin, link.pin_over(&pin));
        self.cgroup.insert(hook, link);
        Ok(())
    }

    /// Takes the program off a hook of a cgroup; says whether one was there.
    pub(super) fn detach_cgroup(&mut self, hook: CgroupHook) -> Result<bool, KernelError> {
        let link = self.cgroup.remove(&hook);
        if let Some(link) = &link {
            detach_link(link);
        }
        Ok(unpin(&self.pins.link_of(hook))? || link.is_some())
    }

    /// Puts the program on an interface's TCX egress chain, or replaces the one that is there; says where it stands.
    ///
    /// It is put at the head. If it is there already, behind another, that takes another copy of the program: a chain
    /// has each only once.
    pub(super) fn attach_tcx(
        &mut self,
        device: &Device,
        program: &ProgramHandle,
        twins: &mut Twins,
        done: &mut Followed,
    ) -> Result<Standing, KernelError> {
        let ifindex = device.ifindex;
        let pin = self.pins.tcx_link(ifindex);
        let Some(chain) = chain(ifindex)? else {
            return Ok(Standing::Gone);
        };
        self.sort_out(ifindex, &chain, done);
        if let Some(link) = self.tcx.get(&ifindex)
            && let Some(place) = place(&chain, link.id())
        {
            let copy_is_there = chain.iter().any(|entry| entry.program_id == program.id);
            if place > 0 && !copy_is_there {
                return self.overtake(device, program, done);
            }
            if replace(link, link.link_info()?, program, twins, &device.name)? {
                done.change(
                    Part::Tc,
                    &device.name,
                    "another program was attached: replaced",
                );
            }
            done.keep_pinned(link, &pin);
            return Ok(if place == 0 {
                Standing::First
            } else {
                Standing::Behind
            });
        }
        let link = match link_create(program.fd.as_fd(), Target::TcxEgress(ifindex)) {
            Ok(link) => hold(link)?,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(Standing::Gone),
            Err(error) => {
                return Err(KernelError::call(
                    "BPF_LINK_CREATE (tcx egress)",
                    &device.name,
                )(error));
            }
        };
        done.change(
            Part::Tc,
            &device.name,
            "the program was not there: attached",
        );
        done.pinned(&pin, link.pin_over(&pin));
        self.tcx.insert(ifindex, link);
        Ok(Standing::First)
    }

    /// Puts a program that is not in the chain at its head, and only then takes out the one that stands behind.
    fn overtake(
        &mut self,
        device: &Device,
        program: &ProgramHandle,
        done: &mut Followed,
    ) -> Result<Standing, KernelError> {
        let head = link_create(program.fd.as_fd(), Target::TcxEgress(device.ifindex)).map_err(
            KernelError::call("BPF_LINK_CREATE (tcx egress)", &device.name),
        )?;
        let head = hold(head)?;
        done.change(
            Part::Tc,
            &device.name,
            "another program ran before leakguard's: overtaken",
        );
        let pin = self.pins.tcx_link(device.ifindex);
        done.pinned(&pin, head.pin_over(&pin));
        if let Some(behind) = self.tcx.insert(device.ifindex, head) {
            // Closing it would do as well, but later.
            detach_link(&behind);
        }
        Ok(Standing::First)
    }

    /// Replaces every program by another copy of it, and goes to the head where ours stands behind.
    pub(super) fn replace_all(
        &mut self,
        cgroup: &[(CgroupHook, &ProgramHandle)],
        devices: &[(&Device, &ProgramHandle)],
        done: &mut Followed,
    ) {
        for (hook, program) in cgroup {
            let Some(link) = self.cgroup.get(hook) else {
                continue;
            };
            let replaced = link_update(link.as_fd(), program.fd.as_fd());
            done.note(
                "the cgroup",
                replaced.map_err(KernelError::call("BPF_LINK_UPDATE", hook.name())),
            );
        }
        for (device, program) in devices {
            let replaced = self.replace_copy(device, program, done);
            done.note(&device.name, replaced);
        }
    }

    fn replace_copy(
        &mut self,
        device: &Device,
        program: &ProgramHandle,
        done: &mut Followed,
    ) -> Result<(), KernelError> {
        let (Some(link), Some(chain)) = (self.tcx.get(&device.ifindex), chain(device.ifindex)?)
        else {
            return Ok(());
        };
        match place(&chain, link.id()) {
            Some(0) => link_update(link.as_fd(), program.fd.as_fd())
                .map_err(KernelError::call("BPF_LINK_UPDATE", &device.name)),
            Some(_) => self.overtake(device, program, done).map(drop),
            None => Ok(()),
        }
    }

    /// Whether the program runs before every other on an interface.
    pub(super) fn is_first(&self, ifindex: u32) -> bool {
        let chain = chain(ifindex).ok().flatten().unwrap_or_default();
        let link = self.tcx.get(&ifindex);
        link.is_some_and(|link| place(&chain, link.id()) == Some(0))
    }

    /// Whether there is a link for an interface, wherever it stands.
    pub(super) fn holds(&self, ifindex: u32) -> bool {
        self.tcx.contains_key(&ifindex)
    }

    /// Takes the program off an interface; says whether one was there.
    pub(super) fn detach_tcx(&mut self, ifindex: u32) -> Result<bool, KernelError> {
        let link = self.tcx.remove(&ifindex);
        if let Some(link) = &link {
            detach_link(link);
        }
        Ok(unpin(&self.pins.tcx_link(ifindex))? || link.is_some())
    }

    /// Takes every program off; the pins may stay or go then.
    pub(super) fn detach_all(self) {
        let Self {
            pins: _,
            cgroup,
            tcx,
            moved,
        } = self;
        let moved = moved.into_iter().map(|(_, link)| link);
        let links = tcx.into_values().chain(moved).chain(cgroup.into_values());
        for link in links {
            detach_link(&link);
        }
    }

    /// Lets go of the links of devices that are gone, and keeps those of moved ones pinned.
    pub(super) fn sweep(&mut self, done: &mut Followed) -> Result<(), KernelError> {
        let gone = |link: &Held| {
            link.link_info()
                .is_ok_and(|info| info.attached_to == AttachedTo::Interface(0))
        };
        for (ifindex, _) in self.tcx.extract_if(.., |_, link| gone(link)) {
            unpin(&self.pins.tcx_link(ifindex))?;
        }
        for (pin, _) in self.moved.extract_if(.., |(_, link)| gone(link)) {
            unpin(&pin)?;
        }
        for (pin, link) in &self.moved {
            done.keep_pinned(link, pin);
        }
        Ok(())
    }

    /// Puts away the link of an interface that is not in its chain: it belongs to a device that has gone, or that was
    /// moved to another namespace with the program on it. Brings it back when such a device comes back.
    fn sort_out(&mut self, ifindex: u32, chain: &[Chained], done: &mut Followed) {
        let pin = self.pins.tcx_link(ifindex);
        if let Some(link) = self
            .tcx
            .extract_if(ifindex..=ifindex, |_, link| {
                place(chain, link.id()).is_none()
            })
            .next()
            .map(|(_, link)| link)
        {
            let gone = link
                .link_info()
                .is_ok_and(|info| info.attached_to == AttachedTo::Interface(0));
            if !gone {
                let aside = self.pins.moved_link(ifindex);
                done.pinned(&aside, link.pin_over(&aside));
                self.moved.push((aside, link));
            }
            done.pinned(&pin, unpin(&pin).map(drop));
        }
        let back = |(_, link): &(PathBuf, Held)| place(chain, link.id()).is_some();
        if let Some(index) = self.moved.iter().position(back) {
            let (aside, link) = self.moved.swap_remove(index);
            done.pinned(&pin, link.pin_over(&pin));
            done.pinned(&aside, unpin(&aside).map(drop));
            self.tcx.insert(ifindex, link);
        }
    }
}

fn hold(link: OwnedFd) -> Result<Held, KernelError> {
    Held::link(link).map_err(KernelError::call("BPF_OBJ_GET_INFO_BY_FD", "a new link"))
}

fn detach_link(link: &Held) {
    if let Err(error) = link_detach(link.as_fd()) {
        log::debug!("link {} goes with its last holder: {error}", link.id());
    }
}

/// The part of the enforcement that a hook is.
const fn part(hook: CgroupHook) -> Part {
    match hook {
        CgroupHook::Egress => Part::Cgroup,
        CgroupHook::Setsockopt => Part::Setsockopt,
        CgroupHook::Create | CgroupHook::Connect4 | CgroupHook::Connect6 => Part::Owners,
        CgroupHook::Sendmsg4
        | CgroupHook::Sendmsg6
        | CgroupHook::Recvmsg4
        | CgroupHook::Recvmsg6
        | CgroupHook::Getpeername4
        | CgroupHook::Getpeername6 => Part::Redirect,
    }
}

fn create_cgroup(
    hook: CgroupHook,
    cgroup: &Path,
    program: &ProgramHandle,
) -> Result<OwnedFd, KernelError> {
    let subject = || cgroup.display().to_string();
    let directory = File::open(cgroup).map_err(KernelError::call("open", subject()))?;
    let target = Target::Cgroup(hook, directory.as_fd());
    link_create(program.fd.as_fd(), target).map_err(|error| {
        if error.raw_os_error() == Some(libc::EPERM) {
            return KernelError::Missing {
                what: format!("the right to add a program to the cgroup {}", subject()),
                remedy: "another tool has attached one there exclusively; find it with `bpftool cgroup tree`, or \
                         name another cgroup with --cgroup"
                    .into(),
                source: Some(Box::new(error)),
            };
        }
        let call = match hook {
            CgroupHook::Egress => "BPF_LINK_CREATE (cgroup_skb/egress)",
            CgroupHook::Setsockopt => "BPF_LINK_CREATE (cgroup/setsockopt)",
            CgroupHook::Create => "BPF_LINK_CREATE (cgroup/sock_create)",
            CgroupHook::Connect4 => "BPF_LINK_CREATE (cgroup/connect4)",
            CgroupHook::Connect6 => "BPF_LINK_CREATE (cgroup/connect6)",
            CgroupHook::Sendmsg4 => "BPF_LINK_CREATE (cgroup/sendmsg4)",
            CgroupHook::Sendmsg6 => "BPF_LINK_CREATE (cgroup/sendmsg6)",
            CgroupHook::Recvmsg4 => "BPF_LINK_CREATE (cgroup/recvmsg4)",
            CgroupHook::Recvmsg6 => "BPF_LINK_CREATE (cgroup/recvmsg6)",
            CgroupHook::Getpeername4 => "BPF_LINK_CREATE (cgroup/getpeername4)",
            CgroupHook::Getpeername6 => "BPF_LINK_CREATE (cgroup/getpeername6)",
        };
        KernelError::call(call, subject())(error)
    })
}

/// Whether this kernel has TCX (6.6 and later).
pub(super) fn has_tcx() -> Result<bool, KernelError> {
    match tcx_egress_chain(LOOPBACK_IFINDEX) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(KernelError::call(
            "BPF_PROG_QUERY (tcx egress)",
            "the loopback interface",
        )(error)),
    }
}

/// The programs at TCX egress of an interface, in the order in which they run; `None` if it is gone.
fn chain(ifindex: u32) -> Result<Option<Vec<Chained>>, KernelError> {
    match tcx_egress_chain(ifindex) {
        Ok(chain) => Ok(Some(chain)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(KernelError::call(
            "BPF_PROG_QUERY (tcx egress)",
            format!("interface {ifindex}"),
        )(error)),
    }
}

fn place(chain: &[Chained], link_id: u32) -> Option<usize> {
    chain.iter().position(|entry| entry.link_id == link_id)
}

/// Replaces the program of a link, unless that has it already; says which.
fn replace(
    link: &Held,
    info: LinkInfo,
    program: &ProgramHandle,
    twins: &mut Twins,
    subject: &str,
) -> Result<bool, KernelError> {
    if twins.are(info.program_id, program) {
        return Ok(false);
    }
    link_update(link.as_fd(), program.fd.as_fd())
        .map_err(KernelError::call("BPF_LINK_UPDATE", subject))?;
    Ok(true)
}

/// Checks that what is pinned as a link is one that leakguard can have made; says which programs they have.
///
/// Nothing must be attached next to something foreign.
pub(super) fn check_pinned(pins: &Pins) -> Result<BTreeSet<u32>, KernelError> {
    let mut programs = BTreeSet::new();
    for (_, pin) in pins.tcx_links()? {
        programs.extend(open_link(&pin)?.map(|(_, info)| info.program_id));
    }
    for hook in CgroupHook::ALL {
        let info = cgroup_link(pins, hook)?;
        programs.extend(info.map(|info| info.program_id));
    }
    Ok(programs)
}

/// Detaches a link that another process has left, and removes the pin; says whether there was one.
pub(super) fn detach(pin: &Path) -> Result<bool, KernelError> {
    if let Some(link) = open(pin)?
        && let Err(error) = link_detach(link.as_fd())
    {
        log::debug!("{} goes with its pin: {error}", pin.display());
    }
    // By itself this would do, but only after a grace period in which the program still drops packets.
    unpin(pin)
}

/// Whether the program of a pinned link runs in the current namespace; `None` if it is attached to nothing.
pub(super) fn is_here(info: LinkInfo) -> Result<Option<bool>, KernelError> {
    match info.attached_to {
        AttachedTo::Interface(0) | AttachedTo::Cgroup(_, 0) => Ok(None),
        AttachedTo::Interface(ifindex) => Ok(Some(
            chain(ifindex)?.is_some_and(|chain| place(&chain, info.id).is_some()),
        )),
        AttachedTo::Cgroup(..) | AttachedTo::Foreign => Ok(Some(true)),
    }
}

/// Opens a pinned link; an error if something else is pinned there.
pub(super) fn open_link(pin: &Path) -> Result<Option<(OwnedFd, LinkInfo)>, KernelError> {
    let foreign = || KernelError::Foreign {
        path: pin.to_owned(),
        expected: "link",
    };
    if pin.is_dir() {
        return Err(foreign());
    }
    let Some(link) = open(pin)? else {
        return Ok(None);
    };
    match link_info(link.as_fd()) {
        Ok(info) if info.attached_to != AttachedTo::Foreign => Ok(Some((link, info))),
        _ => Err(foreign()),
    }
}

/// What is pinned as the link of a cgroup's hook; an error if that is something else.
fn cgroup_link(pins: &Pins, hook: CgroupHook) -> Result<Option<LinkInfo>, KernelError> {
    let pin = pins.link_of(hook);
    match open_link(&pin)? {
        None => Ok(None),
        Some((_, info)) if matches!(info.attached_to, AttachedTo::Cgroup(found, _) if found == hook) => {
            Ok(Some(info))
        }
        Some(_) => Err(KernelError::Foreign {
            path: pin,
            expected: "link",
        }),
    }
}

/// Reads back what the pinned link of a cgroup's hook does; `None` if there is none, or if its cgroup was removed.
pub(super) fn cgroup_attachment(
    pins: &Pins,
    hook: CgroupHook,
) -> Result<Option<CgroupAttachment>, KernelError> {
    let Some(info) = cgroup_link(pins, hook)? else {
        return Ok(None);
    };
    match info.attached_to {
        AttachedTo::Cgroup(_, 0) | AttachedTo::Interface(_) | AttachedTo::Foreign => Ok(None),
        AttachedTo::Cgroup(_, cgroup_id) => Ok(Some(CgroupAttachment {
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
    let chain = chain(ifindex)?.unwrap_or_default();
    Ok(match place(&chain, info.id) {
        Some(0) => TcAttachment::Head,
        Some(_) => TcAttachment::Behind,
        None => TcAttachment::Absent,
    })
}

/// The number of the program that the pinned link of an interface has in its chain.
pub(super) fn tcx_program(pins: &Pins, ifindex: u32) -> Result<Option<u32>, KernelError> {
    let Some((_, info)) = open_link(&pins.tcx_link(ifindex))? else {
        return Ok(None);
    };
    let chain = chain(ifindex)?.unwrap_or_default();
    Ok(place(&chain, info.id).map(|_| info.program_id))
}

impl Followed {
    /// Sees to the pin of a link, and notes what had been wrong with it.
    fn keep_pinned(&mut self, link: &Held, pin: &Path) {
        match link.keep_pinned(pin) {
            Ok(None) => {}
            Ok(Some(wrong)) => self.change(Part::Pins, pin.display().to_string(), wrong),
            Err(error) => self.pinned(pin, Err(error)),
        }
    }

    /// Notes that something is not pinned as it should be: it is there, but goes with this process.
    fn pinned(&mut self, pin: &Path, result: Result<(), KernelError>) {
        if let Err(error) = result {
            self.failures.push(format!(
                "cannot keep the pin {}: {}",
                pin.display(),
                chain_of(&error)
            ));
        }
    }
}
