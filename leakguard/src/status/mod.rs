//! What is enforced now, read back from the kernel: the truth with or without an agent.

mod doh;
mod hardening;
mod redirect;

use std::path::{Path, PathBuf};

pub use doh::Doh;
pub use hardening::Hardening;
use leakguard_common::abi::{Outcome, Role, Settings, Verdict};
use leakguard_common::counter::Series;
pub use redirect::Redirect;
use serde::Serialize;

use crate::error::chain;
use crate::guard::{GuardError, blocked, ipv6_policy, kill_switch_mode, ruleset};
use crate::host::cgroup_by_id;
use crate::interfaces::{RolePatterns, Snapshot, classify, snapshot};
use crate::kernel::Exemptions;
use crate::kernel::enforcement::other_versions;
use crate::kernel::links::TcAttachment;
use crate::kernel::pins::Pins;
use crate::kernel::read_back::ReadBack;
use crate::kernel::requirements::check_privileges;
use crate::netfilter::{self, Listings};
use crate::prefix;
use crate::sockets;

/// How much of the enforcement is in place, from the least on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is enforced
    None,
    /// Parts are missing; `status` names them
    Reduced,
    /// Every part is in place
    Full,
}

impl Level {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Reduced => "reduced",
            Self::Full => "full",
        }
    }
}

/// How much is enforced, without the counters: cheap enough to ask after every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assessment {
    /// How much is in place.
    pub level: Level,
    /// `enforce` or `observe`; absent when nothing is enforced.
    pub mode: Option<&'static str>,
    /// What keeps the host from full protection, one sentence each.
    pub causes: Vec<String>,
}

/// The whole report; its JSON form is a contract.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// How much is in place.
    pub level: Level,
    /// What keeps the host from full protection, one sentence each: a missing part, or a mode that drops nothing.
    pub causes: Vec<String>,
    /// `enforce` or `observe`; absent when nothing is enforced.
    pub mode: Option<&'static str>,
    /// The blocked classes.
    pub block: Vec<&'static str>,
    /// Further ports judged as dns.
    pub ports: Vec<u16>,
    /// The known resolvers of DNS over HTTPS; absent when nothing is enforced.
    pub doh: Option<Doh>,
    /// Whom calls to port 53 are redirected to, if they are.
    pub redirect: Option<Redirect>,
    /// What uplinks carry besides; absent when nothing is enforced.
    pub kill_switch: Option<KillSwitch>,
    /// `dns-only` or `block-off-tunnel`; absent when nothing is enforced.
    pub ipv6: Option<&'static str>,
    /// The managed namespace.
    pub netns: Option<Netns>,
    /// The cgroup whose sockets are judged.
    pub cgroup: Option<PathBuf>,
    /// Every interface of the caller's namespace.
    pub interfaces: Vec<InterfaceStatus>,
    /// What is done about sockets that send past TC; absent when nothing is enforced.
    pub hardening: Option<Hardening>,
    /// Packets that the second net caught, by table; absent where the table is.
    pub netfilter: Netfilter,
    /// The counters that are not 0.
    pub packets: Vec<PacketCount>,
    /// What became of events in the kernel.
    pub events: EventCounts,
}

/// What the kill switch does.
#[derive(Clone, Debug, Serialize)]
pub struct KillSwitch {
    /// `off`, `tunnel-down` or `always`.
    pub mode: &'static str,
    /// Whether uplinks carry nothing now but what is exempt.
    pub engaged: bool,
    /// The tunnel that an agent vouches for.
    pub tunnel: Option<String>,
    /// How many destinations of tunnels are exempt.
    pub endpoints: usize,
    /// Whether DHCP is exempt.
    pub dhcp: bool,
    /// Whether neighbour discovery is exempt.
    pub ndp: bool,
    /// The prefixes that are exempt.
    pub lan: Vec<String>,
}

/// The managed namespace.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Netns {
    /// Its inode, as in `ls -i /run/netns`.
    pub inode: u32,
    /// Its cookie.
    pub cookie: u64,
}

/// One interface.
#[derive(Clone, Debug, Serialize)]
pub struct InterfaceStatus {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The role that the programs give it.
    pub role: &'static str,
    /// Its kind, absent for most physical ones.
    pub kind: Option<String>,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// The TC program: `head`, `behind`, `clsact`, `absent`, or `unneeded` where the role wants none.
    pub tc: &'static str,
}

