//! The leak test: packets of every class are sent in every way, and what really leaves is counted.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::thread;
use std::time::{Duration, Instant};

use leakguard_common::abi::Class;
use nix::errno::Errno;

use super::canary::{Canary, Known, Labels, Transport, Way};
use super::packet::tcp_ports;
use super::report::{Check, Leak, Part, Verdict};
use super::scratch::{Client, Control};
use super::send::{Egress, Sent, send};
use super::tap::{Tap, sent_by};
use crate::error::chain;
use crate::lab::{LabError, NetnsHandle};

/// How long a packet may take to leave: the next hop's hardware address may have to be asked for.
const SETTLE: Duration = Duration::from_millis(300);
/// How often captures are emptied meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
/// This host's end of the link to the namespace that it forwards for.
const FORWARD_PORT: &str = "lgverify0";

/// What is to be tested.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    pub(super) uplinks: Vec<Egress>,
    pub(super) classes: Vec<Class>,
    pub(super) ports: Vec<u16>,
    pub(super) known: Known,
    /// Whether a fragment without its first one must not leave.
    pub(super) late_fragments: bool,
    /// Why what is forwarded goes elsewhere than by an uplink, by family.
    pub(super) forwarded_elsewhere: BTreeMap<&'static str, String>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) checks: Vec<Check>,
    pub(super) leaks: Vec<Leak>,
    pub(super) canaries: usize,
    pub(super) control_sent: usize,
    pub(super) control_seen: usize,
}

/// A canary, where it was to leave, and what became of the attempt.
struct Attempt {
    canary: Canary,
    interface: Option<String>,
    sent: Sent,
}

/// What captures have seen.
#[derive(Default)]
struct Sightings {
    labels: BTreeMap<String, BTreeSet<String>>,
    /// Connections, by where they come from and their port of destination.
    ports: BTreeMap<(u16, u16), BTreeSet<String>>,
    missed: u64,
}

/// What identifies a kind of packet, whatever its label.
type Kind = (Class, Way, Transport, std::net::SocketAddr, bool);

/// What the control has shown.
struct Shown {
    seen: HashSet<Kind>,
    /// `PACKET_QDISC_BYPASS` is refused to every process here.
    refuses_bypass: bool,
    failure: Option<String>,
}

/// Sends everything, the control first.
pub(super) fn test(assignment: &Assignment, run: &str) -> Result<Found, LabError> {
    let mut labels = Labels::new(run);
    let mut found = Found::default();
    let shown = match control(assignment, &mut labels, run, &mut found) {
        Ok(shown) => shown,
        Err(error) => Shown {
            seen: HashSet::new(),
            refuses_bypass: false,
            failure: Some(chain(&error)),
        },
    };
    let (attempts, sightings, mut not_tested) = here(assignment, &mut labels, run)?;
    for attempt in &attempts {
        let Attempt { canary, .. } = attempt;
        if canary.way == Way::Forwarded && is_harmless(canary) && sightings.of(attempt).is_empty() {
            not_tested
                .entry((Way::Forwarded, canary.family()))
                .or_insert_with(|| {
                    "not even a harmless packet is passed on by an uplink".to_owned()
                });
        }
    }
    judge(
        assignment,
        &attempts,
        &sightings,
        &not_tested,
        &shown,
        &mut found,
    );
    found.canaries = attempts
        .iter()
        .filter(|attempt| !is_harmless(&attempt.canary))
        .count();
    Ok(found)
}

fn ways(assignment: &Assignment) -> Vec<Way> {
    Way::ALL
        .into_iter()
        .filter(|way| *way != Way::LateFragment || assignment.late_fragments)
        .collect()
}

/// Sends one of each kind where nothing is judged, and notes which of them the capture sees.
fn control(
    assignment: &Assignment,
    labels: &mut Labels,
    run: &str,
    found: &mut Found,
) -> Result<Shown, LabError> {
    let control = Control::new()?;
    let canaries = labels.canaries(
        &ways(assignment),
        &assignment.classes,
        &assignment.ports,
        &assignment.known,
    );
    let (forwarded, others): (Vec<_>, Vec<_>) = canaries
        .into_iter()
        .partition(|canary| canary.way == Way::Forwarded);
    let egress = &control.egress;
    let (mut tap, mut attempts, before, after) = control.netns().run_in(|| {
        let tap = Tap::open(egress.index)?;
        let before = sent_by(&egress.name);
        let attempts = send_all(others, Some(egress));
        Ok::<_, LabError>((tap, attempts, before, sent_by(&egress.name)))
    })??;
    let client = &control.client;
    attempts.extend(
        client
            .netns()
            .run_in(|| send_all(forwarded, Some(&client.egress)))?,
    );
    let sightings = watch(&mut [(egress.name.clone(), &mut tap)], run)?;
    if sightings.missed > 0 {
        log::warn!(
            "the control's capture has missed {} packets",
            sightings.missed
        );
    }
    let counted = after.zip(before).map(|(after, before)| after - before);
    let mut shown = Shown {
        seen: HashSet::new(),
        refuses_bypass: false,
        failure: None,
    };
    for attempt in &attempts {
        let canary = &attempt.canary;
        let seen = if canary.way == Way::Bypass {
            shown.refuses_bypass |= attempt.sent.result == Err(Errno::EPERM);
            // No capture sees it: the device's own count has to.
            attempt.sent.result.is_ok() && counted.is_some_and(|counted| counted > 0)
        } else {
            !sightings.of(attempt).is_empty()
        };
        if seen {
            shown.seen.insert(canary.kind());
        } else {
            log::debug!(
                "the control did not see {canary:?}: {:?}",
                attempt.sent.result
            );
        }
        found.control_sent += 1;
        found.control_seen += usize::from(seen);
    }
    Ok(shown)
}

