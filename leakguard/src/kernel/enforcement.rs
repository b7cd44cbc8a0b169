//! Enforcement as a whole: establish it, let it follow the interfaces, lift it.

use std::path::PathBuf;

use leakguard_common::abi::{Outcome, Role, Settings};
use leakguard_common::packet::LinkLayer;

use super::links::{self, CgroupAttachment, TcxOutcome};
use super::maps::Maps;
use super::netns::Identity;
use super::object::{CgroupVariant, LINK_LAYERS, Loaded, Object, ProgramHandle, tc_program};
use super::pins::{Lock, Pins};
use super::requirements::{check_cgroup, check_privileges};
use super::ring::EventRing;
use super::{KernelError, clsact};

/// What to enforce, and where its state lives.
#[derive(Clone, Debug)]
pub struct Options {
    /// The pin directory.
    pub pins: Pins,
    /// The cgroup2 directory whose sockets are judged.
    pub cgroup: PathBuf,
    /// Mode and classes; the namespace's identity is filled in.
    pub settings: Settings,
}

/// What enforcement needs to know of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number in the managed namespace.
    pub ifindex: u32,
    /// Its name; only kernels without TCX ask for it.
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
    options: Options,
    object: Object,
    maps: Maps,
    cgroup_program: ProgramHandle,
    tc_programs: [(LinkLayer, ProgramHandle); LINK_LAYERS.len()],
    tc_mode: TcMode,
    devices: Vec<Device>,
    _lock: Lock,
}

impl Enforcement {
    /// Checks the machine, loads the programs and takes the lock; nothing is attached or changed yet.
    pub fn prepare(mut options: Options) -> Result<Self, KernelError> {
        check_privileges()?;
        check_cgroup(&options.cgroup)?;
        let fresh = !options.pins.exist();
        options.pins.create()?;
        let prepared = Self::load(&mut options);
        if prepared.is_err() && fresh {
            options.pins.remove()?;
        }
        let (lock, object, maps) = prepared?;
        Self::new(options, lock, object, maps)
    }

    fn load(options: &mut Options) -> Result<(Lock, Object, Maps), KernelError> {
        let lock = options.pins.lock()?;
        let identity = Identity::current()?;
        if let Some(maps) = Maps::open(&options.pins)? {
            check_namespace(&options.pins, &maps.settings()?, identity)?;
        }
        options.settings.netns_cookie = identity.cookie;
        options.settings.netns_inode = identity.inode;
        let mut object = Object::load(&options.pins)?;
        let maps = object.maps()?;
        Ok((lock, object, maps))
    }

    fn new(options: Options, lock: Lock, object: Object, maps: Maps) -> Result<Self, KernelError> {
        let cgroup_program = object.handle(object.variant().program())?;
        let [ethernet, ip, unknown] = LINK_LAYERS;
        let tc = |link| object.handle(tc_program(link)).map(|handle| (link, handle));
        let tc_programs = [tc(ethernet)?, tc(ip)?, tc(unknown)?];
        Ok(Self {
            options,
            object,
            maps,
            cgroup_program,
            tc_programs,
            tc_mode: TcMode::Tcx,
            devices: Vec::new(),
            _lock: lock,
        })
    }

    /// Judges local sockets from now on: allow list first, then the programs' settings, then the cgroup hook.
    ///
    /// Says whether anything was different before.
    pub fn enforce_sockets(&mut self, devices: &[Device]) -> Result<bool, KernelError> {
        let mut changed = self.permit(devices)?;
        changed |= self.maps.set_settings(self.options.settings)?;
        changed |= links::attach_cgroup(
            &self.options.pins,
            &self.options.cgroup,
            &self.cgroup_program,
        )?;
        Ok(changed)
    }

    /// Follows the interfaces: permissions first, because they take effect at once, then the TC programs.
    ///
    /// An interface that goes away meanwhile is no error. Says whether anything was different before.
    pub fn follow(&mut self, devices: &[Device]) -> Result<bool, KernelError> {
        let mut changed = self.permit(devices)?;
        changed |= links::sweep(&self.options.pins)?;
        for device in devices {
            changed |= if device.role == Role::Uplink {
                self.attach(device)?
            } else {
                self.detach(device)?
            };
        }
        self.devices = devices.to_vec();
        Ok(changed)
    }

