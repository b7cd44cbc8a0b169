//! Protection of the managed namespace: the kernel programs and the second net, kept in step with its interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use leakguard_common::abi::{Class, ClassSet, MAX_EXTRA_PORTS, Role, Settings};

use crate::config::{Config, Mode};
use crate::error::chain;
use crate::interfaces::{
    Interface, NetlinkError, Pattern, RolePatterns, classify, snapshot, tunnel_of_kind,
};
use crate::kernel::enforcement::ReadBack;
use crate::kernel::object::Loaded;
use crate::kernel::pins::Pins;
use crate::kernel::requirements::check_cgroup;
use crate::kernel::ring::EventRing;
use crate::kernel::{self, Device, Enforcement, KernelError};
use crate::netfilter::{self, Action, Applied, NetfilterError, Permitted, Ruleset};

/// How long new uplinks are covered before the interfaces are looked at again, and a tunnel that has come meanwhile is
/// permitted.
const ATTACH_TIME: Duration = Duration::from_millis(40);

/// What is added to that for each interface, because looking at thousands takes a while itself.
const READ_TIME: Duration = Duration::from_micros(20);

/// The interfaces of the managed namespace by number.
pub type Interfaces = BTreeMap<u32, Interface>;

/// Why protection could not be established or changed.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The kernel side failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The interfaces could not be read.
    #[error("cannot read the interfaces")]
    Interfaces(#[from] NetlinkError),
    /// The second net could not be removed.
    #[error("cannot change the nftables tables")]
    Netfilter(#[from] NetfilterError),
    /// There is no such interface.
    #[error("there is no interface `{name}` in this network namespace (see `ip link`)")]
    NoInterface {
        /// What was asked for.
        name: String,
    },
    /// Some of it could not be done.
    #[error("not everything is covered: {}", failures.join("; "))]
    Incomplete {
        /// One sentence each.
        failures: Vec<String>,
    },
    /// Nothing is enforced that could be changed.
    #[error("nothing is enforced; start with `leakguard run` or `leakguard apply`")]
    NotEnforcing,
}

/// What is protected, and where the state lives.
#[derive(Clone, Debug)]
pub struct Place {
    /// The cgroup2 directory whose sockets are judged.
    pub cgroup: PathBuf,
    /// The directory on a bpffs.
    pub bpffs: PathBuf,
}

/// Whether the process that establishes protection stays to look after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// An agent: it follows the interfaces and renews what it vouches for.
    Stays,
    /// It ends at once.
    Leaves,
}

/// Protection that this process holds. Dropping it leaves the kernel side in place.
pub struct Guard {
    enforcement: Enforcement,
    cgroup: PathBuf,
    settings: Settings,
    patterns: RolePatterns,
    interfaces: Interfaces,
    ruleset: Ruleset,
    /// What the second net holds is known to be `ruleset`.
    ruleset_in_place: bool,
    /// The uplinks that the second net leaves to their TC program; only an agent, which renews that, has any.
    leased: BTreeSet<u32>,
    presence: Presence,
    /// Every interface is covered as its role wants; if not, it is tried again.
    complete: bool,
    /// Nothing has failed, but there was no time for all of it.
    postponed: bool,
    /// What was warned of and has not been mended since: a retry that fails again is no news.
    warned: BTreeSet<String>,
}

