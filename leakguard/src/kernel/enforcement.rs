//! Enforcement as a whole: establish it, let it follow the interfaces, lift it.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use leakguard_common::abi::{Role, Settings};
use leakguard_common::packet::LinkLayer;

use super::links::{self, CgroupAttachment, TcAttachment};
use super::maps::Maps;
use super::netns::Identity;
use super::object::{LINK_LAYERS, Loaded, Object, ProgramHandle, tc_program};
use super::pins::{Lock, Pins};
use super::requirements::{check_privileges, lift_memory_limit};
use super::ring::EventRing;
use super::{KernelError, clsact};
use crate::error::chain;

/// What enforcement needs to know of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number in the managed namespace.
    pub ifindex: u32,
    /// Its name, for messages.
    pub name: String,
    /// What it may carry.
    pub role: Role,
    /// What its packets start with.
    pub link: LinkLayer,
}

/// How TC programs are attached on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcMode {
    /// Links at the head of the TCX chain (6.6 and later).
    Tcx,
    /// A filter on the clsact qdisc.
    Clsact,
}

/// Enforcement in the managed network namespace. Dropping it leaves the kernel side in place.
pub struct Enforcement {
    pins: Pins,
    object: Object,
    maps: Maps,
    cgroup_program: ProgramHandle,
    tc_programs: [ProgramHandle; LINK_LAYERS.len()],
    tc_mode: TcMode,
    devices: Vec<Device>,
    fresh: bool,
    _lock: Lock,
}

/// What following the interfaces did.
#[derive(Debug, Default)]
pub struct Followed {
    /// Whether anything was different before.
    pub changed: bool,
    /// What could not be done, with the causes; one sentence each.
    pub failures: Vec<String>,
    /// The uplinks that a TC program judges now.
    pub covered: BTreeSet<u32>,
    /// There are more uplinks to cover than the time allowed.
    pub postponed: bool,
}

impl Followed {
    fn note(&mut self, subject: &str, result: Result<bool, KernelError>) {
        match result {
            Ok(changed) => self.changed |= changed,
            Err(error) => self
                .failures
                .push(format!("cannot cover {subject}: {}", chain(&error))),
        }
    }
}

impl Enforcement {
    /// Checks the machine, loads the programs and takes the lock; nothing is attached or changed yet.
    ///
    /// State that is pinned already is taken over.
    pub fn prepare(pins: &Pins) -> Result<Self, KernelError> {
        check_privileges()?;
        lift_memory_limit();
        pins.create()?;
        // Only under the lock is what is not there nobody else's work in progress.
        let lock = pins.lock()?;
        let fresh = pins.are_empty()?;
        Self::load(pins, fresh, lock).inspect_err(|_| {
            if fresh && let Err(error) = pins.remove() {
                log::warn!("cannot remove {}: {error}", pins.root().display());
            }
        })
    }

    fn load(pins: &Pins, fresh: bool, lock: Lock) -> Result<Self, KernelError> {
        links::check_pinned(pins)?;
        if let Some(maps) = Maps::open(pins)? {
            check_namespace(pins, &maps.settings()?, Identity::current()?)?;
        }
        let mut object = Object::load(pins)?;
        let maps = object.maps()?;
        let cgroup_program = object.handle(object.variant().program())?;
        let tc_mode = if links::has_tcx()? {
            TcMode::Tcx
        } else {
            log::debug!("this kernel has no TCX: using the clsact qdisc");
            TcMode::Clsact
        };
        let [ethernet, ip, unknown] = LINK_LAYERS.map(|link| object.handle(tc_program(link)));
        Ok(Self {
            pins: pins.clone(),
            object,
            maps,
            cgroup_program,
            tc_programs: [ethernet?, ip?, unknown?],
            tc_mode,
            devices: Vec::new(),
            fresh,
            _lock: lock,
        })
    }