/// What the second net caught.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Netfilter {
    /// Routed packets.
    pub routed: Option<u64>,
    /// Bridged packets.
    pub bridged: Option<u64>,
    /// Packets of local sockets at the egress hook.
    pub egress: Option<u64>,
}

/// One counter.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PacketCount {
    /// What the packets were judged as.
    pub class: &'static str,
    /// What became of them.
    pub verdict: &'static str,
    /// Their IP version.
    pub family: &'static str,
    /// Their transport.
    pub protocol: &'static str,
    /// The exit interface's role.
    pub role: &'static str,
    /// Where they were judged.
    pub hook: &'static str,
    /// How many; GSO segments count.
    pub count: u64,
}

/// What became of the packets that are worth an event; together, all of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct EventCounts {
    /// An event tells of them.
    pub submitted: u64,
    /// None does, because the ring was full.
    pub lost: u64,
    /// None does, because there were enough of the same sender, destination and reason.
    pub suppressed: u64,
}

impl Status {
    /// Whether the host is protected at the wanted level. Nothing is wanted at level none, so nothing is missing then.
    pub fn protects(&self, wanted: Level) -> bool {
        wanted == Level::None || (self.level >= wanted && self.mode != Some(OBSERVE))
    }

    /// The sum of the counters with a verdict.
    pub fn total(&self, verdict: Verdict) -> u64 {
        let counted = self
            .packets
            .iter()
            .filter(|packets| packets.verdict == verdict.name());
        counted.map(|packets| packets.count).sum()
    }
}

/// Reads the status of the state under a bpffs directory, as seen from the caller's namespace.
///
/// Without the privilege to look, that is the error: "nothing is enforced" would be a guess.
pub async fn read(bpffs: &Path) -> Result<Status, GuardError> {
    check_privileges()?;
    let snapshot = snapshot().await?;
    let pins = Pins::at(bpffs);
    let Some(state) = ReadBack::open(&pins)? else {
        let others = other_versions(&pins)?;
        return Ok(nothing(&snapshot, &others));
    };
    let Parts {
        assessment: Assessment {
            level,
            mode,
            causes,
        },
        cgroup,
        interfaces,
        netfilter,
        mut hardening,
        exemptions,
    } = examine(&pins, &state, &snapshot, &mut Listings::default()).await?;
    if state.here {
        // What is in another namespace cannot be seen from here.
        hardening.inventory = sockets::inventory();
    }
    let kill_switch = kill_switch(&state, &exemptions, &snapshot)?;
    let ipv6 = ipv6_policy(&state.settings).name();
    let Settings {
        netns_cookie,
        netns_inode,
        exempt,
        extra_port_count,
        extra_ports,
        ..
    } = state.settings;
    Ok(Status {
        level,
        causes,
        mode,
        block: blocked(exempt)
            .map(leakguard_common::abi::Class::name)
            .collect(),
        ports: extra_ports
            .into_iter()
            .take(extra_port_count as usize)
            .collect(),
        doh: Some(Doh::read(&state.maps)?),
        redirect: Redirect::read(&state.settings, &state.maps)?,
        kill_switch: Some(kill_switch),
        ipv6: Some(ipv6),
        netns: Some(Netns {
            inode: netns_inode,
            cookie: netns_cookie,
        }),
        cgroup,
        interfaces,
        hardening: Some(hardening),
        netfilter,
        packets: state
            .maps
            .packets()?
            .into_iter()
            .map(packet_count)
            .collect(),
        events: EventCounts {
            submitted: state.maps.events(Outcome::Submitted)?,
            lost: state.maps.events(Outcome::Lost)?,
            suppressed: state.maps.events(Outcome::Suppressed)?,
        },
    })
}

/// Reads how much the state under a bpffs directory enforces, in the same way as [`read`]; nftables are listed only if they
/// have changed since they were listed last.
pub async fn assess(bpffs: &Path, listings: &mut Listings) -> Result<Assessment, GuardError> {
    let snapshot = snapshot().await?;
    let pins = Pins::at(bpffs);
    match ReadBack::open(&pins)? {
        Some(state) => Ok(examine(&pins, &state, &snapshot, listings)
            .await?
            .assessment),
        None => Ok(Assessment {
            level: Level::None,
            mode: None,
            causes: absence(&other_versions(&pins)?),
        }),
    }
}

