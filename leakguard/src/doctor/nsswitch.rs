//! How the C library looks names up: `/etc/nsswitch.conf`, and nscd.

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::resolved;
use super::root::Root;

const PATH: &str = "/etc/nsswitch.conf";

/// The line `hosts:`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Nsswitch {
    /// Its number and what is behind the colon; absent where there is none, which means `dns files`.
    pub(super) hosts: Option<(usize, String)>,
}

impl Nsswitch {
    fn has(&self, service: &str) -> bool {
        self.hosts
            .as_ref()
            .is_some_and(|(_, line)| line.split_whitespace().any(|word| word == service))
    }
}

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Nsswitch,
        severity,
        title,
        why,
    }
}

pub(super) const NO_DNS: Rule = rule(
    "nss-without-dns",
    Severity::Problem,
    "the C library asks no resolver",
    "its names come from /etc/hosts alone: \"Name or service not known\"; dig and Go programs are not concerned",
);
pub(super) const DIFFERS: Rule = rule(
    "nss-resolve-differs",
    Severity::Warning,
    "some programs ask systemd-resolved and others do not",
    "nss-resolve goes past resolv.conf: what one program resolves, another does not",
);
pub(super) const MDNS: Rule = rule(
    "nss-mdns",
    Severity::Note,
    "names in .local are asked for on the LAN",
    "leakguard drops mDNS on uplinks: such names do not resolve",
);
pub(super) const NSCD: Rule = rule(
    "nscd-runs",
    Severity::Warning,
    "nscd answers for others",
    "it keeps answers from before, and asks from its own network namespace whoever asks it",
);

pub(super) const RULES: &[&Rule] = &[&NO_DNS, &DIFFERS, &MDNS, &NSCD];

pub(super) fn collect(root: &Root) -> Nsswitch {
    let text = root.read(PATH).unwrap_or_default();
    let mut lines = (1..).zip(text.lines());
    let hosts = lines.find_map(|(number, line)| {
        let rest = line.trim_start().strip_prefix("hosts:")?;
        let rest = rest.split('#').next().unwrap_or_default();
        Some((number, rest.trim().to_owned()))
    });
    Nsswitch { hosts }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let nsswitch = &facts.nsswitch;
    let mut found = Vec::new();
    if let Some((number, line)) = &nsswitch.hosts {
        let shown = || [format!("{PATH}:{number}: hosts: {line}")];
        if !nsswitch.has("dns") && !nsswitch.has("resolve") {
            found.push(NO_DNS.found(
                shown(),
                format!("sed -i 's/^hosts:.*/hosts: files dns/' {PATH}"),
            ));
        }
        let runs = facts.processes.runs(resolved::PROCESS);
        if nsswitch.has("resolve") && runs && !facts.resolv_conf.names_stub() {
            let names: Vec<String> = facts
                .resolv_conf
                .nameservers()
                .map(|(number, name)| format!("/etc/resolv.conf:{number}: nameserver {name}"))
                .collect();
            found.push(DIFFERS.found(
                shown().into_iter().chain(names),
                "ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
            ));
        }
        if line.contains("mdns") {
            found.push(MDNS.found(
                shown(),
                "if .local is wanted on the LAN: leave mdns out of block in [dns]",
            ));
        }
    }
    if let Some(running) = facts.processes.evidence(&["nscd", "unscd"]) {
        found.push(NSCD.found([running], "nscd -i hosts; or: systemctl disable --now nscd"));
    }
    found
}
