//! Browsers that resolve names by DNS over HTTPS.

use serde_json::Value;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;

/// Facts about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Browsers {
    /// Policies that switch it on, as evidence.
    pub(super) on: Vec<String>,
    /// Browsers that are there and have no policy about it.
    pub(super) free: Vec<&'static str>,
}

/// A browser: its program, and where its policies are.
struct Browser {
    program: &'static str,
    /// Directories of files, or files.
    policies: &'static [&'static str],
    firefox: bool,
}

const BROWSERS: [Browser; 5] = [
    Browser {
        program: "/usr/bin/chromium",
        policies: &["/etc/chromium/policies/managed"],
        firefox: false,
    },
    Browser {
        program: "/usr/bin/google-chrome",
        policies: &["/etc/opt/chrome/policies/managed"],
        firefox: false,
    },
    Browser {
        program: "/usr/bin/microsoft-edge",
        policies: &["/etc/opt/edge/policies/managed"],
        firefox: false,
    },
    Browser {
        program: "/usr/bin/brave-browser",
        policies: &["/etc/brave/policies/managed"],
        firefox: false,
    },
    Browser {
        program: "/usr/bin/firefox",
        policies: &[
            "/etc/firefox/policies/policies.json",
            "/usr/lib/firefox/distribution/policies.json",
            "/usr/lib/firefox-esr/distribution/policies.json",
        ],
        firefox: true,
    },
];

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Browsers,
        severity,
        title,
        why,
    }
}

pub(super) const ON: Rule = rule(
    "browser-doh-on",
    Severity::Warning,
    "a policy makes a browser ask by DNS over HTTPS",
    "the tunnel's resolver is not asked; past the tunnel, known resolvers are blocked and unknown ones are not",
);
pub(super) const FREE: Rule = rule(
    "browser-doh-free",
    Severity::Note,
    "a browser may ask by DNS over HTTPS",
    "no policy forbids it: past the tunnel, resolvers that are not in leakguard's list get through",
);

pub(super) const RULES: &[&Rule] = &[&ON, &FREE];

pub(super) fn collect(root: &Root) -> Browsers {
    let mut browsers = Browsers::default();
    for browser in &BROWSERS {
        let files = browser.policies.iter().flat_map(|path| {
            if path.strip_suffix(".json").is_some() {
                vec![(*path).to_owned()]
            } else {
                root.files(path, ".json")
            }
        });
        let mut said = false;
        for path in files {
            let text = root.read(&path).unwrap_or_default();
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            let (on, what) = if browser.firefox {
                let policy = &value["policies"]["DNSOverHTTPS"];
                (
                    policy["Enabled"].as_bool(),
                    format!("DNSOverHTTPS {policy}"),
                )
            } else {
                let mode = value["DnsOverHttpsMode"].as_str();
                let what = format!("DnsOverHttpsMode {}", mode.unwrap_or_default());
                (mode.map(|mode| mode != "off"), what)
            };
            said |= on.is_some();
            if on == Some(true) {
                browsers.on.push(format!("{path}: {what}"));
            }
        }
        if !said && root.exists(browser.program) {
            browsers.free.push(browser.program);
        }
    }
    browsers
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Browsers { on, free } = &facts.browsers;
    let mut found = Vec::new();
    if !on.is_empty() {
        found.push(ON.found(
            on.iter().cloned(),
            "\"DnsOverHttpsMode\": \"off\" in that file; for Firefox \"DNSOverHTTPS\": {\"Enabled\": false, \"Locked\": \
             true}",
        ));
    }
    for program in free {
        let remedy = BROWSERS
            .iter()
            .find(|browser| browser.program == *program)
            .map_or_else(String::new, |browser| {
                let place = browser.policies.first().copied().unwrap_or_default();
                if browser.firefox {
                    format!(
                        "install -D -m 644 /dev/stdin {place} <<< \
                         '{{\"policies\":{{\"DNSOverHTTPS\":{{\"Enabled\":false,\"Locked\":true}}}}}}'"
                    )
                } else {
                    format!(
                        "install -D -m 644 /dev/stdin {place}/leakguard.json <<< '{{\"DnsOverHttpsMode\":\"off\"}}'"
                    )
                }
            });
        found.push(FREE.found([format!("{program}: no policy")], remedy));
    }
    found
}