    /// Whether nothing was enforced before, so that a failure to establish can be undone.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The role that the programs give an interface now.
    pub fn role(&self, ifindex: u32) -> Role {
        self.maps.role(ifindex)
    }

    /// Judges the local sockets of a cgroup from now on; says whether anything was different before.
    ///
    /// The namespace's identity in `settings` is filled in. Call [`Enforcement::permit`] before.
    pub fn enforce_sockets(
        &mut self,
        cgroup: &Path,
        mut settings: Settings,
    ) -> Result<bool, KernelError> {
        let Identity { cookie, inode } = Identity::current()?;
        settings.netns_cookie = cookie;
        settings.netns_inode = inode;
        let changed = self.maps.set_settings(settings)?;
        Ok(links::attach_cgroup(&self.pins, cgroup, &self.cgroup_program)? || changed)
    }

    /// Lets exactly the tunnels and local interfaces among the devices carry DNS, at once.
    ///
    /// One that cannot be let does not keep the others from it: it stays blocked.
    pub fn permit(&mut self, devices: &[Device]) -> Result<Followed, KernelError> {
        let roles: HashMap<u32, Role> = devices
            .iter()
            .map(|device| (device.ifindex, device.role))
            .collect();
        let role = |ifindex| roles.get(&ifindex).copied().unwrap_or(Role::Uplink);
        let mut followed = Followed {
            changed: self.maps.retain(role)?,
            ..Followed::default()
        };
        for device in devices {
            followed.note(&device.name, self.maps.permit(device.ifindex, device.role));
        }
        Ok(followed)
    }

    /// Puts the TC program on every uplink among the devices, and takes it off the others.
    ///
    /// An interface that goes away meanwhile is no failure; one that fails does not keep the others from being
    /// covered. New uplinks are covered for about as long as `time`, so that a burst of them does not hold up what is
    /// more urgent: each waits for an RCU grace period, about 12 ms (`tcx_entry_sync` in `include/net/tcx.h`, 6.18).
    pub fn attach(&mut self, devices: &[Device], time: Duration) -> Followed {
        let mut followed = Followed::default();
        let mut spent = Duration::ZERO;
        followed.note(
            "links of interfaces that are gone",
            links::sweep(&self.pins),
        );
        for device in devices {
            let started = Instant::now();
            let is_new = device.role == Role::Uplink
                && self.tc_mode == TcMode::Tcx
                && !self.pins.tcx_link(device.ifindex).exists();
            if is_new && spent >= time {
                followed.postponed = true;
                continue;
            }
            let result = match device.role {
                Role::Uplink => self.attach_device(device),
                Role::Tunnel | Role::Local => self.detach_device(device),
            };
            if device.role == Role::Uplink && result.is_ok() {
                followed.covered.insert(device.ifindex);
            }
            followed.note(&device.name, result);
            if is_new {
                spent += started.elapsed();
            }
        }
        self.devices = devices.to_vec();
        followed
    }

    /// Takes the event ring; there is one.
    pub fn take_ring(&mut self) -> Result<EventRing, KernelError> {
        let ring = self.object.ring()?;
        EventRing::new(ring).map_err(KernelError::call("epoll_ctl", "the event ring"))
    }

    /// What was loaded into this kernel.
    pub fn loaded(&self) -> &[Loaded] {
        self.object.loaded()
    }

    /// Forwards the programs' own log lines (debug builds).
    pub fn flush_log(&mut self) {
        self.object.flush_log();
    }

    /// Lifts enforcement: detaches everything and removes every pin.
    pub fn release(self) -> Result<(), KernelError> {
        let detached = match self.tc_mode {
            TcMode::Tcx => Ok(false),
            TcMode::Clsact => detach_filters(self.devices.iter().map(|device| device.ifindex)),
        };
        links::detach_all(&self.pins)?;
        self.pins.remove()?;
        detached.map(drop)
    }

