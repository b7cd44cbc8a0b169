//! What other firewalls do with DNS.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;
use crate::host::find_program;

/// Facts about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Firewall {
    /// Rules about DNS that are not leakguard's, and what they do.
    pub(super) rules: Vec<(Verdict, String)>,
    /// Tables of the old iptables, which nft does not show.
    pub(super) legacy: Vec<String>,
    /// Whether the service that loads `/etc/nftables.conf` is enabled, and the file begins with a flush.
    pub(super) flush_at: Option<String>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Redirect,
}

/// How long `nft` may take.
const LIMIT: Duration = Duration::from_secs(5);

const PORTS: [u64; 2] = [53, 853];

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Firewall,
        severity,
        title,
        why,
    }
}

pub(super) const DROPS: Rule = rule(
    "firewall-drops-dns",
    Severity::Warning,
    "another firewall drops DNS",
    "names that fail may be its doing and not leakguard's",
);
pub(super) const REDIRECTS: Rule = rule(
    "firewall-redirects-dns",
    Severity::Warning,
    "another firewall sends DNS elsewhere",
    "who answers is not who was asked; leakguard judges by the way out, before or after that",
);
pub(super) const ACCEPTS: Rule = rule(
    "firewall-accepts-dns",
    Severity::Note,
    "another firewall lets DNS out",
    "that opens nothing: leakguard judges on its own",
);
pub(super) const LEGACY: Rule = rule(
    "iptables-legacy",
    Severity::Note,
    "there are rules of the old iptables",
    "nft does not show them, so they are not part of this report",
);
pub(super) const FLUSHES: Rule = rule(
    "nftables-conf-flushes",
    Severity::Note,
    "nftables.service begins with `flush ruleset`",
    "each reload removes leakguard's second net; a running agent puts it back within about a second",
);

pub(super) const RULES: &[&Rule] = &[&DROPS, &REDIRECTS, &ACCEPTS, &LEGACY, &FLUSHES];

pub(super) async fn collect(root: &Root) -> Firewall {
    const CONF: &str = "/etc/nftables.conf";
    let legacy: BTreeSet<String> = ["ip_tables_names", "ip6_tables_names"]
        .into_iter()
        .filter_map(|name| root.read(&format!("/proc/net/{name}")))
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let enabled = root
        .link("/etc/systemd/system/sysinit.target.wants/nftables.service")
        .is_some();
    let conf = root.read(CONF).filter(|_| enabled).unwrap_or_default();
    let mut lines = (1..).zip(conf.lines());
    let flush = lines.find(|(_, line)| line.trim() == "flush ruleset");
    Firewall {
        rules: ruleset()
            .await
            .map(|ruleset| about_dns(&ruleset))
            .unwrap_or_default(),
        legacy: legacy.into_iter().collect(),
        flush_at: flush.map(|(number, line)| format!("{CONF}:{number}: {line}")),
    }
}

