//! Protection of the managed namespace: the kernel programs and the second net, kept in step with its interfaces.

mod hardening;
mod kill_switch;
mod names;
mod plan;
mod policy;
mod recognition;
mod redirection;
mod tunnels;
mod unattended;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use leakguard_common::abi::{LanKey, Role};

pub use kill_switch::Switched;
pub use plan::plan;
pub use policy::{blocked, ipv6_policy, kill_switch_mode, packet_sockets, redirected_to, ruleset};
pub use redirection::forwarded;
pub use tunnels::Handshakes;
pub(crate) use unattended::carry_out;
pub use unattended::{release, set_role};

use self::names::warn_of_names;
use self::policy::Policy;
use self::recognition::Recognised;
use crate::change::{Change, Part};
use crate::config::Config;
use crate::doh::{self, DohError};
use crate::error::chain;
use crate::host::cgroup2_root;
use crate::interfaces::{Interface, NetlinkError, Pattern, RolePatterns, classify, snapshot};
use crate::kernel::enforcement::{Followed, TcMode};
use crate::kernel::object::{Loaded, Reports};
use crate::kernel::pins::Pins;
use crate::kernel::requirements::check_cgroup;
use crate::kernel::{Device, Enforcement, Exemptions, KernelError, Redirection};
use crate::netfilter::{
    self, Applied, Egress, NameError, NetfilterError, Permitted, Renewal, Ruleset,
};

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
    /// The resolvers that are to be known could not be read.
    #[error(transparent)]
    Resolvers(#[from] DohError),
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
    /// What is enforced cannot be read, so that there would be nothing to go back to.
    #[error(
        "what is enforced now cannot be gone back to, because {why}; run `leakguard apply` without --confirm"
    )]
    NoWayBack {
        /// What is in the way.
        why: &'static str,
    },
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
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about what is in place"
)]
pub struct Guard {
    enforcement: Enforcement,
    pins: Pins,
    cgroup: PathBuf,
    policy: Policy,
    exemptions: Exemptions,
    /// Known resolvers of DNS over HTTPS.
    resolvers: doh::Source,
    /// How old the last handshake of a tunnel that is up may be, if that counts.
    handshake_max: Option<Duration>,
    handshakes: Handshakes,
    /// What was said of the tunnels last.
    tunnels: Option<Result<u32, tunnels::Down>>,
    /// What has become of the kill switch, until somebody takes the news.
    switched: Option<Switched>,
    patterns: RolePatterns,
    interfaces: Interfaces,
    /// What redirection leaves alone because of where it is.
    near: BTreeSet<LanKey>,
    /// What the programs are known to leave alone.
    left_alone: Option<Redirection>,
    ruleset: Ruleset,
    /// What the second net holds is known to be `ruleset`.
    ruleset_in_place: bool,
    /// What the programs are known to know packets by.
    recognised: Recognised,
    /// What the netdev table should hold, if there should be one.
    egress: Option<Egress>,
    /// That it does is known.
    egress_in_place: bool,
    /// What the tables that redirect forwarded questions should do, if there should be any.
    forwarded: Option<netfilter::Redirection>,
    /// That they do is known.
    forwarded_in_place: bool,
    /// The number that the kernel's nftables rules had when every table was found as it should be.
    found_at: Option<u32>,
    /// The uplinks that the second net leaves to their TC program; only an agent, which renews that, has any.
    leased: BTreeSet<u32>,
    presence: Presence,
    /// Everything was in place once: what fails from now on is reported, and does not keep the rest from being mended.
    established: bool,
    /// Every interface is covered as its role wants; if not, it is tried again.
    complete: bool,
    /// What was mended and not reported yet.
    mended: Vec<Change>,
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
        let mut guard = Self::prepare(config, place, presence)?;
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

    /// Takes the lock and loads what is needed; nothing is changed before [`Guard::begin`].
    pub fn prepare(config: &Config, place: &Place, presence: Presence) -> Result<Self, GuardError> {
        check_cgroup(&place.cgroup)?;
        let resolvers = doh::Source::read(config.doh_resolvers())?;
        let pins = Pins::at(&place.bpffs);
        let enforcement = Enforcement::prepare(&pins)?;
        let policy = Policy::of(config);
        let exemptions = policy.exemptions(cgroup2_root().ok().as_deref());
        let ruleset = ruleset(&policy.settings, &exemptions);
        Ok(Self {
            enforcement,
            pins,
            cgroup: place.cgroup.clone(),
            policy,
            exemptions,
            resolvers,
            handshake_max: config.kill_switch().handshake_max,
            handshakes: Handshakes::new(),
            tunnels: None,
            switched: None,
            patterns: config.role_patterns(),
            interfaces: Interfaces::new(),
            near: BTreeSet::new(),
            left_alone: None,
            ruleset,
            ruleset_in_place: false,
            recognised: Recognised::default(),
            egress: None,
            egress_in_place: false,
            forwarded: None,
            forwarded_in_place: false,
            found_at: None,
            leased: BTreeSet::new(),
            presence,
            established: false,
            complete: false,
            mended: Vec::new(),
            postponed: false,
            warned: BTreeSet::new(),
        })
    }

