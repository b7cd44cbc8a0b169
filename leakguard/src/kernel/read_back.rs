//! What enforces, read back from the kernel: the same with and without an agent.

use leakguard_common::abi::Settings;

use super::inherit::{self, check_namespace, used_maps};
use super::links::{self, CgroupAttachment, TcAttachment};
use super::maps::Maps;
use super::object::{is_lean, programs};
use super::pins::Pins;
use super::syscall::CgroupHook;
use super::{KernelError, clsact};

/// What the kernel says about enforcement, without an agent's help.
pub struct ReadBack {
    /// What the programs are told.
    pub settings: Settings,
    /// Whether the state belongs to the caller's namespace.
    pub here: bool,
    /// The program that judges local sockets, if it is attached.
    pub cgroup: Option<CgroupAttachment>,
    /// The program that judges socket options, if it is attached.
    pub setsockopt: Option<CgroupAttachment>,
    /// Whether the programs judge by headers alone, because the kernel refuses the others.
    pub lean: bool,
    /// The hooks where calls are not redirected, though they should be.
    pub unredirected: Vec<&'static str>,
    /// The hooks where nothing records who uses a socket.
    pub unrecorded: Vec<&'static str>,
    /// The maps that the programs work on, for roles and counters.
    pub maps: Maps,
    /// What is not pinned as it should be, so that the next start would have to repair it.
    pub gaps: Vec<String>,
    pins: Pins,
}

impl ReadBack {
    /// Opens what is pinned; `None` if nothing enforces.
    pub fn open(pins: &Pins) -> Result<Option<Self>, KernelError> {
        if !pins.exist()? {
            return Ok(None);
        }
        let cgroup = links::cgroup_attachment(pins, CgroupHook::Egress)?;
        // What the program of local sockets works on counts, whatever is pinned; some maps are used at uplinks only.
        let first = cgroup.map(|found| found.program_id);
        let mut running = links::check_pinned(pins).unwrap_or_default();
        running.extend(first);
        let used = used_maps(&running, first);
        let maps = match Maps::of_programs(&used, pins) {
            Ok(maps) => Some(maps),
            Err(_not_attached) => Maps::open(pins)?,
        };
        let Some(maps) = maps else {
            return Ok(None);
        };
        let settings = maps.settings()?;
        Ok(Some(Self {
            settings,
            here: check_namespace(pins).is_ok(),
            cgroup,
            setsockopt: links::cgroup_attachment(pins, CgroupHook::Setsockopt)?,
            lean: programs(&first.into_iter().collect()).any(|program| is_lean(&program)),
            unrecorded: absent(pins, cgroup, &CgroupHook::OF_OWNERS)?,
            unredirected: if settings.redirect == 0 {
                Vec::new()
            } else {
                absent(pins, cgroup, &CgroupHook::OF_REDIRECTION)?
            },
            maps,
            gaps: inherit::gaps(pins, &used),
            pins: pins.clone(),
        }))
    }

    /// Whether the kill switch is engaged now, as the programs see it.
    pub fn is_engaged(&self) -> Result<bool, KernelError> {
        self.maps.is_engaged()
    }

    /// The number of leakguard's TC program on an interface of the current namespace, if it is there.
    pub fn tc_program(&self, ifindex: u32) -> Result<Option<u32>, KernelError> {
        match links::tcx_program(&self.pins, ifindex)? {
            None => clsact::program(ifindex),
            program => Ok(program),
        }
    }

    /// Where leakguard's TC program stands on an interface of the current namespace.
    pub fn tc(&self, ifindex: u32) -> Result<TcAttachment, KernelError> {
        match links::tcx_attachment(&self.pins, ifindex)? {
            TcAttachment::Absent => clsact::attachment(ifindex),
            attachment => Ok(attachment),
        }
    }
}

/// Those of the hooks where the cgroup that local sockets are judged in has no program.
fn absent(
    pins: &Pins,
    cgroup: Option<CgroupAttachment>,
    hooks: &[CgroupHook],
) -> Result<Vec<&'static str>, KernelError> {
    let id = |found: Option<CgroupAttachment>| found.map(|found| found.cgroup_id);
    let mut missing = Vec::new();
    for &hook in hooks {
        let found = links::cgroup_attachment(pins, hook)?;
        if found.is_none() || id(found) != id(cgroup) {
            missing.push(hook.name());
        }
    }
    Ok(missing)
}
