//! What holds of every verdict.

use leakguard_common::abi::{Class, ClassSet, Reason, Role, Settings, Verdict};
use leakguard_common::packet::{LinkLayer, ParseError};
use leakguard_common::plain::{is_other_ipv4, is_other_ipv6};
use leakguard_common::verdict::Decision;

use crate::case::Case;
use crate::disguise::disguises;

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Whether the packet belongs to a class.
    pub(crate) is_of_class: bool,
    /// How many other ways to send it have been judged as well.
    pub(crate) disguises: usize,
}

/// Judges the case and everything near it; says what is wrong.
pub(crate) fn check(case: &Case) -> Result<Checked, String> {
    let decision = case.decide();
    follows_role_and_mode(case, decision)?;
    follows_settings(case, decision)?;
    short_way_is_right(case)?;
    stricter_drops_more(case)?;
    nothing_exempts_dns(case)?;
    let uplink = case.with(|case| case.facts.role = Some(Role::Uplink));
    Ok(Checked {
        is_of_class: is_class(uplink.decide().reason),
        disguises: disguises_change_nothing(&uplink)?,
    })
}

fn wrong(what: &str, case: &Case, decision: Decision) -> String {
    format!(
        "{what}: {decision:?} of {case:02x?}, parsed {:?}",
        case.parse()
    )
}

fn ensure(holds: bool, what: &str, case: &Case, decision: Decision) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(wrong(what, case, decision))
    }
}

fn class_of(reason: Reason) -> Option<Class> {
    let mut classes = Class::ALL.iter().copied();
    classes.find(|class| Reason::from(*class) == reason)
}

fn is_class(reason: Reason) -> bool {
    class_of(reason).is_some()
}

/// Whether it counts as DNS, or as what cannot be told from it.
fn is_suspicion(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Other | Reason::Ipv6 | Reason::KillSwitch | Reason::DnsShaped
    )
}

fn follows_role_and_mode(case: &Case, decision: Decision) -> Result<(), String> {
    let expected = match case.facts.role {
        _ if !decision.is_judged() => Verdict::Pass,
        None => return Err(wrong("judged in another namespace", case, decision)),
        Some(Role::Tunnel | Role::Local) => Verdict::Pass,
        Some(Role::Uplink) if decision.reason == Reason::DnsShaped => Verdict::Pass,
        Some(Role::Uplink) if case.settings.mode == Settings::OBSERVE => Verdict::WouldDrop,
        Some(Role::Uplink) => Verdict::Drop,
    };
    ensure(decision.verdict == expected, "verdict", case, decision)?;
    let role = case.facts.role;
    ensure(
        !decision.is_judged() || Some(decision.role) == role,
        "role",
        case,
        decision,
    )
}

fn follows_settings(case: &Case, decision: Decision) -> Result<(), String> {
    let holds = match decision.reason {
        Reason::KillSwitch => case.facts.engaged,
        Reason::Ipv6 => case.settings.ipv6 != Settings::DNS_ONLY && !case.facts.engaged,
        reason => class_of(reason).is_none_or(|class| !case.settings.exempt.contains(class)),
    };
    ensure(holds, "reason", case, decision)
}

/// What the programs let go at first sight is nothing that they would judge.
fn short_way_is_right(case: &Case) -> Result<(), String> {
    if case.link != LinkLayer::Ip {
        return Ok(());
    }
    let Case {
        settings, facts, ..
    } = case;
    let is_plain = match case.bytes.first().map(|first| first >> 4) {
        Some(4) => (case.bytes.first_chunk())
            .is_some_and(|head| is_other_ipv4(head, settings, facts.engaged, case)),
        Some(6) => (case.bytes.first_chunk())
            .is_some_and(|head| is_other_ipv6(head, settings, facts.engaged, case)),
        _ => false,
    };
    let uplink = case.with(|case| case.facts.role = Some(Role::Uplink));
    let decision = uplink.decide();
    ensure(
        !(is_plain && decision.is_judged()),
        "let go at first sight",
        &uplink,
        decision,
    )
}

/// A stricter configuration lets nothing out that a laxer one keeps in.
fn stricter_drops_more(case: &Case) -> Result<(), String> {
    if !case.decide().is_judged() {
        return Ok(());
    }
    for (what, stricter) in [
        ("engaged", case.with(|case| case.facts.engaged = true)),
        (
            "without IPv6",
            case.with(|case| case.settings.ipv6 = Settings::BLOCK_OFF_TUNNEL),
        ),
        (
            "every class",
            case.with(|case| case.settings.exempt = ClassSet::default()),
        ),
        (
            "nothing exempt",
            case.with(|case| {
                case.settings.exemptions = 0;
                case.facts.lan = false;
                case.facts.endpoint = false;
            }),
        ),
    ] {
        let decision = stricter.decide();
        ensure(decision.is_judged(), what, &stricter, decision)?;
    }
    Ok(())
}

/// Neither the LAN nor an endpoint, nor a disengaged kill switch, changes anything about DNS.
fn nothing_exempts_dns(case: &Case) -> Result<(), String> {
    let decision = case.decide();
    if !is_suspicion(decision.reason) {
        return Ok(());
    }
    // What headers do not show is looked for only where the kill switch does not speak first.
    let is_shown = is_suspicion(case.decide_by_headers().reason);
    for exempt in [false, true] {
        let changed = case.with(|case| {
            case.settings.exemptions = if exempt { u32::MAX } else { 0 };
            case.facts.lan = exempt;
            case.facts.endpoint = exempt;
            case.facts.forwarded = !exempt;
            case.facts.engaged = !exempt;
        });
        let found = changed.decide();
        let is_same = if is_shown {
            found == decision
        } else {
            found.is_judged() && found.verdict == decision.verdict
        };
        ensure(is_same, "exempt", &changed, found)?;
    }
    Ok(())
}

/// More headers in front of the transport make no other packet of it; too many make it one that cannot be judged.
fn disguises_change_nothing(case: &Case) -> Result<usize, String> {
    let decision = case.decide();
    let disguises = disguises(case);
    for (what, disguised) in &disguises {
        let found = disguised.decide();
        let is_too_deep = disguised.parse().0 == Err(ParseError::TooDeep);
        let expected = if is_too_deep {
            Reason::Malformed
        } else {
            decision.reason
        };
        // What is no packet stays none, but not for the same reason.
        let is_broken = case.parse().0.is_err();
        ensure(
            is_broken || found.reason == expected,
            what,
            disguised,
            found,
        )?;
    }
    Ok(disguises.len())
}
