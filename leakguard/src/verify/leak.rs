//! The leak test: packets of every class are sent in every way, and what really leaves is counted.

use std::collections::{BTreeMap, HashSet};

use leakguard_common::abi::Class;
use nix::errno::Errno;

use super::canary::{Canary, Kind, Known, Labels, Way};
use super::judge::judge;
use super::report::{Check, Leak};
use super::scratch::{Client, Control};
use super::send::{Egress, Sender, Sent};
use super::sightings::{Sightings, watch};
use super::tap::{Tap, sent_by};
use crate::error::chain;
use crate::lab::{LabError, NetnsHandle};

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
pub(super) struct Attempt {
    pub(super) canary: Canary,
    pub(super) interface: Option<String>,
    pub(super) sent: Sent,
}

/// Everything that was sent from here, and what is known of it.
pub(super) struct Volley {
    pub(super) attempts: Vec<Attempt>,
    pub(super) sightings: Sightings,
    /// What could not be tested and why, by way and family.
    pub(super) not_tested: BTreeMap<(Way, &'static str), String>,
}

/// What the control has shown.
#[derive(Default)]
pub(super) struct Shown {
    /// What can be seen.
    pub(super) seen: HashSet<Kind>,
    /// Why nothing was shown.
    pub(super) failure: Option<String>,
}

/// Sends everything, the control first.
pub(super) fn test(assignment: &Assignment, run: &str) -> Result<Found, LabError> {
    let mut labels = Labels::new(run);
    let mut found = Found::default();
    let shown = match control(assignment, &mut labels, run, &mut found) {
        Ok(shown) => shown,
        Err(error) => Shown {
            failure: Some(chain(&error)),
            ..Shown::default()
        },
    };
    let mut volley = here(assignment, &mut labels, run)?;
    for Attempt { canary, sent, .. } in &volley.attempts {
        let passed_on = !volley.sightings.of(canary, sent).is_empty();
        if canary.way == Way::Forwarded && canary.is_harmless() && !passed_on {
            volley
                .not_tested
                .entry((Way::Forwarded, canary.family()))
                .or_insert_with(|| {
                    "not even a harmless packet is passed on by an uplink".to_owned()
                });
        }
    }
    judge(assignment, &volley, &shown, &mut found);
    let canaries = volley.attempts.iter();
    found.canaries = canaries
        .filter(|attempt| !attempt.canary.is_harmless())
        .count();
    Ok(found)
}

/// The ways that are worth trying.
pub(super) fn ways(assignment: &Assignment) -> Vec<Way> {
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
    let (mut tap, mut attempts) = control.netns().run_in(|| {
        let tap = Tap::open(egress.index)?;
        Ok::<_, LabError>((tap, send_all(others, Some(egress))))
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
    let mut shown = Shown::default();
    for Attempt { canary, sent, .. } in &attempts {
        let seen = if canary.way == Way::Bypass {
            // No capture sees it: the device has counted it.
            sent.result.is_ok()
        } else {
            !sightings.of(canary, sent).is_empty()
        };
        if seen {
            shown.seen.insert(canary.kind());
        } else {
            log::debug!("the control did not see {canary:?}: {:?}", sent.result);
        }
        found.control_sent += 1;
        found.control_seen += usize::from(seen);
    }
    Ok(shown)
}

/// Sends by every uplink of this host, and from behind it.
fn here(assignment: &Assignment, labels: &mut Labels, run: &str) -> Result<Volley, LabError> {
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
    Ok(Volley {
        attempts,
        sightings,
        not_tested,
    })
}

/// A family as people write it.
pub(super) fn spelled(family: &str) -> &'static str {
    if family == "ipv4" { "IPv4" } else { "IPv6" }
}

fn send_all(canaries: Vec<Canary>, egress: Option<&Egress>) -> Vec<Attempt> {
    let mut sender = Sender::new(egress);
    canaries
        .into_iter()
        .map(|canary| {
            let before = (canary.way == Way::Bypass)
                .then(|| egress.and_then(|egress| sent_by(&egress.name)))
                .flatten();
            let mut sent = sender.send(&canary);
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
