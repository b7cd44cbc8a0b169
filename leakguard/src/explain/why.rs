//! A verdict in a sentence.

use leakguard_common::abi::{Class, Reason, Role, Verdict};

/// What a verdict came of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Why<'a> {
    pub(super) verdict: &'static str,
    pub(super) reason: &'static str,
    pub(super) class: Option<Class>,
    pub(super) role: Role,
    /// The exit interface's name.
    pub(super) interface: &'a str,
    /// Whether any program was asked.
    pub(super) met: bool,
    /// Whether the kill switch is engaged.
    pub(super) engaged: bool,
    /// Whether the program has seen the whole packet.
    pub(super) whole: bool,
}

/// Says it to people.
pub(super) fn why(why: &Why<'_>) -> String {
    let Why {
        verdict,
        reason,
        class,
        role,
        interface,
        met,
        engaged,
        whole,
    } = *why;
    let reason = Reason::from_name(reason).unwrap_or(Reason::Other);
    if Verdict::from_name(verdict) == Some(Verdict::Pass) {
        return match (reason, class) {
            _ if !met => format!(
                "no program judges it on its way out by {interface}, which is {}",
                article(role)
            ),
            (Reason::Other, _) if engaged && role == Role::Uplink => {
                "the kill switch is engaged, and exempts it".to_owned()
            }
            (Reason::Other, Some(class)) => format!("{class} is not blocked"),
            (Reason::Other, None) => "nothing that leakguard judges".to_owned(),
            (reason, _) => format!("{reason} may leave by {interface}: it is {}", article(role)),
        };
    }
    let mut text = match reason {
        Reason::Fragment => {
            "a fragment without ports, which only a raw socket can have made".to_owned()
        }
        Reason::Malformed if whole => "it cannot be judged".to_owned(),
        Reason::Malformed => {
            "it cannot be judged; the whole packet might, but not all of it is here".to_owned()
        }
        Reason::Ipv6 => format!("IPv6 is kept off {interface}: it is {}", article(role)),
        Reason::KillSwitch => "the kill switch is engaged, and does not exempt it".to_owned(),
        reason => format!("{reason} is kept off {interface}: it is {}", article(role)),
    };
    if Verdict::from_name(verdict) == Some(Verdict::WouldDrop) {
        text.push_str("; it goes all the same, because the mode is observe");
    }
    text
}

fn article(role: Role) -> &'static str {
    match role {
        Role::Tunnel => "a tunnel",
        Role::Local => "local",
        Role::Uplink => "an uplink",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROPPED: Why<'_> = Why {
        verdict: "drop",
        reason: "dns",
        class: Some(Class::Dns),
        role: Role::Uplink,
        interface: "eth0",
        met: true,
        engaged: false,
        whole: true,
    };

    #[test]
    fn a_drop_names_the_interface_and_the_mode() {
        assert_eq!(why(&DROPPED), "dns is kept off eth0: it is an uplink");
        let observed = Why {
            verdict: "would_drop",
            ..DROPPED
        };
        assert!(why(&observed).ends_with("the mode is observe"));
    }

    #[test]
    fn a_pass_says_what_lets_it() {
        let passed = Why {
            verdict: "pass",
            ..DROPPED
        };
        let tunnel = Why {
            role: Role::Tunnel,
            interface: "wg0",
            ..passed
        };
        assert_eq!(why(&tunnel), "dns may leave by wg0: it is a tunnel");
        let other = Why {
            reason: "other",
            ..passed
        };
        assert_eq!(why(&other), "dns is not blocked");
        let exempt = Why {
            engaged: true,
            ..other
        };
        assert!(why(&exempt).contains("exempts"));
        let unmet = Why {
            met: false,
            ..other
        };
        assert!(why(&unmet).contains("no program"));
    }

    #[test]
    fn what_was_cut_is_not_called_malformed_without_saying_so() {
        let cut = Why {
            reason: "malformed",
            whole: false,
            ..DROPPED
        };
        assert!(why(&cut).contains("not all of it is here"));
    }
}
