//! What leakguard enforces now, as `status` says it.

use leakguard_common::abi::{Class, Reason, Role, Verdict};

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::host::Network;
use crate::status::{Level, Status};

/// What the kernel holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Enforcement {
    /// Absent where it could not be read.
    pub(super) status: Option<Status>,
    /// Why it could not, where that is not a privilege.
    pub(super) error: Option<String>,
    /// Whether an agent answers.
    pub(super) agent: bool,
}

impl Enforcement {
    /// What is enforced, if anything is.
    pub(super) fn enforced(&self) -> Option<&Status> {
        self.status.as_ref().filter(|status| status.mode.is_some())
    }
}

/// Packets of a class that were kept off uplinks, in this state's life.
pub(super) fn dropped(status: &Status, reason: Reason) -> u64 {
    let of_class = status.packets.iter().filter(|packets| {
        packets.class == reason.name()
            && packets.verdict == Verdict::Drop.name()
            && packets.role == Role::Uplink.name()
    });
    of_class.map(|packets| packets.count).sum()
}

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Enforcement,
        severity,
        title,
        why,
    }
}

pub(super) const NOTHING: Rule = rule(
    "not-enforced",
    Severity::Problem,
    "nothing is enforced",
    "DNS leaves by any interface",
);
pub(super) const UNREADABLE: Rule = rule(
    "enforcement-unreadable",
    Severity::Problem,
    "what is enforced cannot be read",
    "nobody can tell whether the host is protected",
);
pub(super) const REDUCED: Rule = rule(
    "enforced-in-part",
    Severity::Problem,
    "parts of the enforcement are missing",
    "what the missing part judges is not kept off uplinks",
);
pub(super) const OBSERVED: Rule = rule(
    "observe-mode",
    Severity::Problem,
    "leakguard only observes",
    "DNS off the tunnel is counted and reported, and leaves",
);
pub(super) const BEHIND: Rule = rule(
    "foreign-tc-program-first",
    Severity::Problem,
    "another TC program runs before leakguard's",
    "what it lets out, leakguard never sees",
);
pub(super) const ENGAGED: Rule = rule(
    "kill-switch-engaged",
    Severity::Problem,
    "the kill switch is engaged",
    "nothing leaves the host but what is exempt: this is why the internet stops",
);
pub(super) const NO_AGENT: Rule = rule(
    "agent-absent",
    Severity::Warning,
    "no agent runs",
    "what is enforced stays, but a tunnel that comes up later is not let through, and there are no events",
);
pub(super) const TRYING: Rule = rule(
    "dns-was-dropped",
    Severity::Note,
    "something has asked past the tunnel, and was stopped",
    "whoever it was got no answer; if the number grows while the VPN is up, it still tries",
);
pub(super) const LOST: Rule = rule(
    "events-lost",
    Severity::Note,
    "events were lost",
    "counters are exact, but there is no event of each dropped packet",
);

pub(super) const RULES: &[&Rule] = &[
    &NOTHING,
    &UNREADABLE,
    &REDUCED,
    &OBSERVED,
    &BEHIND,
    &ENGAGED,
    &NO_AGENT,
    &TRYING,
    &LOST,
];

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Some(status) = &facts.enforcement.status else {
        // That a privilege is missing is said elsewhere.
        let error = facts.enforcement.error.clone().into_iter();
        return error
            .map(|error| UNREADABLE.found([error], "leakguard status"))
            .collect();
    };
    let mut found = Vec::new();
    let causes = || status.causes.iter().cloned();
    let Some(mode) = status.mode else {
        return vec![NOTHING.found(causes(), run_command(&facts.network))];
    };
    let behind: Vec<String> = status
        .interfaces
        .iter()
        .filter(|interface| interface.tc == "behind")
        .map(|interface| format!("leakguard status: interface {} tc behind", interface.name))
        .collect();
    let command = if facts.enforcement.agent {
        "leakguard status # a running agent mends what it can within 5 seconds".to_owned()
    } else {
        run_command(&facts.network)
    };
    if status.level < Level::Full {
        let level = format!("leakguard status: level {}", status.level.name());
        found.push(REDUCED.found(std::iter::once(level).chain(causes()), command.clone()));
    }
    if mode == "observe" {
        found.push(OBSERVED.found(
            ["leakguard status: mode observe".to_owned()],
            "set mode = \"enforce\" in /etc/leakguard/leakguard.toml, and systemctl restart leakguard",
        ));
    }
    if !behind.is_empty() {
        found.push(BEHIND.found(behind, command));
    }
    if let Some(kill_switch) = status.kill_switch.as_ref().filter(|switch| switch.engaged) {
        found.push(ENGAGED.found(
            [format!(
                "leakguard status: kill switch {}, engaged",
                kill_switch.mode
            )],
            "leakguard release # or bring the tunnel up",
        ));
    }
    if !facts.enforcement.agent {
        found.push(NO_AGENT.found(
            ["no answer at the control socket".to_owned()],
            "systemctl start leakguard",
        ));
    }
    let counts: Vec<String> = Class::ALL
        .iter()
        .map(|class| (class.name(), dropped(status, (*class).into())))
        .filter(|(_, count)| *count > 0)
        .map(|(class, count)| {
            format!("leakguard status: {count} packets of {class} dropped on uplinks")
        })
        .collect();
    if !counts.is_empty() {
        found.push(TRYING.found(counts, "leakguard events --follow"));
    }
    if status.events.lost > 0 {
        found.push(LOST.found(
            [format!("leakguard status: {} lost", status.events.lost)],
            "lower rate_per_key in [events], and restart the agent",
        ));
    }
    found
}

/// The command that would enforce.
fn run_command(network: &Network) -> String {
    let named = network.wanted.first().or(network.visible.first());
    named.map_or_else(
        || "leakguard run --tunnel NAME".to_owned(),
        |name| format!("leakguard run --tunnel {name}"),
    )
}