/// Sends by every uplink of this host, and from behind it. Also says what could not be tested, by way and family.
#[expect(clippy::type_complexity, reason = "three results of one step")]
fn here(
    assignment: &Assignment,
    labels: &mut Labels,
    run: &str,
) -> Result<
    (
        Vec<Attempt>,
        Sightings,
        BTreeMap<(Way, &'static str), String>,
    ),
    LabError,
> {
    let Assignment {
        uplinks,
        classes,
        ports,
        known,
        ..
    } = assignment;
    let mut taps = uplinks
        .iter()
        .map(|uplink| Ok((uplink.name.clone(), Tap::open(uplink.index)?)))
        .collect::<Result<Vec<_>, LabError>>()?;
    let (by_routes, by_uplink): (Vec<_>, Vec<_>) = ways(assignment)
        .into_iter()
        .partition(|way| way.follows_routes());
    let mut not_tested = BTreeMap::new();
    let mut attempts = Vec::new();
    for &way in by_routes.iter().filter(|way| **way != Way::Forwarded) {
        attempts.extend(send_all(
            labels.canaries(&[way], classes, ports, known),
            None,
        ));
    }
    for uplink in uplinks {
        attempts.extend(send_all(labels.harmless(Way::Device), Some(uplink)));
        attempts.extend(send_all(labels.harmless(Way::Packet), Some(uplink)));
        attempts.extend(send_all(
            labels.canaries(&by_uplink, classes, ports, known),
            Some(uplink),
        ));
    }
    let client = NetnsHandle::current().and_then(|host| Client::behind(&host, FORWARD_PORT));
    match &client {
        Err(error) => {
            for family in ["ipv4", "ipv6"] {
                not_tested.insert((Way::Forwarded, family), chain(error));
            }
        }
        Ok(client) => {
            let mut forwarded = labels.harmless(Way::Forwarded);
            forwarded.extend(labels.canaries(&[Way::Forwarded], classes, ports, known));
            forwarded.retain(|canary| {
                let family = canary.family();
                let forwards = client.is_forwarded(family);
                if !forwards {
                    not_tested.insert(
                        (Way::Forwarded, family),
                        format!("this host forwards no {}", spelled(family)),
                    );
                }
                forwards
            });
            attempts.extend(
                client
                    .netns()
                    .run_in(|| send_all(forwarded, Some(&client.egress)))?,
            );
        }
    }
    let mut taps: Vec<_> = taps
        .iter_mut()
        .map(|(name, tap)| (name.clone(), tap))
        .collect();
    let sightings = watch(&mut taps, run)?;
    for (family, way) in &assignment.forwarded_elsewhere {
        not_tested
            .entry((Way::Forwarded, family))
            .or_insert_with(|| way.clone());
    }
    Ok((attempts, sightings, not_tested))
}

fn spelled(family: &str) -> &'static str {
    if family == "ipv4" { "IPv4" } else { "IPv6" }
}

fn send_all(canaries: Vec<Canary>, egress: Option<&Egress>) -> Vec<Attempt> {
    canaries
        .into_iter()
        .map(|canary| {
            let before = (canary.way == Way::Bypass)
                .then(|| egress.and_then(|egress| sent_by(&egress.name)))
                .flatten();
            let mut sent = send(&canary, egress);
            if let (Some(before), Some(egress)) = (before, egress)
                && sent.result.is_ok()
                && sent_by(&egress.name) == Some(before)
            {
                // The kernel took it, but the device has sent nothing.
                sent.result = Err(Errno::EIO);
            }
            Attempt {
                interface: egress.map(|egress| egress.name.clone()),
                canary,
                sent,
            }
        })
        .collect()
}