    /// Makes the kernel do what was prepared; says whether anything was different before.
    pub async fn begin(&mut self) -> Result<bool, GuardError> {
        self.interfaces = self.read_interfaces().await?;
        self.near = self.read_near(&self.interfaces).await?;
        warn_of_names(&Interfaces::new(), &self.interfaces);
        let changed = !self.bring_in_line().await?.is_empty();
        // An interface may have come since the first look.
        let mut changed = self.follow().await? || changed;
        while self.postponed {
            changed |= self.follow().await?;
        }
        // An older version's state goes when everything it did is done, never before.
        let superseded = !self.enforcement.supersede()?.is_empty();
        self.established = true;
        self.warn_of_open_sockets();
        Ok(changed || superseded)
    }

    /// Reads the interfaces again and follows them; says whether anything changed in the kernel.
    pub async fn follow(&mut self) -> Result<bool, GuardError> {
        self.disavow().await?;
        let interfaces = self.read_interfaces().await?;
        let near = self.read_near(&interfaces).await?;
        let same_near = near == self.near;
        self.near = near;
        if interfaces == self.interfaces && same_near && self.is_complete() {
            return Ok(false);
        }
        for change in describe(&self.interfaces, &interfaces) {
            log::info!("{change}");
        }
        warn_of_names(&self.interfaces, &interfaces);
        let again = interfaces == self.interfaces && same_near;
        self.interfaces = interfaces;
        let changes = self.bring_in_line().await?;
        let changed = !changes.is_empty();
        if again && self.established {
            // No interface called for it: something was wrong, and could not be mended before.
            self.mend(changes);
        }
        Ok(changed)
    }

    /// Takes nothing that was put in place for granted: [`Guard::follow`] looks at all of it next time, also if the
    /// interfaces read as they did before.
    pub fn distrust(&mut self) {
        self.complete = false;
        // A device takes the chains that are attached to it along, and no rule has changed by that.
        self.found_at = None;
    }

    /// Reads back what enforces and mends what somebody has changed; [`Guard::take_mended`] says what that was.
    pub async fn verify(&mut self) -> Result<(), GuardError> {
        self.refresh_resolvers()?;
        // What has come or gone by itself is not to mend.
        self.follow().await?;
        // What there was no time for before is not to mend either.
        let postponed = self.postponed;
        self.recognised.doubt();
        self.left_alone = None;
        let generation = netfilter::generation();
        if generation.is_none() || generation != self.found_at {
            self.ruleset_in_place = false;
            self.egress_in_place = false;
            self.forwarded_in_place = false;
        }
        let mended = self.bring_in_line().await?;
        let in_place = self.ruleset_in_place && self.egress_in_place && self.forwarded_in_place;
        self.found_at = generation.filter(|_| in_place && netfilter::generation() == generation);
        if !postponed {
            self.mend(mended);
        }
        Ok(())
    }

    fn mend(&mut self, mended: Vec<Change>) {
        if let Some(first) = mended.first() {
            let rest = match mended.len() - 1 {
                0 => String::new(),
                rest => format!(" (and {rest} more, see `leakguard events`)"),
            };
            log::warn!("enforcement had been changed from outside, and is mended: {first}{rest}");
        }
        self.mended.extend(mended);
    }