    fn attach_device(&self, device: &Device) -> Result<bool, KernelError> {
        let program = self.tc_handle(device.link);
        match self.tc_mode {
            TcMode::Tcx => links::attach_tcx(&self.pins, device.ifindex, program),
            TcMode::Clsact => clsact::attach(device.ifindex, program),
        }
    }

    fn detach_device(&self, device: &Device) -> Result<bool, KernelError> {
        match self.tc_mode {
            TcMode::Tcx => links::detach_tcx(&self.pins, device.ifindex),
            TcMode::Clsact => clsact::detach(device.ifindex),
        }
    }

    fn tc_handle(&self, wanted: LinkLayer) -> &ProgramHandle {
        let [ethernet, ip, unknown] = &self.tc_programs;
        match wanted {
            LinkLayer::Ethernet => ethernet,
            LinkLayer::Ip => ip,
            LinkLayer::Unknown => unknown,
        }
    }
}

/// Refuses state that enforces elsewhere: interface numbers there mean other devices.
fn check_namespace(
    pins: &Pins,
    settings: &Settings,
    identity: Identity,
) -> Result<(), KernelError> {
    let Settings {
        netns_cookie,
        netns_inode,
        ..
    } = *settings;
    let unknown = netns_inode == 0;
    if unknown || (netns_cookie, netns_inode) == (identity.cookie, identity.inode) {
        return Ok(());
    }
    Err(KernelError::OtherNamespace {
        path: pins.root().to_owned(),
        bpffs: pins.bpffs().to_owned(),
    })
}

/// What the kernel says about enforcement, without an agent's help.
pub struct ReadBack {
    /// What the programs are told.
    pub settings: Settings,
    /// Whether the state belongs to the caller's namespace.
    pub here: bool,
    /// The cgroup hook, if it is attached.
    pub cgroup: Option<CgroupAttachment>,
    /// The maps, for roles and counters.
    pub maps: Maps,
    pins: Pins,
}

impl ReadBack {
    /// Opens what is pinned; `None` if nothing enforces.
    pub fn open(pins: &Pins) -> Result<Option<Self>, KernelError> {
        if !pins.exist()? {
            return Ok(None);
        }
        let Some(maps) = Maps::open(pins)? else {
            return Ok(None);
        };
        let settings = maps.settings()?;
        let here = check_namespace(pins, &settings, Identity::current()?).is_ok();
        let cgroup = links::cgroup_attachment(pins)?;
        Ok(Some(Self {
            settings,
            here,
            cgroup,
            maps,
            pins: pins.clone(),
        }))
    }

    /// Where leakguard's TC program stands on an interface of the current namespace.
    pub fn tc(&self, ifindex: u32) -> Result<TcAttachment, KernelError> {
        match links::tcx_attachment(&self.pins, ifindex)? {
            TcAttachment::Absent => clsact::attachment(ifindex),
            attachment => Ok(attachment),
        }
    }
}

/// Lifts enforcement that no agent holds; says whether there was any.
///
/// `interfaces` are the numbers of those that a filter may be on, for kernels without TCX.
pub fn release(
    pins: &Pins,
    interfaces: impl IntoIterator<Item = u32>,
) -> Result<bool, KernelError> {
    check_privileges()?;
    let pinned = pins.exist()?;
    let _lock = pinned.then(|| pins.lock()).transpose()?;
    // Filters outlive the pins if somebody has unmounted the bpffs.
    let detached = detach_filters(interfaces);
    if pinned {
        links::detach_all(pins)?;
        pins.remove()?;
    }
    Ok(detached? || pinned)
}

/// Detaches wherever it can; says whether there was a filter, or why one is still there.
fn detach_filters(interfaces: impl IntoIterator<Item = u32>) -> Result<bool, KernelError> {
    let mut found = Ok(false);
    for ifindex in interfaces {
        match clsact::detach(ifindex) {
            Ok(detached) => found = found.map(|found| found || detached),
            Err(error) => found = Err(error),
        }
    }
    found
}