const NOTHING: &str = "nothing is enforced; start with `leakguard run` or `leakguard apply`";
const OBSERVE: &str = "observe";

/// What enforces, part by part.
struct Parts {
    assessment: Assessment,
    cgroup: Option<PathBuf>,
    interfaces: Vec<InterfaceStatus>,
    netfilter: Netfilter,
    hardening: Hardening,
    exemptions: Exemptions,
}

/// Looks at every part of the state, and judges it.
async fn examine(
    pins: &Pins,
    state: &ReadBack,
    snapshot: &Snapshot,
    listings: &mut Listings,
) -> Result<Parts, GuardError> {
    let mut causes = Vec::new();
    if !state.here {
        causes.push(
            "it is enforced in another network namespace, whose interfaces are not these"
                .to_owned(),
        );
    }
    causes.extend(state.gaps.iter().cloned());
    causes.extend(other_versions(pins)?.iter().map(of_other_version));
    let id = state.cgroup.as_ref().map(|attachment| attachment.cgroup_id);
    let cgroup = id.and_then(cgroup_by_id);
    match id {
        None => {
            causes.push("local sockets are not judged: no program is attached to a cgroup".into());
        }
        Some(_) if cgroup.is_none() => {
            causes.push("local sockets are not judged: the cgroup was removed".into());
        }
        Some(_) => {}
    }
    if state.lean {
        causes.push(
            "this kernel refuses the full programs: packets that carry others are dropped on uplinks, DNS over HTTPS is \
             known by address only, and nothing is reported of other ports"
                .to_owned(),
        );
    }
    if id.is_some() && !state.unrecorded.is_empty() {
        causes.push(format!(
            "events cannot always say who sent: nothing records the users of sockets at {}",
            state.unrecorded.join(", ")
        ));
    }
    if id.is_some() && !state.unredirected.is_empty() {
        causes.push(format!(
            "not every question reaches the tunnel's resolver: nothing redirects calls at {}",
            state.unredirected.join(", ")
        ));
    }
    let interfaces = interfaces(state, snapshot, &mut causes)?;
    let exemptions = state.maps.exemptions()?;
    let mut netfilter = netfilter(state, &exemptions, listings, &mut causes).await;
    let hardening = hardening::examine(state, &exemptions, snapshot, listings, &mut causes).await;
    netfilter.egress = hardening.caught;
    redirect::examine(state, listings, &mut causes).await;
    let level = match (causes.is_empty(), &cgroup) {
        (true, _) => Level::Full,
        (false, Some(_)) => Level::Reduced,
        (false, None) => Level::None,
    };
    let mode = if state.settings.mode == Settings::OBSERVE {
        // All is in place; the host is not protected by it.
        causes.push("nothing is dropped: the mode is observe".to_owned());
        OBSERVE
    } else {
        "enforce"
    };
    Ok(Parts {
        assessment: Assessment {
            level,
            mode: Some(mode),
            causes,
        },
        cgroup,
        interfaces,
        netfilter,
        hardening,
        exemptions,
    })
}

fn of_other_version(path: &String) -> String {
    format!(
        "another version of leakguard has left its state in {path}, and what that enforces is not known; run that \
         version, or lift it with `leakguard release`"
    )
}

/// Why nothing is known to be enforced.
fn absence(others: &[String]) -> Vec<String> {
    if others.is_empty() {
        vec![NOTHING.to_owned()]
    } else {
        others.iter().map(of_other_version).collect()
    }
}

fn nothing(snapshot: &Snapshot, others: &[String]) -> Status {
    let interfaces = classify(snapshot, &RolePatterns::default()).into_values();
    Status {
        level: Level::None,
        causes: absence(others),
        mode: None,
        block: Vec::new(),
        ports: Vec::new(),
        doh: None,
        redirect: None,
        kill_switch: None,
        ipv6: None,
        netns: None,
        cgroup: None,
        interfaces: interfaces
            .map(|interface| InterfaceStatus {
                index: interface.ifindex,
                name: interface.name,
                role: interface.role.name(),
                kind: interface.kind,
                up: interface.up,
                tc: "absent",
            })
            .collect(),
        hardening: None,
        netfilter: Netfilter::default(),
        packets: Vec::new(),
        events: EventCounts::default(),
    }
}

