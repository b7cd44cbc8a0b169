//! Enforcement as a whole: establish it, let it follow the interfaces, lift it.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leakguard_common::abi::{ABI_VERSION, Liveness, Role, Settings, map};
use leakguard_common::packet::LinkLayer;

use super::exemptions::Exemptions;
use super::held::Held;
use super::inherit::inherit;
use super::links::{self, Links, Standing};
use super::maps::Maps;
use super::netns::Identity;
use super::object::{Loaded, Object, ProgramHandle, Reports, Twins};
use super::overtake::{MOST, Overtakings};
use super::pending::Pending;
use super::pins::{Lock, Pins};
use super::programs::Programs;
use super::recognition::Recognition;
use super::redirection::Redirection;
use super::requirements::{check_privileges, is_bpffs, lift_limits};
use super::syscall::CgroupHook;
use super::versions::{self, Older};
use super::{KernelError, boot_time, clsact};
use crate::change::{Change, Part};
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

/// How long a tunnel that was vouched for counts as up, in nanoseconds: without an agent nobody would notice that it is
/// down.
const LEASE_NANOSECONDS: u64 = 10_000_000_000;

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
    /// The pinned maps, held open.
    pinned: Arc<[(&'static str, Held)]>,
    maps: Maps,
    /// The program for local packets that was loaded first.
    first: ProgramHandle,
    programs: Pending<Programs>,
    twins: Twins,
    links: Links,
    tc_mode: TcMode,
    devices: Vec<Device>,
    overtakings: Overtakings,
    fresh: bool,
    older: Vec<Older>,
    lock: Lock,
}

/// What bringing the kernel in line did.
#[derive(Debug, Default)]
pub struct Followed {
    /// What was different before.
    pub changes: Vec<Change>,
    /// What could not be done, with the causes; one sentence each.
    pub failures: Vec<String>,
    /// The uplinks that a TC program judges now, before any other.
    pub covered: BTreeSet<u32>,
    /// There are more uplinks to cover than the time allowed.
    pub postponed: bool,
}

impl Followed {
    /// Notes that something had to be changed.
    pub(super) fn change(
        &mut self,
        part: Part,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.changes.push(Change::new(part, subject, message));
    }

    /// Notes whether something could be done.
    pub(super) fn note(&mut self, subject: &str, result: Result<(), KernelError>) {
        if let Err(error) = result {
            self.failures
                .push(format!("cannot cover {subject}: {}", chain(&error)));
        }
    }
}

impl Enforcement {
    /// Checks the machine, loads the program for local packets and takes the lock; nothing is attached or changed yet. The
    /// other programs are loaded meanwhile: what needs them waits for them.
    ///
    /// State that is pinned already is taken over. That of an older version stays until [`Enforcement::supersede`].
    pub fn prepare(pins: &Pins) -> Result<Self, KernelError> {
        check_privileges()?;
        lift_limits();
        if is_bpffs(pins.bpffs()) {
            // What is refused must not find a directory of this version next to it afterwards.
            drop(versions::survey(pins)?);
        }
        pins.create()?;
        // Only under the lock is what is not there nobody else's work in progress.
        let lock = pins.lock()?;
        let older = versions::survey(pins)?;
        let empty = pins.are_empty()?;
        Self::load(pins, empty, older, lock).inspect_err(|_| {
            if empty && let Err(error) = pins.remove() {
                log::warn!("cannot remove {}: {error}", pins.root().display());
            }
        })
    }

    fn load(pins: &Pins, empty: bool, older: Vec<Older>, lock: Lock) -> Result<Self, KernelError> {
        let missing = inherit(pins)?;
        if !empty && !missing.is_empty() {
            log::warn!(
                "the state under {} is incomplete and is repaired; missing: {}",
                pins.root().display(),
                missing.join(", ")
            );
        }
        let mut object = Object::begin(pins)?;
        let maps = object.maps()?;
        let tc_mode = if links::has_tcx()? {
            TcMode::Tcx
        } else {
            log::debug!("this kernel has no TCX: using the clsact qdisc");
            TcMode::Clsact
        };
        Ok(Self {
            first: object.handle(object.variant().program())?,
            pinned: Arc::clone(object.pinned()),
            programs: Pending::begin("programs", move || {
                object.finish()?;
                Programs::of(object)
            })?,
            links: Links::take_over(pins)?,
            pins: pins.clone(),
            maps,
            twins: Twins::default(),
            tc_mode,
            devices: Vec::new(),
            overtakings: Overtakings::default(),
            fresh: empty && older.is_empty(),
            older,
            lock,
        })
    }

    /// Whether nothing was enforced before, so that a failure to establish can be undone.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// How TC programs are attached here.
    pub fn tc_mode(&self) -> TcMode {
        self.tc_mode
    }

    /// The role that the programs give an interface now.
    pub fn role(&self, ifindex: u32) -> Role {
        self.maps.role(ifindex)
    }

    /// Waits until every program is loaded.
    pub fn await_programs(&mut self) -> Result<(), KernelError> {
        self.programs.wait().map(drop)
    }

    /// Sees to it that the maps are pinned, in a directory that can be found and is locked; mounts a bpffs again where
    /// that is allowed.
    ///
    /// What is attached is held open by this process, and does not depend on it. Call this before everything else:
    /// links are pinned where they are seen to.
    pub fn keep_pinned(&mut self) -> Followed {
        let mut followed = Followed::default();
        if !self.lock.is_of(&self.pins) {
            let made = self.pins.create().and_then(|()| self.pins.lock());
            match made {
                Ok(lock) => {
                    self.lock = lock;
                    let path = self.pins.root().display().to_string();
                    followed.change(Part::Pins, path, "the pin directory was gone: made again");
                }
                Err(error) => {
                    followed.failures.push(format!(
                        "cannot keep the pins, enforcement goes when the agent goes: {}",
                        chain(&error)
                    ));
                    return followed;
                }
            }
        }
        for (name, map) in self.pinned.iter() {
            match map.keep_pinned(&self.pins.map(name)) {
                Ok(None) => {}
                Ok(Some(wrong)) => followed.change(Part::Maps, *name, wrong),
                Err(error) => followed
                    .failures
                    .push(format!("cannot pin the map {name}: {}", chain(&error))),
            }
        }
        followed
    }

    /// Judges the local sockets of a cgroup from now on.
    ///
    /// The namespace's identity in `settings` is filled in. Call [`Enforcement::permit`] before.
    pub fn enforce_sockets(
        &mut self,
        cgroup: &Path,
        mut settings: Settings,
    ) -> Result<Followed, KernelError> {
        let mut followed = Followed::default();
        let Identity { cookie, inode } = Identity::current()?;
        settings.netns_cookie = cookie;
        settings.netns_inode = inode;
        if self.maps.set_settings(settings)? {
            followed.change(
                Part::Settings,
                map::SETTINGS,
                "the programs were told something else: written again",
            );
        }
        let programs = self.programs.made();
        self.links.attach_cgroup(
            CgroupHook::Egress,
            cgroup,
            programs.map_or(&self.first, |programs| &programs.cgroup),
            &mut self.twins,
            &mut followed,
        )?;
        Ok(followed)
    }

    /// Judges the options that are set on sockets of a cgroup, or does so no more, as `settings` say.
    pub fn judge_options(&mut self, cgroup: &Path, settings: &Settings) -> Followed {
        let mut followed = Followed::default();
        let hook = CgroupHook::Setsockopt;
        let wanted = settings.packet_sockets != Settings::LEAVE_ALONE;
        let judged = self.programs.wait().and_then(|programs| {
            let program = programs.setsockopt.as_ref().filter(|_| wanted);
            if let Some(program) = program {
                return self.links.attach_cgroup(
                    hook,
                    cgroup,
                    program,
                    &mut self.twins,
                    &mut followed,
                );
            }
            if self.links.detach_cgroup(hook)? {
                let subject = cgroup.display().to_string();
                followed.change(Part::Setsockopt, subject, "it is not wanted: detached");
            }
            Ok(())
        });
        followed.note("socket options", judged);
        followed
    }

    /// Records who uses the sockets of a cgroup from now on.
    pub fn record_owners(&mut self, cgroup: &Path) -> Followed {
        const SUBJECT: &str = "who uses a socket";

        let mut followed = Followed::default();
        match self.programs.wait() {
            Ok(programs) => {
                for (hook, program) in &programs.owners {
                    let links = &mut self.links;
                    let recorded =
                        links.attach_cgroup(*hook, cgroup, program, &mut self.twins, &mut followed);
                    followed.note(SUBJECT, recorded);
                }
            }
            Err(error) => followed.note(SUBJECT, Err(error)),
        }
        followed
    }

    /// Makes redirection leave exactly these calls alone.
    pub fn leave_alone(&mut self, redirection: &Redirection) -> Result<Followed, KernelError> {
        let mut followed = Followed::default();
        if self.maps.set_redirection(redirection)? {
            followed.change(
                Part::Settings,
                map::NEAR,
                "the calls that are left alone were others: written again",
            );
        }
        Ok(followed)
    }

    /// Redirects the calls of a cgroup's sockets, or does so no more, as `settings` say.
    ///
    /// What is redirected at `connect` is so as soon as owners are recorded: call this before, and
    /// [`Enforcement::leave_alone`] before this.
    pub fn redirect(&mut self, cgroup: &Path, settings: &Settings) -> Followed {
        const SUBJECT: &str = "redirected calls";

        let mut followed = Followed::default();
        let programs = match self.programs.wait() {
            Ok(programs) => programs,
            Err(error) => {
                followed.note(SUBJECT, Err(error));
                return followed;
            }
        };
        for (hook, program) in &programs.redirection {
            let attached = if settings.redirect == 0 {
                self.links.detach_cgroup(*hook).map(|detached| {
                    if detached {
                        let subject = cgroup.display().to_string();
                        followed.change(Part::Redirect, subject, "it is not wanted: detached");
                    }
                })
            } else {
                self.links
                    .attach_cgroup(*hook, cgroup, program, &mut self.twins, &mut followed)
            };
            followed.note(SUBJECT, attached);
        }
        followed
    }

    /// Whether this kernel has a hook for socket options.
    pub fn can_judge_options(&mut self) -> bool {
        let programs = self.programs.wait();
        programs.is_ok_and(|programs| programs.setsockopt.is_some())
    }

    /// Lets exactly this out of an engaged kill switch.
    pub fn exempt(&mut self, exemptions: &Exemptions) -> Result<Followed, KernelError> {
        let mut followed = Followed::default();
        if self.maps.set_exemptions(exemptions)? {
            followed.change(
                Part::Settings,
                map::ENDPOINTS,
                "the exemptions of the kill switch were others: written again",
            );
        }
        Ok(followed)
    }

    /// What the programs know packets by, besides their ports.
    pub fn recognition(&self) -> Result<Recognition, KernelError> {
        self.maps.recognition()
    }

    /// Makes the programs know packets by exactly this.
    pub fn recognise(&mut self, recognition: &Recognition) -> Result<Followed, KernelError> {
        let mut followed = Followed::default();
        if self.maps.set_recognition(recognition)? {
            followed.change(
                Part::Settings,
                map::DOH_ADDRESSES,
                "the known resolvers and carriers were others: written again",
            );
        }
        Ok(followed)
    }

    /// Says which tunnel is up, or that none is; who vouches for it does so for the next ten seconds.
    ///
    /// Without that it counts for redirection only, which would send what it redirects to a tunnel that has gone down
    /// meanwhile to nobody.
    pub fn vouch(&mut self, tunnel: Option<u32>, vouches: bool) -> Result<(), KernelError> {
        let until = if vouches && tunnel.is_some() {
            boot_time()?.saturating_add(LEASE_NANOSECONDS)
        } else {
            0
        };
        self.maps.set_liveness(Liveness {
            until,
            tunnel: tunnel.unwrap_or_default(),
            ..Liveness::default()
        })
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
        let mut followed = Followed::default();
        if self.maps.retain(role)? {
            followed.change(
                Part::Permissions,
                "interfaces",
                "one that may not carry DNS was permitted: taken back",
            );
        }
        for device in devices {
            let permitted = self.maps.permit(device.ifindex, device.role);
            if matches!(permitted, Ok(true)) {
                followed.change(
                    Part::Permissions,
                    &device.name,
                    format!("it was not permitted as {}: given", device.role),
                );
            }
            followed.note(&device.name, permitted.map(drop));
        }
        Ok(followed)
    }

    /// Puts the TC program first on every uplink among the devices, and takes it off the others.
    ///
    /// An interface that goes away meanwhile is no failure; one that fails does not keep the others from being
    /// covered. New uplinks are covered for about as long as `time`, so that a burst of them does not hold up what is
    /// more urgent: each waits for an RCU grace period, about 12 ms (`tcx_entry_sync` in `include/net/tcx.h`, 6.18).
    pub fn attach(&mut self, devices: &[Device], time: Duration) -> Followed {
        let mut followed = Followed::default();
        let swept = self.links.sweep(&mut followed);
        followed.note("links of interfaces that are gone", swept);
        let mut spent = Duration::ZERO;
        let known: BTreeSet<u32> = devices.iter().map(|device| device.ifindex).collect();
        self.overtakings.retain(|ifindex| known.contains(&ifindex));
        self.devices = devices.to_vec();
        // One look into the directory, not one for each of thousands of interfaces.
        let pinned: Option<BTreeSet<u32>> = self.pins.tcx_links().ok().map(|links| {
            let numbers = links.into_iter().map(|(ifindex, _)| ifindex);
            numbers.collect()
        });
        let mut behind = Vec::new();
        for device in devices {
            if device.role != Role::Uplink {
                let is_pinned = pinned
                    .as_ref()
                    .is_none_or(|pinned| pinned.contains(&device.ifindex));
                if self.tc_mode == TcMode::Tcx && !is_pinned && !self.links.holds(device.ifindex) {
                    continue;
                }
                let detached = self.detach_device(device, &mut followed);
                followed.note(&device.name, detached);
                continue;
            }
            let started = Instant::now();
            let is_new = self.tc_mode == TcMode::Tcx && !self.links.holds(device.ifindex);
            if is_new && spent >= time {
                followed.postponed = true;
                continue;
            }
            match self.attach_device(device, &mut followed) {
                Ok(Standing::Behind) => behind.push(device),
                Ok(Standing::First | Standing::Gone) => {
                    followed.covered.insert(device.ifindex);
                }
                Err(error) => followed.note(&device.name, Err(error)),
            }
            if is_new {
                spent += started.elapsed();
            }
        }
        self.overtake(&behind, &mut followed);
        followed
    }

    /// Goes before the foreign programs on these interfaces, unless that was done too often.
    fn overtake(&mut self, behind: &[&Device], followed: &mut Followed) {
        let now = Instant::now();
        let (overtaken, given_up): (Vec<&Device>, Vec<&Device>) =
            behind.iter().copied().partition(|device| {
                // On clsact it has been tried already.
                self.tc_mode == TcMode::Tcx && self.overtakings.allow(device.ifindex, now)
            });
        for device in given_up {
            followed.failures.push(format!(
                "another TC program keeps going before leakguard's on {} and can let packets out; gave up overtaking \
                 it after {MOST} times; find it with `bpftool net show dev {}`",
                device.name, device.name
            ));
        }
        if overtaken.is_empty() {
            return;
        }
        // Another copy of the program is needed for that.
        match self.reload() {
            Ok(reloaded) => {
                followed.changes.extend(reloaded.changes);
                followed.failures.extend(reloaded.failures);
                for device in overtaken {
                    let first = self.links.is_first(device.ifindex);
                    followed.covered.extend(first.then_some(device.ifindex));
                }
            }
            Err(error) => {
                for device in overtaken {
                    followed.failures.push(format!(
                        "cannot overtake the TC program on {}: {}",
                        device.name,
                        chain(&error)
                    ));
                }
            }
        }
    }

    /// Loads every program once more, onto the same maps, and replaces all that are attached by the new copies; where
    /// a foreign program has gone before ours, the new copy goes to the head. There is no moment without one.
    pub fn reload(&mut self) -> Result<Followed, KernelError> {
        let mut followed = self.keep_pinned();
        let object = Object::load(&self.pins)?;
        let ids = |pinned: &[(&str, Held)]| -> Vec<u32> {
            pinned.iter().map(|(_, map)| map.id()).collect()
        };
        if ids(object.pinned()) != ids(&self.pinned) {
            // Programs on other maps would know of no permission and no settings.
            return Err(KernelError::Foreign {
                path: self.pins.root().to_owned(),
                expected: "state",
            });
        }
        let programs = Programs::of(object)?;
        let uplinks: Vec<_> = self
            .devices
            .iter()
            .filter(|device| device.role == Role::Uplink)
            .map(|device| (device, programs.tc(device.link)))
            .collect();
        let (links, filters) = match self.tc_mode {
            TcMode::Tcx => (uplinks, Vec::new()),
            TcMode::Clsact => (Vec::new(), uplinks),
        };
        let mut cgroup = vec![(CgroupHook::Egress, &programs.cgroup)];
        let setsockopt = programs.setsockopt.iter();
        cgroup.extend(setsockopt.map(|program| (CgroupHook::Setsockopt, program)));
        cgroup.extend(
            programs
                .owners
                .iter()
                .chain(&programs.redirection)
                .map(|(hook, program)| (*hook, program)),
        );
        self.links.replace_all(&cgroup, &links, &mut followed);
        for (device, program) in filters {
            followed.note(&device.name, clsact::replace(device.ifindex, program));
        }
        self.programs = Pending::Made(programs);
        Ok(followed)
    }

    /// Lifts what older versions enforce; this one does it all now. Says which versions there were.
    pub fn supersede(&mut self) -> Result<Vec<u32>, KernelError> {
        let mut superseded = Vec::new();
        for older in self.older.drain(..) {
            superseded.push(older.version());
            older.lift(&self.pins)?;
        }
        if self.tc_mode == TcMode::Clsact && !superseded.is_empty() {
            for device in &self.devices {
                clsact::detach_older(device.ifindex)?;
            }
        }
        if !superseded.is_empty() {
            let versions: Vec<String> = superseded.iter().map(|old| format!("v{old}")).collect();
            log::info!(
                "took over from another version of leakguard: {} is lifted, v{ABI_VERSION} enforces",
                versions.join(", ")
            );
        }
        Ok(superseded)
    }

    /// Takes what the programs write for user space; there is one of each.
    pub fn take_reports(&mut self) -> Result<Reports, KernelError> {
        self.programs.wait()?.object.reports()
    }

    /// What was loaded into this kernel, once that was waited for.
    pub fn loaded(&self) -> &[Loaded] {
        let programs = self.programs.made();
        programs.map_or(&[], |programs| programs.object.loaded())
    }

    /// Lifts enforcement: detaches everything and removes every pin.
    pub fn release(self) -> Result<(), KernelError> {
        let detached = match self.tc_mode {
            TcMode::Tcx => Ok(false),
            TcMode::Clsact => detach_filters(self.devices.iter().map(|device| device.ifindex)),
        };
        self.links.detach_all();
        self.pins.remove()?;
        detached.map(drop)
    }

    fn attach_device(
        &mut self,
        device: &Device,
        followed: &mut Followed,
    ) -> Result<Standing, KernelError> {
        let program = self.programs.wait()?.tc(device.link);
        match self.tc_mode {
            TcMode::Tcx => self
                .links
                .attach_tcx(device, program, &mut self.twins, followed),
            TcMode::Clsact => clsact::attach(
                device,
                program,
                &mut self.twins,
                || self.overtakings.allow(device.ifindex, Instant::now()),
                followed,
            ),
        }
    }

    fn detach_device(
        &mut self,
        device: &Device,
        followed: &mut Followed,
    ) -> Result<(), KernelError> {
        let detached = match self.tc_mode {
            TcMode::Tcx => self.links.detach_tcx(device.ifindex)?,
            TcMode::Clsact => clsact::detach(device.ifindex)?,
        };
        if detached {
            followed.change(Part::Tc, &device.name, "it is no uplink: detached");
        }
        Ok(())
    }
}

/// The directories of other versions, whose enforcement this one can neither read nor change.
pub fn other_versions(pins: &Pins) -> Result<Vec<String>, KernelError> {
    let others = pins.others()?.into_iter();
    Ok(others
        .map(|other| other.pins.root().display().to_string())
        .collect())
}

/// Whether what is pinned, by whatever version, enforces in another namespace.
pub fn is_elsewhere(pins: &Pins) -> Result<bool, KernelError> {
    versions::is_elsewhere(pins)
}

/// Lifts enforcement that no agent holds, of whatever version; says whether there was any.
///
/// `interfaces` are the numbers of those that a filter may be on, for kernels without TCX.
pub fn release(
    pins: &Pins,
    interfaces: impl IntoIterator<Item = u32>,
) -> Result<bool, KernelError> {
    check_privileges()?;
    let released = versions::release_all(pins)?;
    // Filters outlive the pins if somebody has unmounted the bpffs.
    Ok(detach_filters(interfaces)? || released)
}

/// Detaches wherever it can; says whether there was a filter, or why one is still there.
fn detach_filters(interfaces: impl IntoIterator<Item = u32>) -> Result<bool, KernelError> {
    let mut found = Ok(false);
    for ifindex in interfaces {
        match clsact::detach_all(ifindex) {
            Ok(detached) => found = found.map(|found| found || detached),
            Err(error) => found = Err(error),
        }
    }
    found
}