/// Empties captures until everything that was sent must have left.
fn watch(taps: &mut [(String, &mut Tap)], run: &str) -> Result<Sightings, LabError> {
    let deadline = Instant::now() + SETTLE;
    let mut sightings = Sightings::default();
    loop {
        let last = Instant::now() >= deadline;
        for (interface, tap) in &mut *taps {
            tap.each(|packet| sightings.note(packet, interface, run))?;
        }
        if last {
            for (_, tap) in &mut *taps {
                sightings.missed += tap.missed()?;
            }
            return Ok(sightings);
        }
        thread::sleep(PAUSE);
    }
}

impl Sightings {
    fn note(&mut self, packet: &[u8], interface: &str, run: &str) {
        if let Some(label) = label_in(packet, run) {
            let interfaces = self.labels.entry(label).or_default();
            interfaces.insert(interface.to_owned());
        }
        if let Some((source, destination)) = tcp_ports(packet) {
            let interfaces = self.ports.entry((source, destination.port())).or_default();
            interfaces.insert(interface.to_owned());
        }
    }

    /// Where an attempt was seen.
    fn of(&self, attempt: &Attempt) -> BTreeSet<String> {
        let Attempt { canary, sent, .. } = attempt;
        let bare =
            canary.transport == Transport::Tcp && matches!(canary.way, Way::Tcp | Way::Device);
        let seen = if bare {
            // The first packet of a connection carries nothing.
            self.ports.get(&(sent.port, canary.destination.port()))
        } else {
            self.labels.get(&canary.label)
        };
        seen.cloned().unwrap_or_default()
    }
}

/// The label of a run in a packet, wherever it stands.
fn label_in(packet: &[u8], run: &str) -> Option<String> {
    let length = run.len() + "-0000".len();
    packet
        .windows(length)
        .find(|window| window.starts_with(run.as_bytes()))
        .and_then(|window| str::from_utf8(window).ok())
        .map(str::to_owned)
}

/// Whether an answer of the kernel's says that there is no way, rather than that it is not allowed.
fn is_no_way(error: Errno) -> bool {
    matches!(
        error,
        Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::EADDRNOTAVAIL
            | Errno::EAFNOSUPPORT
            | Errno::ENETDOWN
            | Errno::ENODEV
    )
}

fn is_harmless(canary: &Canary) -> bool {
    canary.destination.port() == 9
}