fn interfaces(
    state: &ReadBack,
    snapshot: &Snapshot,
    causes: &mut Vec<String>,
) -> Result<Vec<InterfaceStatus>, GuardError> {
    let mut found = Vec::new();
    for link in snapshot.links.values() {
        let role = if state.here {
            state.maps.role(link.ifindex)
        } else {
            Role::Uplink
        };
        let tc = if role == Role::Uplink {
            tc(state, link.ifindex)?
        } else {
            "unneeded"
        };
        match tc {
            "absent" => causes.push(format!(
                "forwarded traffic over {} is not judged by TC: no program is attached",
                link.name
            )),
            "behind" => causes.push(format!(
                "another TC program runs before leakguard's on {} and can let packets out",
                link.name
            )),
            _ => {}
        }
        found.push(InterfaceStatus {
            index: link.ifindex,
            name: link.name.clone(),
            role: role.name(),
            kind: link.kind.clone(),
            up: link.is_up(),
            tc,
        });
    }
    Ok(found)
}

fn tc(state: &ReadBack, ifindex: u32) -> Result<&'static str, GuardError> {
    Ok(match state.tc(ifindex)? {
        TcAttachment::Head => "head",
        TcAttachment::Clsact => "clsact",
        TcAttachment::Behind => "behind",
        TcAttachment::Absent => "absent",
    })
}

fn kill_switch(
    state: &ReadBack,
    exemptions: &Exemptions,
    snapshot: &Snapshot,
) -> Result<KillSwitch, GuardError> {
    let engaged = state.is_engaged()?;
    let tunnel = state.maps.liveness()?.tunnel;
    let exempt = |bit| state.settings.exemptions & bit != 0;
    Ok(KillSwitch {
        mode: kill_switch_mode(&state.settings).name(),
        engaged,
        tunnel: snapshot
            .links
            .get(&tunnel)
            .filter(|_| !engaged && state.settings.kill_switch != Settings::KILL_SWITCH_OFF)
            .map(|link| link.name.clone()),
        endpoints: exemptions
            .endpoints
            .keys()
            .filter(|endpoint| endpoint.port != 0)
            .count(),
        dhcp: exempt(Settings::DHCP),
        ndp: exempt(Settings::NDP),
        lan: exemptions
            .lan
            .iter()
            .copied()
            .filter_map(prefix::net)
            .map(|prefix| prefix.to_string())
            .collect(),
    })
}

async fn netfilter(
    state: &ReadBack,
    exemptions: &Exemptions,
    listings: &mut Listings,
    causes: &mut Vec<String>,
) -> Netfilter {
    let missing = |why: &str| {
        format!("forwarded traffic has no second net for interfaces that have just come: {why}")
    };
    let tables = match netfilter::read_back(listings).await {
        Ok(tables) => tables.unwrap_or_default(),
        Err(error) => {
            causes.push(missing(&chain(&error)));
            return Netfilter::default();
        }
    };
    let expected = ruleset(&state.settings, exemptions);
    let restriction = expected
        .restriction
        .as_ref()
        .map(|restriction| (restriction.reason, expected.action));
    let complete = |table: &Option<netfilter::Table>| {
        table.as_ref().is_some_and(|table| {
            let mut classes = expected.ports.keys();
            classes.all(|class| table.action(*class) == Some(expected.action))
                && table.restriction() == restriction
        })
    };
    if !complete(&tables.inet) {
        causes.push(missing("the nftables table inet leakguard is not complete"));
    }
    if !complete(&tables.bridge) {
        causes.push(missing(
            "the nftables table bridge leakguard is not complete",
        ));
    }
    let total = |table: &netfilter::Table| table.counts.values().map(|count| count.packets).sum();
    Netfilter {
        routed: tables.inet.as_ref().map(total),
        bridged: tables.bridge.as_ref().map(total),
        egress: None,
    }
}

fn packet_count((series, count): (Series, u64)) -> PacketCount {
    let Series {
        hook,
        role,
        reason,
        verdict,
        family,
        protocol,
    } = series;
    PacketCount {
        class: reason.name(),
        verdict: verdict.name(),
        family: family.name(),
        protocol: protocol.name(),
        role: role.name(),
        hook: hook.name(),
        count,
    }
}