    /// What was mended since the last call.
    pub fn take_mended(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.mended)
    }

    /// Whether filters on the clsact qdisc enforce, whose changes netlink reports; it does not report those of links.
    pub fn has_filters(&self) -> bool {
        self.enforcement.tc_mode() == TcMode::Clsact
    }

    /// Makes the kernel do what the interfaces, as they were last read, call for: permissions first, because they
    /// take effect at once; then local sockets; then forwarded traffic.
    ///
    /// The second net catches what no TC program judges: it closes before programs are attached, and opens for the
    /// covered uplinks after, so that each attempt is counted and reported by a program where there is one.
    async fn bring_in_line(&mut self) -> Result<Vec<Change>, GuardError> {
        let devices = self.devices();
        // First of all: a tunnel that has gone down must not count as up for as long as the rest takes.
        self.vouch()?;
        let kept = self.enforcement.keep_pinned();
        let permitted = self.enforcement.permit(&devices)?;
        let exempted = self.enforcement.exempt(&self.exemptions)?;
        let recognised = self.recognise()?;
        let sockets = self.enforce_sockets()?;
        let mut netfilter = self.update_netfilter().await;
        netfilter |= self.update_egress().await;
        netfilter |= self.redirect_forwarded().await;
        if !self.established {
            self.enforcement.await_programs()?;
        }
        let options = self
            .enforcement
            .judge_options(&self.cgroup, &self.policy.settings);
        let redirected = self.redirect()?;
        let owners = self.enforcement.record_owners(&self.cgroup);
        let time = ATTACH_TIME + READ_TIME * u32::try_from(devices.len()).unwrap_or(u32::MAX);
        let attached = self.enforcement.attach(&devices, time);
        self.postponed = attached.postponed;
        // The second net goes on catching for those that come next: it is told of all of them at once.
        if self.presence == Presence::Stays && !self.postponed {
            self.leased = attached.covered;
            netfilter |= self.update_netfilter().await;
        }
        let mut changes = [
            kept.changes,
            permitted.changes,
            exempted.changes,
            recognised.changes,
            sockets.changes,
            options.changes,
            redirected.changes,
            owners.changes,
        ]
        .concat();
        if netfilter {
            changes.push(Change::new(
                Part::Netfilter,
                "leakguard",
                "the tables were not as they should be: replaced",
            ));
        }
        changes.extend(attached.changes);
        log::debug!("brought in line; changed: {changes:?}");
        let failures = [
            kept.failures,
            permitted.failures,
            sockets.failures,
            options.failures,
            redirected.failures,
            owners.failures,
            attached.failures,
        ]
        .concat();
        self.complete = failures.is_empty() && !self.postponed;
        for failure in failures {
            self.warn(failure);
        }
        if self.is_complete() {
            self.warned.clear();
        }
        Ok(changes)
    }

    /// Judges local sockets. A cgroup that was removed, or a pin that cannot be made, ends nothing that is established.
    fn enforce_sockets(&mut self) -> Result<Followed, GuardError> {
        let enforced = self
            .enforcement
            .enforce_sockets(&self.cgroup, self.policy.settings);
        if self.established {
            return Ok(enforced.unwrap_or_else(|error| Followed {
                failures: vec![format!("local sockets are not judged: {}", chain(&error))],
                ..Followed::default()
            }));
        }
        let enforced = enforced?;
        if enforced.failures.is_empty() {
            Ok(enforced)
        } else {
            Err(GuardError::Incomplete {
                failures: enforced.failures,
            })
        }
    }

    /// Whether everything is in place; if not, [`Guard::follow`] tries again.
    pub fn is_complete(&self) -> bool {
        self.complete && self.ruleset_in_place && self.egress_in_place && self.forwarded_in_place
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

    /// Whether nothing was enforced when this was prepared.
    pub fn is_fresh(&self) -> bool {
        self.enforcement.is_fresh()
    }

    /// Where the state is pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The cgroup whose sockets are judged.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The kernel side, to go back to an earlier state.
    pub(crate) fn enforcement(&mut self) -> &mut Enforcement {
        &mut self.enforcement
    }

    /// Takes what the programs write for user space; there is one of each.
    pub fn take_reports(&mut self) -> Result<Reports, GuardError> {
        Ok(self.enforcement.take_reports()?)
    }

    /// The programs that this kernel runs.
    pub fn loaded(&self) -> &[Loaded] {
        self.enforcement.loaded()
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

    /// Says once more which uplinks have a TC program. Call it on an interval. Says which change of the tables that is.
    pub async fn renew_leases(&mut self) -> Option<Renewal> {
        if !self.ruleset_in_place || self.ruleset.covered.is_empty() {
            return None;
        }
        let renewed = netfilter::renew(&self.ruleset).await;
        let renewal = renewed.unwrap_or_else(|error| {
            self.ruleset_in_place = false;
            self.warn(format!("cannot renew the second net: {}", chain(&error)));
            None
        });
        self.found_at = self
            .found_at
            .and_then(|found_at| renewal?.applied_to(found_at));
        renewal
    }

    fn warn(&mut self, warning: String) {
        if !self.warned.contains(&warning) {
            log::warn!("{warning}");
            self.warned.insert(warning);
        }
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
        .filter_map(|interface| permitted(interface).ok())
        .collect()
}

/// An interface as the second net knows it.
fn permitted(interface: &Interface) -> Result<Permitted, NameError> {
    Permitted::new(
        interface.ifindex,
        &interface.name,
        interface.kind.as_deref(),
    )
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