impl Guard {
    /// Establishes what the configuration says; says whether anything was different before.
    ///
    /// If it fails and nothing was enforced before, nothing is afterwards.
    pub async fn establish(
        config: &Config,
        place: &Place,
        presence: Presence,
    ) -> Result<(Self, bool), GuardError> {
        check_cgroup(&place.cgroup)?;
        let enforcement = Enforcement::prepare(&Pins::at(&place.bpffs))?;
        let settings = settings(config);
        let mut guard = Self {
            enforcement,
            cgroup: place.cgroup.clone(),
            settings,
            patterns: RolePatterns {
                tunnel: config.tunnel().to_vec(),
                local: config.local().to_vec(),
                uplink: config.uplink().to_vec(),
            },
            interfaces: Interfaces::new(),
            ruleset: ruleset(&settings),
            ruleset_in_place: false,
            leased: BTreeSet::new(),
            presence,
            complete: false,
            postponed: false,
            warned: BTreeSet::new(),
        };
        match guard.begin().await {
            Ok(changed) => Ok((guard, changed)),
            Err(error) if guard.enforcement.is_fresh() => {
                if let Err(error) = guard.release().await {
                    log::warn!("cannot undo what was begun: {error}");
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn begin(&mut self) -> Result<bool, GuardError> {
        self.interfaces = self.read_interfaces().await?;
        warn_of_names(&Interfaces::new(), &self.interfaces);
        let mut changed = self.bring_in_line().await?;
        // An interface may have come since the first look.
        changed |= self.follow().await?;
        while self.postponed {
            changed |= self.follow().await?;
        }
        Ok(changed)
    }

    /// Reads the interfaces again and follows them; says whether anything changed in the kernel.
    pub async fn follow(&mut self) -> Result<bool, GuardError> {
        let interfaces = self.read_interfaces().await?;
        if interfaces == self.interfaces && self.is_complete() {
            return Ok(false);
        }
        for change in describe(&self.interfaces, &interfaces) {
            log::info!("{change}");
        }
        warn_of_names(&self.interfaces, &interfaces);
        self.interfaces = interfaces;
        self.bring_in_line().await
    }

    /// Takes nothing that was put in place for granted: [`Guard::follow`] looks at all of it next time, also if the
    /// interfaces read as they did before.
    pub fn distrust(&mut self) {
        self.complete = false;
    }

    /// Reads back what enforces and mends what somebody has changed; says whether there was anything to mend.
    pub async fn verify(&mut self) -> Result<bool, GuardError> {
        // What has come or gone by itself is not to mend.
        self.follow().await?;
        // What there was no time for before is not to mend either.
        let postponed = self.postponed;
        self.ruleset_in_place = false;
        let mended = self.bring_in_line().await? && !postponed;
        self.renew_leases().await;
        if mended {
            log::warn!("enforcement had been changed from outside, and is mended");
        }
        Ok(mended)
    }

    /// Makes the kernel do what the interfaces, as they were last read, call for: permissions first, because they
    /// take effect at once; then local sockets; then forwarded traffic.
    ///
    /// The second net catches what no TC program judges: it closes before programs are attached, and opens for the
    /// covered uplinks after, so that each attempt is counted and reported by a program where there is one.
    async fn bring_in_line(&mut self) -> Result<bool, GuardError> {
        let devices = self.devices();
        let permitted = self.enforcement.permit(&devices)?;
        let sockets = self
            .enforcement
            .enforce_sockets(&self.cgroup, self.settings)?;
        let mut netfilter = self.update_netfilter().await;
        let time = ATTACH_TIME + READ_TIME * u32::try_from(devices.len()).unwrap_or(u32::MAX);
        let attached = self.enforcement.attach(&devices, time);
        self.postponed = attached.postponed;
        // The second net goes on catching for those that come next: it is told of all of them at once.
        if self.presence == Presence::Stays && !self.postponed {
            self.leased = attached.covered;
            netfilter |= self.update_netfilter().await;
        }
        log::debug!(
            "brought in line; changed: permissions {}, sockets {sockets}, second net {netfilter}, TC {}",
            permitted.changed,
            attached.changed
        );
        let changed = permitted.changed || sockets || netfilter || attached.changed;
        let failures = [permitted.failures, attached.failures].concat();
        self.complete = failures.is_empty() && !self.postponed;
        for failure in failures {
            self.warn(failure);
        }
        if self.is_complete() {
            self.warned.clear();
        }
        Ok(changed)
    }

    /// Whether everything is in place; if not, [`Guard::follow`] tries again.
    pub fn is_complete(&self) -> bool {
        self.complete && self.ruleset_in_place
    }

    /// Whether [`Guard::follow`] has more to do than it had time for: call it again, after what is more urgent.
    pub fn is_postponed(&self) -> bool {
        self.postponed
    }

    /// The interfaces as they were last followed.
    pub fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// Gives an existing interface a role that wins over the configuration, until this process ends.
    pub async fn set_role(&mut self, name: &str, role: Role) -> Result<bool, GuardError> {
        // Interfaces come and go; what was followed last may be out of date.
        self.follow().await?;
        let Some(interface) = self
            .interfaces
            .values()
            .find(|interface| interface.name == name)
        else {
            return Err(GuardError::NoInterface {
                name: name.to_owned(),
            });
        };
        let kind = interface.kind.clone();
        let RolePatterns {
            tunnel,
            local,
            uplink,
        } = &mut self.patterns;
        for patterns in [&mut *local, &mut *uplink] {
            patterns.retain(|known| !known.is_name(name));
        }
        if role != Role::Tunnel {
            tunnel.retain(|known| !known.is_name(name));
        }
        match role {
            // Who permits an interface means the one that is there, not another kind that takes its name later.
            Role::Tunnel => {
                let pattern = Pattern::exact_of_kind(name, kind.as_deref());
                if !tunnel.contains(&pattern) {
                    tunnel.push(pattern);
                }
            }
            Role::Local => local.push(Pattern::exact(name)),
            Role::Uplink => uplink.push(Pattern::exact(name)),
        }
        self.follow().await
    }

    /// Takes the event ring; there is one.
    pub fn take_ring(&mut self) -> Result<EventRing, GuardError> {
        Ok(self.enforcement.take_ring()?)
    }

    /// The programs that this kernel runs.
    pub fn loaded(&self) -> &[Loaded] {
        self.enforcement.loaded()
    }

    /// Forwards the programs' own log lines (debug builds).
    pub fn flush_log(&mut self) {
        self.enforcement.flush_log();
    }

    /// Lifts protection.
    pub async fn release(self) -> Result<(), GuardError> {
        self.enforcement.release()?;
        release_netfilter().await.map(drop)
    }

    async fn read_interfaces(&self) -> Result<Interfaces, GuardError> {
        Ok(classify(&snapshot().await?, &self.patterns))
    }

    fn devices(&self) -> Vec<Device> {
        self.interfaces.values().map(device).collect()
    }

    /// Brings the second net in line. Without it the programs still stand, so a failure is reported and tried again
    /// with the next change.
    async fn update_netfilter(&mut self) -> bool {
        let permitted = of_role(&self.interfaces, |interface| interface.role != Role::Uplink);
        let covered = of_role(&self.interfaces, |interface| {
            interface.role == Role::Uplink && self.leased.contains(&interface.ifindex)
        });
        let same = permitted == self.ruleset.permitted && covered == self.ruleset.covered;
        if self.ruleset_in_place && same {
            return false;
        }
        self.ruleset.permitted = permitted;
        self.ruleset.covered = covered;
        let result = if self.ruleset_in_place {
            netfilter::update_interfaces(&self.ruleset)
                .await
                .map(|()| true)
        } else {
            apply_netfilter(&mut self.ruleset).await
        };
        self.ruleset_in_place = result.is_ok();
        result.unwrap_or_else(|error| {
            self.warn(format!(
                "no second net for forwarded traffic: {}",
                chain(&error)
            ));
            false
        })
    }

    /// Says once more which uplinks have a TC program.
    async fn renew_leases(&mut self) {
        if !self.ruleset_in_place || self.ruleset.covered.is_empty() {
            return;
        }
        if let Err(error) = netfilter::update_interfaces(&self.ruleset).await {
            self.ruleset_in_place = false;
            self.warn(format!("cannot renew the second net: {}", chain(&error)));
        }
    }

    fn warn(&mut self, warning: String) {
        if !self.warned.contains(&warning) {
            log::warn!("{warning}");
            self.warned.insert(warning);
        }
    }
}

/// Lifts protection that no agent holds; says whether there was any.
pub async fn release(bpffs: &Path) -> Result<bool, GuardError> {
    let pins = Pins::at(bpffs);
    // What cannot be read is lifted all the same.
    let elsewhere = matches!(ReadBack::open(&pins), Ok(Some(state)) if !state.here);
    let snapshot = snapshot().await?;
    let interfaces = snapshot
        .links
        .values()
        .filter(|_| !elsewhere)
        .map(|link| link.ifindex);
    let released = kernel::enforcement::release(&pins, interfaces)?;
    if elsewhere {
        // The tables here are not of that state, and those there cannot be reached from here.
        log::warn!(
            "it was enforced in another network namespace, where the nftables tables stay: run \
             `nft delete table inet leakguard; nft delete table bridge leakguard` there"
        );
        return Ok(released);
    }
    Ok(release_netfilter().await? || released)
}

/// Changes one interface's role in state that no agent holds; says whether it was different before.
pub async fn set_role(bpffs: &Path, name: &str, role: Role) -> Result<bool, GuardError> {
    let pins = Pins::at(bpffs);
    let Some(ReadBack { settings, .. }) = ReadBack::open(&pins)? else {
        return Err(GuardError::NotEnforcing);
    };
    let snapshot = snapshot().await?;
    let mut interfaces = classify(&snapshot, &RolePatterns::default());
    if !interfaces.values().any(|interface| interface.name == name) {
        return Err(GuardError::NoInterface {
            name: name.to_owned(),
        });
    }
    warn_of_names(&Interfaces::new(), &interfaces);
    let mut enforcement = Enforcement::prepare(&pins)?;
    // Without the agent's configuration, what the kernel does is what counts.
    for interface in interfaces.values_mut() {
        interface.role = if interface.name == name {
            role
        } else {
            enforcement.role(interface.ifindex)
        };
    }
    let devices: Vec<Device> = interfaces.values().map(device).collect();
    let permitted_now = enforcement.permit(&devices)?;
    let mut changed = permitted_now.changed;
    let mut ruleset = ruleset(&settings);
    ruleset.permitted = of_role(&interfaces, |interface| interface.role != Role::Uplink);
    changed |= apply_netfilter(&mut ruleset).await?;
    let attached = enforcement.attach(&devices, Duration::MAX);
    let failures = [permitted_now.failures, attached.failures].concat();
    if failures.is_empty() {
        Ok(changed || attached.changed)
    } else {
        Err(GuardError::Incomplete { failures })
    }
}

/// Puts the second net in place, for routed traffic only where the kernel cannot filter bridged traffic.
async fn apply_netfilter(ruleset: &mut Ruleset) -> Result<bool, NetfilterError> {
    match netfilter::apply(ruleset).await {
        Err(NetfilterError::Refused { message }) if ruleset.bridge => {
            log::warn!("no second net for bridged traffic: {message}");
            ruleset.bridge = false;
            netfilter::apply(ruleset).await
        }
        result => result,
    }
    .map(|applied| applied == Applied::Replaced)
}

async fn release_netfilter() -> Result<bool, GuardError> {
    match netfilter::remove().await {
        Ok(removed) => Ok(removed),
        // What cannot have been added need not be removed.
        Err(NetfilterError::Missing) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Interfaces as the second net knows them.
fn of_role(interfaces: &Interfaces, wanted: impl Fn(&Interface) -> bool) -> BTreeSet<Permitted> {
    interfaces
        .values()
        .filter(|interface| wanted(interface))
        // Whose name nft cannot express was warned of when it came.
        .filter_map(|interface| Permitted::new(interface.ifindex, &interface.name).ok())
        .collect()
}

/// Warns of interfaces that have come with a name that nft cannot express, which the second net does not permit, or with
/// a tunnel's name but not its kind.
fn warn_of_names(before: &Interfaces, after: &Interfaces) {
    for (ifindex, interface) in after {
        let Interface { name, .. } = interface;
        if before.get(ifindex).is_some_and(|was| was.name == *name) {
            continue;
        }
        if let Err(error) = Permitted::new(*ifindex, name) {
            log::warn!("{error}");
        }
        if let Some(warning) = passed_over(interface) {
            log::warn!("{warning}");
        }
    }
}

/// What to say of an interface that a tunnel's pattern names, but is of a kind that the pattern does not take.
fn passed_over(interface: &Interface) -> Option<String> {
    let Interface {
        ifindex,
        name,
        role,
        kind,
        passed_over,
        ..
    } = interface;
    let pattern = passed_over.as_ref()?;
    let kind_text = kind
        .as_ref()
        .map_or_else(|| "no kind".to_owned(), |kind| format!("kind {kind}"));
    Some(format!(
        "{name} ({ifindex}) has a name of the tunnel `{pattern}`, but is of {kind_text}: it is no tunnel, and stays \
         {role}; if it is meant, name it `{}`",
        tunnel_of_kind(name, kind.as_deref())
    ))
}

fn device(interface: &Interface) -> Device {
    let Interface {
        ifindex,
        name,
        role,
        link_layer,
        ..
    } = interface;
    Device {
        ifindex: *ifindex,
        name: name.clone(),
        role: *role,
        link: *link_layer,
    }
}

/// What the programs are told, but for the namespace.
fn settings(config: &Config) -> Settings {
    let mut extra_ports = [0; MAX_EXTRA_PORTS];
    let mut extra_port_count = 0;
    for (slot, port) in extra_ports.iter_mut().zip(config.extra_ports()) {
        *slot = *port;
        extra_port_count += 1;
    }
    Settings {
        mode: match config.mode() {
            Mode::Enforce => Settings::ENFORCE,
            Mode::Observe => Settings::OBSERVE,
        },
        exempt: config.exempt(),
        extra_port_count,
        extra_ports,
        ..Settings::default()
    }
}

/// The second net's version of the programs' settings.
pub fn ruleset(settings: &Settings) -> Ruleset {
    let Settings {
        mode,
        exempt,
        extra_port_count,
        extra_ports,
        ..
    } = settings;
    let action = if *mode == Settings::OBSERVE {
        Action::Count
    } else {
        Action::Drop
    };
    let extra = usize::try_from(*extra_port_count).unwrap_or(MAX_EXTRA_PORTS);
    Ruleset::new(
        action,
        blocked(*exempt),
        extra_ports.get(..extra).unwrap_or(extra_ports),
    )
}

/// The classes that are not exempt.
pub fn blocked(exempt: ClassSet) -> impl Iterator<Item = Class> {
    Class::ALL
        .iter()
        .copied()
        .filter(move |class| !exempt.contains(*class))
}

/// One line per interface that came, went or changed its role.
fn describe(before: &Interfaces, after: &Interfaces) -> Vec<String> {
    let mut lines = Vec::new();
    for (ifindex, now) in after {
        let Interface {
            name, role, reason, ..
        } = now;
        match before.get(ifindex) {
            None => lines.push(format!("{name} ({ifindex}) is new: {role} ({reason})")),
            Some(was) if was.role != *role => {
                lines.push(format!(
                    "{name} ({ifindex}) was {}, is {role} ({reason})",
                    was.role
                ));
            }
            Some(was) if was.name != *name => {
                lines.push(format!(
                    "{} ({ifindex}) is now called {name}: {role}",
                    was.name
                ));
            }
            Some(_) => {}
        }
    }
    for (ifindex, Interface { name, role, .. }) in before {
        if !after.contains_key(ifindex) {
            lines.push(format!("{name} ({ifindex}), a {role}, is gone"));
        }
    }
    lines
}
