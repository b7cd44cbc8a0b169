//! Protection of the managed namespace: the kernel programs and the second net, kept in step with its interfaces.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use leakguard_common::abi::{Class, ClassSet, MAX_EXTRA_PORTS, Role, Settings};

use crate::config::{Config, Mode};
use crate::interfaces::{Interface, NetlinkError, Pattern, RolePatterns, classify, snapshot};
use crate::kernel::enforcement::{Followed, ReadBack};
use crate::kernel::object::Loaded;
use crate::kernel::pins::Pins;
use crate::kernel::requirements::check_cgroup;
use crate::kernel::ring::EventRing;
use crate::kernel::{self, Device, Enforcement, KernelError};
use crate::netfilter::{self, Action, Applied, NetfilterError, Permitted, Ruleset};

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

/// Protection that this process holds. Dropping it leaves the kernel side in place.
pub struct Guard {
    enforcement: Enforcement,
    patterns: RolePatterns,
    interfaces: Interfaces,
    ruleset: Ruleset,
    /// What the second net holds is known to be `ruleset`.
    ruleset_in_place: bool,
}

impl Guard {
    /// Establishes what the configuration says; says whether anything was different before.
    ///
    /// If it fails and nothing was enforced before, nothing is afterwards.
    pub async fn establish(config: &Config, place: &Place) -> Result<(Self, bool), GuardError> {
        check_cgroup(&place.cgroup)?;
        let enforcement = Enforcement::prepare(Pins::at(&place.bpffs))?;
        let settings = settings(config);
        let mut guard = Self {
            enforcement,
            patterns: RolePatterns {
                tunnel: config.tunnel().to_vec(),
                local: config.local().to_vec(),
                uplink: config.uplink().to_vec(),
            },
            interfaces: Interfaces::new(),
            ruleset: ruleset(&settings),
            ruleset_in_place: false,
        };
        match guard.enforce(&place.cgroup, settings).await {
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

    async fn enforce(&mut self, cgroup: &Path, settings: Settings) -> Result<bool, GuardError> {
        self.interfaces = self.read_interfaces().await?;
        let devices = self.devices();
        let mut changed = self.enforcement.permit(&devices)?;
        changed |= self.enforcement.enforce_sockets(cgroup, settings)?;
        changed |= self.update_netfilter().await;
        changed |= self.attach(&devices);
        // An interface may have come since the first look.
        changed |= self.follow().await?;
        Ok(changed)
    }

    /// Reads the interfaces again and follows them; says whether anything changed in the kernel.
    pub async fn follow(&mut self) -> Result<bool, GuardError> {
        let interfaces = self.read_interfaces().await?;
        if interfaces == self.interfaces && self.ruleset_in_place {
            return Ok(false);
        }
        for change in describe(&self.interfaces, &interfaces) {
            log::info!("{change}");
        }
        self.interfaces = interfaces;
        let devices = self.devices();
        let mut changed = self.enforcement.permit(&devices)?;
        changed |= self.update_netfilter().await;
        changed |= self.attach(&devices);
        Ok(changed)
    }

    /// The interfaces as they were last followed.
    pub fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// Gives an existing interface a role that wins over the configuration, until this process ends.
    pub async fn set_role(&mut self, name: &str, role: Role) -> Result<bool, GuardError> {
        // Interfaces come and go; what was followed last may be out of date.
        self.follow().await?;
        if !self
            .interfaces
            .values()
            .any(|interface| interface.name == name)
        {
            return Err(GuardError::NoInterface {
                name: name.to_owned(),
            });
        }
        let pattern = Pattern::exact(name);
        let RolePatterns {
            tunnel,
            local,
            uplink,
        } = &mut self.patterns;
        for patterns in [&mut *tunnel, &mut *local, &mut *uplink] {
            patterns.retain(|known| *known != pattern);
        }
        match role {
            Role::Tunnel => tunnel.push(pattern),
            Role::Local => local.push(pattern),
            Role::Uplink => uplink.push(pattern),
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
        release_netfilter().await
    }

    async fn read_interfaces(&self) -> Result<Interfaces, GuardError> {
        Ok(classify(&snapshot().await?, &self.patterns))
    }

    fn devices(&self) -> Vec<Device> {
        self.interfaces.values().map(device).collect()
    }

    fn attach(&mut self, devices: &[Device]) -> bool {
        let Followed { changed, failures } = self.enforcement.attach(devices);
        for (interface, error) in failures {
            log::warn!("cannot cover {interface}: {}", chain(&error));
        }
        changed
    }

    /// Brings the second net in line. Without it the programs still stand, so a failure is reported and tried again
    /// with the next change.
    async fn update_netfilter(&mut self) -> bool {
        let permitted = permitted(&self.interfaces);
        if self.ruleset_in_place && permitted == self.ruleset.permitted {
            return false;
        }
        self.ruleset.permitted = permitted;
        let result = if self.ruleset_in_place {
            netfilter::update_permitted(&self.ruleset)
                .await
                .map(|()| true)
        } else {
            apply_netfilter(&mut self.ruleset).await
        };
        self.ruleset_in_place = result.is_ok();
        result.unwrap_or_else(|error| {
            log::warn!("no second net for forwarded traffic: {}", chain(&error));
            false
        })
    }
}

/// Lifts protection that no agent holds; says whether there was any.
pub async fn release(bpffs: &Path) -> Result<bool, GuardError> {
    let snapshot = snapshot().await?;
    let interfaces = snapshot.links.values().map(|link| link.ifindex);
    let released = kernel::enforcement::release(&Pins::at(bpffs), interfaces)?;
    release_netfilter().await?;
    Ok(released)
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
    let mut enforcement = Enforcement::prepare(pins)?;
    // Without the agent's configuration, what the kernel does is what counts.
    for interface in interfaces.values_mut() {
        interface.role = if interface.name == name {
            role
        } else {
            enforcement.role(interface.ifindex)
        };
    }
    let devices: Vec<Device> = interfaces.values().map(device).collect();
    let mut changed = enforcement.permit(&devices)?;
    let mut ruleset = ruleset(&settings);
    ruleset.permitted = permitted(&interfaces);
    changed |= apply_netfilter(&mut ruleset).await?;
    let Followed {
        changed: attached,
        failures,
    } = enforcement.attach(&devices);
    match failures.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => Ok(changed || attached),
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

async fn release_netfilter() -> Result<(), GuardError> {
    match netfilter::remove().await {
        // What cannot have been added need not be removed.
        Ok(()) | Err(NetfilterError::Missing) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The interfaces that forwarded DNS may leave by.
fn permitted(interfaces: &Interfaces) -> std::collections::BTreeSet<Permitted> {
    interfaces
        .values()
        .filter(|interface| interface.role != Role::Uplink)
        .filter_map(|interface| {
            Permitted::new(interface.ifindex, &interface.name)
                .inspect_err(|error| log::warn!("{error}"))
                .ok()
        })
        .collect()
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

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
