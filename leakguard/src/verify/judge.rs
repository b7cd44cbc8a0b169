//! What follows from what was sent and what was seen.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::canary::{Canary, Way};
use super::leak::{Assignment, Attempt, Found, Shown, Volley, spelled, ways};
use super::report::{Check, Leak, Part, Verdict};

/// Judges everything that was sent.
pub(super) fn judge(assignment: &Assignment, sent: &Volley, shown: &Shown, found: &mut Found) {
    if let Some(failure) = &shown.failure {
        found.checks.push(Check::new(
            Part::Leak,
            "control",
            Verdict::Inconclusive,
            format!("it could not be built, so nothing shows that the capture works: {failure}"),
        ));
    } else {
        let (seen, total) = (found.control_seen, found.control_sent);
        let all = seen == total;
        found.checks.push(Check::new(
            Part::Leak,
            "control",
            if all {
                Verdict::Pass
            } else {
                Verdict::Inconclusive
            },
            format!("the capture sees {seen} of {total} packets that nothing judges"),
        ));
    }
    for uplink in &assignment.uplinks {
        found.checks.push(harmless(&uplink.name, sent));
    }
    for way in ways(assignment) {
        if way.follows_routes() {
            row(way, None, sent, shown, found);
        } else {
            for uplink in &assignment.uplinks {
                let interface = Some(uplink.name.as_str());
                row(way, interface, sent, shown, found);
            }
        }
    }
}

/// Whether the capture of an uplink sees anything at all.
fn harmless(interface: &str, sent: &Volley) -> Check {
    let Volley {
        attempts,
        sightings,
        ..
    } = sent;
    let harmless: Vec<_> = attempts
        .iter()
        .filter(|attempt| {
            attempt.canary.is_harmless()
                && attempt.canary.way != Way::Forwarded
                && attempt.interface.as_deref() == Some(interface)
        })
        .collect();
    let seen: BTreeSet<&str> = harmless
        .iter()
        .filter(|attempt| {
            sightings
                .of(&attempt.canary, &attempt.sent)
                .contains(interface)
        })
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
fn row(way: Way, interface: Option<&str>, sent: &Volley, shown: &Shown, found: &mut Found) {
    let Volley {
        attempts,
        sightings,
        not_tested,
    } = sent;
    let mine: Vec<_> = attempts
        .iter()
        .filter(|attempt| {
            attempt.canary.way == way
                && !attempt.canary.is_harmless()
                && (interface.is_none() || attempt.interface.as_deref() == interface)
                && (!not_tested.contains_key(&(way, attempt.canary.family()))
                    || !sightings.of(&attempt.canary, &attempt.sent).is_empty())
        })
        .collect();
    let (mut refused, mut no_way, mut silent) = (0, 0, 0);
    let mut left = Left::default();
    let mut unproven = 0;
    for attempt in &mine {
        let Attempt { canary, sent, .. } = attempt;
        let mut seen = sightings.of(&attempt.canary, &attempt.sent);
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
        unproven += usize::from(!shown.seen.contains(&canary.kind()));
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
