//! `NetworkManager`: whether it writes `resolv.conf`, and whom its resolver asks.

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;
use super::settings::{self, Setting, last};

const PROCESS: &str = "NetworkManager";

const DROP_IN: &str = "/etc/NetworkManager/conf.d/90-leakguard-dns.conf";

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::NetworkManager,
        severity,
        title,
        why,
    }
}

pub(super) const WRITES: Rule = rule(
    "networkmanager-writes-resolv-conf",
    Severity::Warning,
    "NetworkManager writes resolv.conf",
    "with each lease and each reconnection it puts the LAN's resolver there, over the VPN's",
);
pub(super) const DNSMASQ: Rule = rule(
    "networkmanager-dnsmasq",
    Severity::Note,
    "NetworkManager runs a dnsmasq of its own",
    "it asks the resolvers of every connection, also those of uplinks",
);
pub(super) const CONNECTIVITY: Rule = rule(
    "networkmanager-connectivity",
    Severity::Note,
    "NetworkManager checks whether there is internet",
    "it looks a name up on every interface: leakguard drops that on uplinks, and the desktop may say \"limited\"",
);

pub(super) const RULES: &[&Rule] = &[&WRITES, &DNSMASQ, &CONNECTIVITY];

/// Its configuration, as it holds.
pub(super) fn collect(root: &Root) -> Vec<Setting> {
    settings::read(
        root,
        "/etc/NetworkManager/NetworkManager.conf",
        &[
            "/etc/NetworkManager/conf.d",
            "/run/NetworkManager/conf.d",
            "/usr/lib/NetworkManager/conf.d",
        ],
    )
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let settings = &facts.network_manager;
    let Some(running) = facts.processes.evidence(&[PROCESS]) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let dns = last(settings, "main", "dns");
    let mode = dns.map_or("default", |setting| setting.value.as_str());
    let shown = dns.map_or_else(
        || "NetworkManager.conf, conf.d: no dns= in [main]".to_owned(),
        Setting::evidence,
    );
    let resolv_conf = &facts.resolv_conf;
    let set_none = format!(
        "mkdir -p /etc/NetworkManager/conf.d && printf '[main]\\ndns=none\\n' > {DROP_IN} && systemctl reload \
         NetworkManager"
    );
    let unmanaged =
        last(settings, "main", "rc-manager").is_some_and(|setting| setting.value == "unmanaged");
    // A link to another program's file is left alone.
    let is_its = resolv_conf
        .link
        .as_deref()
        .is_none_or(|link| link.contains("NetworkManager"));
    match mode {
        "dnsmasq" => found.push(DNSMASQ.found([shown, running], set_none)),
        "default" | "auto"
            if is_its && !unmanaged && !resolv_conf.names_stub() && !resolv_conf.immutable =>
        {
            found.push(WRITES.found([shown, running], set_none));
        }
        _ => {}
    }
    let uri = last(settings, "connectivity", "uri").filter(|setting| !setting.value.is_empty());
    let enabled =
        last(settings, "connectivity", "enabled").is_none_or(|setting| setting.value != "false");
    if let Some(uri) = uri.filter(|_| enabled) {
        found.push(CONNECTIVITY.found(
            [uri.evidence()],
            "printf '[connectivity]\\nenabled=false\\n' > \
             /etc/NetworkManager/conf.d/90-leakguard-connectivity.conf && systemctl reload NetworkManager",
        ));
    }
    found
}