    /// Takes the event ring; there is one.
    pub fn take_ring(&mut self) -> Result<EventRing, KernelError> {
        let ring = self.object.ring()?;
        EventRing::new(ring).map_err(KernelError::call("epoll_ctl", "the event ring"))
    }

    /// What the programs are told.
    pub fn settings(&self) -> &Settings {
        &self.options.settings
    }

    /// What was loaded into this kernel.
    pub fn loaded(&self) -> &[Loaded] {
        self.object.loaded()
    }

    /// The cgroup variant that this kernel took.
    pub fn variant(&self) -> CgroupVariant {
        self.object.variant()
    }

    /// Forwards the programs' own log lines (debug builds).
    pub fn flush_log(&mut self) {
        self.object.flush_log();
    }

    /// Lifts enforcement: detaches everything and removes every pin.
    pub fn release(self) -> Result<(), KernelError> {
        for device in &self.devices {
            if self.tc_mode == TcMode::Clsact {
                clsact::detach(&device.name);
            }
        }
        self.options.pins.remove()
    }

    fn permit(&mut self, devices: &[Device]) -> Result<bool, KernelError> {
        let role = |ifindex| {
            devices
                .iter()
                .find(|device| device.ifindex == ifindex)
                .map_or(Role::Uplink, |device| device.role)
        };
        let mut changed = self.maps.retain(role)?;
        for device in devices {
            changed |= self.maps.permit(device.ifindex, device.role)?;
        }
        Ok(changed)
    }

    fn attach(&mut self, device: &Device) -> Result<bool, KernelError> {
        if self.tc_mode == TcMode::Tcx {
            match links::attach_tcx(
                &self.options.pins,
                device.ifindex,
                self.tc_handle(device.link),
            )? {
                TcxOutcome::Changed => return Ok(true),
                TcxOutcome::Unchanged | TcxOutcome::Gone => return Ok(false),
                TcxOutcome::Unsupported => {
                    log::info!("this kernel has no TCX: using the clsact qdisc");
                    self.tc_mode = TcMode::Clsact;
                }
            }
        }
        let known = self.devices.iter().any(|known| known == device);
        if known {
            return Ok(false);
        }
        let program = self.object.classifier(tc_program(device.link))?;
        clsact::attach(program, &device.name)
    }

    fn detach(&mut self, device: &Device) -> Result<bool, KernelError> {
        match self.tc_mode {
            TcMode::Tcx => links::detach_tcx(&self.options.pins, device.ifindex),
            TcMode::Clsact => Ok(clsact::detach(&device.name)),
        }
    }

    fn tc_handle(&self, wanted: LinkLayer) -> &ProgramHandle {
        let [ethernet, ip, unknown] = &self.tc_programs;
        match wanted {
            LinkLayer::Ethernet => &ethernet.1,
            LinkLayer::Ip => &ip.1,
            LinkLayer::Unknown => &unknown.1,
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

    /// Where leakguard's TCX program stands on an interface of the current namespace.
    pub fn tcx(&self, ifindex: u32) -> Result<links::TcxAttachment, KernelError> {
        links::tcx_attachment(&self.pins, ifindex)
    }

    /// How many events had an outcome.
    pub fn events(&self, outcome: Outcome) -> Result<u64, KernelError> {
        self.maps.events(outcome)
    }
}

/// Lifts enforcement that no agent holds; says whether there was any.
///
/// `interfaces` are the names that a filter may be on, for kernels without TCX.
pub fn release(pins: &Pins, interfaces: &[String]) -> Result<bool, KernelError> {
    check_privileges()?;
    if !pins.exist() {
        return Ok(false);
    }
    let _lock = pins.lock()?;
    for interface in interfaces {
        clsact::detach(interface);
    }
    pins.remove()?;
    Ok(true)
}
