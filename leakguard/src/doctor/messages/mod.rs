//! What messages about names mean, and whether leakguard is the cause.

mod table;

use leakguard_common::abi::Reason;
use serde::Serialize;

use super::dropped;
use crate::status::{Redirect, Status};

/// Whether leakguard can be the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Yes, under this condition.
    When(&'static str),
    /// No, and why not.
    Never(&'static str),
}

/// A message that users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its text; `*` stands for what differs.
    pub text: &'static str,
    /// Which programs say it.
    pub said_by: &'static str,
    /// What it means.
    pub means: &'static str,
    /// Whether leakguard can be the cause.
    pub cause: Cause,
    /// What to do.
    pub remedy: &'static str,
}

impl Message {
    /// Whether it is somewhere in a text, in whatever case.
    fn is_in(&self, text: &str) -> bool {
        let pattern = self.text.to_lowercase();
        let mut rest = text;
        pattern.split('*').all(|part| match rest.find(part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
    }

    /// Whether leakguard can be the cause, in a sentence.
    pub fn leakguard(&self) -> String {
        match self.cause {
            Cause::When(condition) => format!("yes, when {condition}"),
            Cause::Never(reason) => format!("no: {reason}"),
        }
    }
}

/// Every message, in the order of who says it.
pub fn messages() -> impl Iterator<Item = &'static Message> {
    table::MESSAGES.iter()
}

/// A message, and what the counters say now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The message.
    pub message: &'static str,
    /// Which programs say it.
    pub said_by: &'static str,
    /// What it means.
    pub means: &'static str,
    /// Whether leakguard can be the cause.
    pub leakguard: String,
    /// Whether what is enforced now, and what it has dropped, speaks for it: absent where it cannot be known.
    pub supported: Option<bool>,
    /// What is enforced now, in a sentence.
    pub now: String,
    /// What to do.
    pub remedy: &'static str,
}

/// What the messages in a text mean, the most particular one first.
pub fn explain(text: &str, status: Option<&Status>) -> Vec<Explanation> {
    // Chrome and others set apostrophes of their own.
    let text = text.replace('\u{2019}', "'").to_lowercase();
    let mut found: Vec<&Message> = messages().filter(|message| message.is_in(&text)).collect();
    found.sort_by_key(|message| std::cmp::Reverse(message.text.len()));
    let explanation = |message: &Message| {
        let (supported, now) = support(message, status);
        Explanation {
            message: message.text,
            said_by: message.said_by,
            means: message.means,
            leakguard: message.leakguard(),
            supported,
            now,
            remedy: message.remedy,
        }
    };
    found.into_iter().map(explanation).collect()
}

/// Whether leakguard is the cause as things are now.
fn support(message: &Message, status: Option<&Status>) -> (Option<bool>, String) {
    let Some(status) = status else {
        let now = "what is enforced cannot be read: sudo leakguard doctor --error …";
        return (None, now.to_owned());
    };
    match status.mode {
        None => {
            return (
                Some(false),
                "nothing is enforced, so it is not leakguard".into(),
            );
        }
        Some("observe") => {
            let now = "leakguard only observes and drops nothing, so it is not leakguard";
            return (Some(false), now.into());
        }
        Some(_) => {}
    }
    if matches!(message.cause, Cause::Never(_)) {
        return (Some(false), "it is not leakguard".into());
    }
    if message.cause == Cause::When(table::UNREACHABLE) {
        return unreachable(status.redirect.as_ref());
    }
    if let Some(kill_switch) = &status.kill_switch
        && kill_switch.engaged
    {
        let now =
            "the kill switch is engaged: nothing leaves but what is exempt, so it is leakguard";
        return (Some(true), now.into());
    }
    let reasons = [
        Reason::Dns,
        Reason::Dot,
        Reason::Doq,
        Reason::Doh,
        Reason::KillSwitch,
    ];
    let counts: Vec<String> = reasons
        .into_iter()
        .map(|reason| (dropped(status, reason), reason.name()))
        .filter(|(count, _)| *count > 0)
        .map(|(count, reason)| format!("{count} of {reason}"))
        .collect();
    if counts.is_empty() {
        let now = "leakguard has dropped no such packet since it enforces, so it is not leakguard";
        (Some(false), now.into())
    } else {
        let counts = counts.join(", ");
        let now = format!(
            "leakguard has dropped packets on uplinks since it enforces ({counts}), so it can be; leakguard events says whose"
        );
        (Some(true), now)
    }
}