fn judge(
    assignment: &Assignment,
    attempts: &[Attempt],
    sightings: &Sightings,
    not_tested: &BTreeMap<(Way, &'static str), String>,
    shown: &Shown,
    found: &mut Found,
) {
    if let Some(failure) = &shown.failure {
        found.checks.push(Check::new(
            Part::Leak,
            "control",
            Verdict::Inconclusive,
            format!("it could not be built, so nothing shows that the capture works: {failure}"),
        ));
    } else {
        let (seen, sent) = (found.control_seen, found.control_sent);
        let all = seen == sent || shown.refuses_bypass;
        found.checks.push(Check::new(
            Part::Leak,
            "control",
            if all {
                Verdict::Pass
            } else {
                Verdict::Inconclusive
            },
            format!("the capture sees {seen} of {sent} packets that nothing judges"),
        ));
    }
    for uplink in &assignment.uplinks {
        found
            .checks
            .push(harmless(&uplink.name, attempts, sightings));
    }
    for way in ways(assignment) {
        if way.follows_routes() {
            row(way, None, attempts, sightings, not_tested, shown, found);
        } else {
            for uplink in &assignment.uplinks {
                let interface = Some(uplink.name.as_str());
                row(
                    way, interface, attempts, sightings, not_tested, shown, found,
                );
            }
        }
    }
}

/// Whether the capture of an uplink sees anything at all.
fn harmless(interface: &str, attempts: &[Attempt], sightings: &Sightings) -> Check {
    let sent: Vec<_> = attempts
        .iter()
        .filter(|attempt| {
            is_harmless(&attempt.canary)
                && attempt.canary.way != Way::Forwarded
                && attempt.interface.as_deref() == Some(interface)
        })
        .collect();
    let seen: BTreeSet<&str> = sent
        .iter()
        .filter(|attempt| sightings.of(attempt).contains(interface))
        .map(|attempt| attempt.canary.family())
        .collect();
    let (verdict, reason) = if seen.is_empty() {
        (
            Verdict::Skipped,
            "no harmless packet leaves here either (kill switch, another firewall): silence proves little".to_owned(),
        )
    } else {
        let families: Vec<_> = seen.into_iter().map(spelled).collect();
        (
            Verdict::Pass,
            format!(
                "a harmless packet is seen leaving over {}",
                families.join(" and ")
            ),
        )
    };
    Check::new(Part::Leak, "capture", verdict, reason).on(interface)
}

/// What has left by one way.
#[derive(Default)]
struct Left {
    count: usize,
    classes: BTreeSet<&'static str>,
    families: BTreeSet<&'static str>,
    transports: BTreeSet<&'static str>,
    interfaces: BTreeSet<String>,
}

impl Left {
    fn note(&mut self, canary: &Canary, interface: &str) {
        self.count += 1;
        self.classes.insert(canary.class.name());
        self.families.insert(canary.family());
        self.transports.insert(canary.transport.name());
        self.interfaces.insert(interface.to_owned());
    }

    fn described(&self, total: usize) -> String {
        let list =
            |names: &BTreeSet<&'static str>| names.iter().copied().collect::<Vec<_>>().join(" ");
        let interfaces: Vec<_> = self.interfaces.iter().map(String::as_str).collect();
        format!(
            "{} of {total} packets left over {}: {} ({}; {})",
            self.count,
            interfaces.join(", "),
            list(&self.classes),
            list(&self.families),
            list(&self.transports)
        )
    }
}

/// Judges one way over one uplink, or over all of them.
fn row(
    way: Way,
    interface: Option<&str>,
    attempts: &[Attempt],
    sightings: &Sightings,
    not_tested: &BTreeMap<(Way, &'static str), String>,
    shown: &Shown,
    found: &mut Found,
) {
    let mine: Vec<_> = attempts
        .iter()
        .filter(|attempt| {
            attempt.canary.way == way
                && !is_harmless(&attempt.canary)
                && (interface.is_none() || attempt.interface.as_deref() == interface)
                && (!not_tested.contains_key(&(way, attempt.canary.family()))
                    || !sightings.of(attempt).is_empty())
        })
        .collect();
    let (mut refused, mut no_way, mut silent) = (0, 0, 0);
    let mut left = Left::default();
    let mut unproven = 0;
    for attempt in &mine {
        let Attempt { canary, sent, .. } = attempt;
        let mut seen = sightings.of(attempt);
        let seen_by = if way == Way::Bypass {
            if sent.result.is_ok() {
                seen.extend(attempt.interface.clone());
            }
            "sender"
        } else {
            "capture"
        };
        for interface in &seen {
            left.note(canary, interface);
            found.leaks.push(Leak {
                interface: interface.clone(),
                class: canary.class.name(),
                way: way.name(),
                family: canary.family(),
                transport: canary.transport.name(),
                destination: canary.destination.to_string(),
                source_port: sent.port,
                label: canary.label.clone(),
                seen_by,
            });
        }
        if !seen.is_empty() {
            continue;
        }
        match sent.result {
            Ok(()) => silent += 1,
            Err(error) if is_no_way(error) => no_way += 1,
            Err(_) => refused += 1,
        }
        let proven = shown.seen.contains(&canary.kind())
            || way == Way::Bypass && shown.refuses_bypass && sent.result == Err(Errno::EPERM);
        unproven += usize::from(!proven);
    }
    let untested: Vec<_> = not_tested
        .iter()
        .filter(|((not, _), _)| *not == way)
        .map(|((_, family), why)| format!("{}: {why}", spelled(family)))
        .collect();
    let total = mine.len();
    let (verdict, reason) = if left.count > 0 {
        (Verdict::Fail, left.described(total))
    } else if total == 0 {
        let why = if untested.is_empty() {
            "nothing of the classes can be sent so".to_owned()
        } else {
            format!("not tested: {}", untested.join("; "))
        };
        (Verdict::Skipped, why)
    } else if sightings.missed > 0 {
        (
            Verdict::Inconclusive,
            format!(
                "the capture has missed {} packets; try again when less is sent",
                sightings.missed
            ),
        )
    } else if unproven > 0 {
        (
            Verdict::Inconclusive,
            format!("{unproven} of {total} packets are of a kind that the control did not see"),
        )
    } else if no_way == total {
        (
            Verdict::Skipped,
            "not tested: there is no route or no address".to_owned(),
        )
    } else {
        let mut parts = vec![format!("none of {total} packets left")];
        for (count, what) in [
            (refused, "refused at once"),
            (silent, "dropped on the way"),
            (no_way, "without a route"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        parts.extend(untested.iter().map(|why| format!("not tested: {why}")));
        (Verdict::Pass, parts.join("; "))
    };
    let check = Check::new(Part::Leak, way.name(), verdict, reason);
    found.checks.push(match interface {
        Some(interface) => check.on(interface),
        None => check,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_found_wherever_it_stands_and_only_whole() {
        let packet = b"\x45\0xyz\x0clgv-0badcafe-01ff\x07invalid";
        assert_eq!(
            label_in(packet, "lgv-0badcafe").unwrap(),
            "lgv-0badcafe-01ff"
        );
        assert_eq!(label_in(b"lgv-0badcafe-01f", "lgv-0badcafe"), None);
        assert_eq!(label_in(packet, "lgv-00000000"), None);
    }
}