/// What `nft` shows; nothing where it is not there, or may not look.
async fn ruleset() -> Option<Value> {
    let mut nft = tokio::process::Command::new(find_program("nft")?);
    nft.args(["-j", "list", "ruleset"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, nft.output()).await.ok()?.ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// The rules about DNS of all tables but leakguard's.
pub(super) fn about_dns(ruleset: &Value) -> Vec<(Verdict, String)> {
    let objects = ruleset["nftables"].as_array().into_iter().flatten();
    let rules = objects.filter_map(|object| object.get("rule"));
    rules
        .filter(|rule| rule["table"] != "leakguard")
        .filter_map(|rule| {
            let expressions = rule["expr"].as_array()?;
            if !expressions.iter().any(is_about_dns) {
                return None;
            }
            let verdict = expressions.iter().find_map(verdict)?;
            let text = |key: &str| rule[key].as_str().unwrap_or("?").to_owned();
            let place = format!(
                "{} {} {} handle {}",
                text("family"),
                text("table"),
                text("chain"),
                rule["handle"]
            );
            Some((verdict, place))
        })
        .collect()
}

/// Whether an expression compares the destination port with one of DNS.
fn is_about_dns(expression: &Value) -> bool {
    // What xtables compares is not shown; iptables-nft translates ports since 1.8.8.
    let compared = &expression["match"];
    compared["left"]["payload"]["field"] == "dport" && has_port(&compared["right"])
}

fn has_port(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_u64().is_some_and(|port| PORTS.contains(&port)),
        Value::Object(object) => match (object.get("set"), object.get("range")) {
            (Some(set), _) => has_port(set),
            (_, Some(Value::Array(ends))) => {
                let end = |at: usize| ends.get(at).and_then(Value::as_u64);
                let (Some(low), Some(high)) = (end(0), end(1)) else {
                    return false;
                };
                PORTS.iter().any(|port| (low..=high).contains(port))
            }
            _ => false,
        },
        Value::Array(values) => values.iter().any(has_port),
        _ => false,
    }
}

fn verdict(expression: &Value) -> Option<Verdict> {
    let object = expression.as_object()?;
    // Targets of iptables that nft has no expression for.
    let target = object
        .get("xt")
        .filter(|xt| xt["type"] == "target")
        .and_then(|xt| xt["name"].as_str())
        .map(str::to_lowercase);
    let has = |keys: &[&str]| {
        keys.iter()
            .any(|key| object.contains_key(*key) || target.as_deref() == Some(key))
    };
    if has(&["drop", "reject"]) {
        Some(Verdict::Drop)
    } else if has(&["dnat", "redirect", "tproxy"]) {
        Some(Verdict::Redirect)
    } else if has(&["accept"]) {
        Some(Verdict::Accept)
    } else {
        None
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Firewall {
        rules,
        legacy,
        flush_at,
    } = &facts.firewall;
    let mut found = Vec::new();
    for (wanted, rule) in [
        (Verdict::Drop, &DROPS),
        (Verdict::Redirect, &REDIRECTS),
        (Verdict::Accept, &ACCEPTS),
    ] {
        let places: Vec<String> = rules
            .iter()
            .filter(|(verdict, _)| *verdict == wanted)
            .map(|(_, place)| place.clone())
            .collect();
        if !places.is_empty() {
            let delete: Vec<String> = places
                .iter()
                .map(|place| format!("nft delete rule {place}"))
                .collect();
            let shown = places
                .iter()
                .map(|place| format!("nft -a list ruleset: {place}"));
            let remedy = format!("{} # if it is not wanted", delete.join("; "));
            found.push(rule.found(shown, remedy));
        }
    }
    if !legacy.is_empty() {
        found.push(LEGACY.found(
            [format!("/proc/net/ip_tables_names: {}", legacy.join(", "))],
            "iptables-legacy-save; ip6tables-legacy-save",
        ));
    }
    if let Some(place) = flush_at {
        found.push(FLUSHES.found(
            [place.clone()],
            "replace it there by one `delete table` for each of its own tables",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(table: &str, right: &Value, verdict: &Value) -> Value {
        json!({"rule": {"family": "inet", "table": table, "chain": "output", "handle": 4, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": right}},
            {"counter": {"packets": 0, "bytes": 0}},
            verdict,
        ]}})
    }

    #[test]
    fn rules_about_dns_are_told_from_others_and_from_our_own() {
        let ruleset = json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            rule("filter", &json!(53), &json!({"drop": null})),
            rule("filter", &json!({"set": [80, {"range": [50, 60]}]}), &json!({"dnat": {"addr": "192.0.2.1"}})),
            rule("filter", &json!({"range": [800, 900]}), &json!({"accept": null})),
            rule("nat", &json!(53), &json!({"xt": {"type": "target", "name": "DNAT"}})),
            rule("nat", &json!(53), &json!({"xt": {"type": "match", "name": "comment"}})),
            rule("filter", &json!(80), &json!({"drop": null})),
            rule("leakguard", &json!(53), &json!({"drop": null})),
        ]});
        let found = about_dns(&ruleset);
        let verdicts: Vec<Verdict> = found.iter().map(|(verdict, _)| *verdict).collect();
        assert_eq!(
            verdicts,
            [
                Verdict::Drop,
                Verdict::Redirect,
                Verdict::Accept,
                Verdict::Redirect
            ]
        );
        assert_eq!(found[0].1, "inet filter output handle 4");
        assert_eq!(about_dns(&Value::Null), []);
    }
}