/// Whether a call without a way out is one that was redirected.
fn unreachable(redirect: Option<&Redirect>) -> (Option<bool>, String) {
    let Some(redirect) = redirect else {
        let now = "nothing is redirected, and leakguard changes no route, so it is not leakguard";
        return (Some(false), now.into());
    };
    if !redirect.up {
        let now = "calls to port 53 are redirected into the tunnel, and none is up, so it is leakguard if it was one";
        return (Some(true), now.into());
    }
    let without = [("IPv4", true), ("IPv6", false)]
        .into_iter()
        .find(|(_, v4)| redirect.to.iter().all(|address| address.is_ipv4() != *v4));
    match without {
        Some((family, _)) => (
            Some(true),
            format!(
                "calls to port 53 are redirected, and {family} has no resolver, so it can be leakguard"
            ),
        ),
        None => (
            Some(false),
            "calls to port 53 are redirected into a tunnel that is up, so it is not leakguard"
                .into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> Option<&'static str> {
        explain(text, None).first().map(|found| found.message)
    }

    #[test]
    fn messages_are_found_in_what_programs_print() {
        for (printed, message) in [
            (
                "ping: example.com: Temporary failure in name resolution",
                "Temporary failure in name resolution",
            ),
            (
                "dial tcp: lookup registry-1.docker.io on 127.0.0.53:53: server misbehaving",
                "lookup * on *: server misbehaving",
            ),
            (
                ";; communications error to 8.8.8.8#53: timed out",
                "communications error to *: timed out",
            ),
            (
                "Hmm. We\u{2019}re having trouble finding that site.",
                "trouble finding that site",
            ),
            (
                "lookup x on 8.8.8.8:53: write udp 192.0.2.1:1->8.8.8.8:53: write: operation not permitted",
                "lookup *: write: operation not permitted",
            ),
            ("Error: queryA ETIMEOUT example.com", "query* ETIMEOUT"),
            // As Debian 12's programs have it.
            (
                ";; WARNING: can't send query to 198.51.100.53@53(UDP)",
                "can't send query to *",
            ),
            (
                ";; ERROR: failed to query server 198.51.100.53@53(UDP)",
                "failed to query server *",
            ),
            (
                "Error: error sending query: Error creating socket",
                "error sending query: *",
            ),
            (
                ";; Connection to 198.51.100.53#53(198.51.100.53) for example.com failed: timed out.",
                "Connection to * failed: timed out",
            ),
            (
                ";; UDP setup with 198.51.100.53#53(198.51.100.53) for example.com failed: network unreachable.",
                "setup with * failed: network unreachable",
            ),
        ] {
            assert_eq!(first(printed), Some(message), "{printed}");
        }
        assert_eq!(first("segmentation fault"), None);
        assert_eq!(first(""), None);
    }

    #[test]
    fn each_message_finds_itself_first_and_once() {
        for message in messages() {
            let example = message.text.replace('*', "x");
            assert_eq!(first(&example), Some(message.text));
        }
        assert!(messages().count() >= 25);
    }

    #[test]
    fn a_call_without_a_way_out_is_leakguards_if_it_was_redirected() {
        let redirect = |to: &[&str], up| Redirect {
            to: to.iter().map(|address| address.parse().unwrap()).collect(),
            up,
            near: 0,
            spared: 0,
        };
        assert_eq!(unreachable(None).0, Some(false));
        for (redirect, expected) in [
            (redirect(&["10.8.0.1", "fd08::1"], true), false),
            (redirect(&["10.8.0.1", "fd08::1"], false), true),
            (redirect(&["10.8.0.1"], true), true),
        ] {
            let (supported, now) = unreachable(Some(&redirect));
            assert_eq!(supported, Some(expected), "{now}");
        }
    }

    #[test]
    fn without_privileges_nothing_is_claimed() {
        let found = explain("ERR_NAME_NOT_RESOLVED", None);
        assert_eq!(found[0].supported, None);
    }
}
