//! `/etc/resolv.conf`: whom programs ask, who wrote that, and whether it stays.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;

use leakguard_common::abi::Role;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;
use crate::preflight::{Asked, Way, describe};
use crate::resolver::is_immutable;

pub(super) const PATH: &str = "/etc/resolv.conf";

/// Where systemd-resolved listens.
pub(super) const STUBS: [&str; 2] = ["127.0.0.53", "127.0.0.54"];

/// Facts about the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// Where the link points, if it is one.
    pub(super) link: Option<String>,
    /// Absent where the file is, or where its link leads nowhere.
    pub(super) text: Option<String>,
    /// The owner and the permission bits.
    pub(super) owner: u32,
    pub(super) mode: u32,
    /// Whether the file system refuses to change it.
    pub(super) immutable: bool,
}

impl ResolvConf {
    /// The lines that begin with a word, with their numbers and the rest.
    fn lines<'a>(&'a self, word: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        let lines = (1..).zip(self.text.as_deref().unwrap_or_default().lines());
        lines.filter_map(move |(number, line)| {
            let rest = line.trim_start().strip_prefix(word)?;
            rest.starts_with(char::is_whitespace)
                .then(|| (number, rest.trim()))
        })
    }

    /// Whom it names, with the line.
    pub(super) fn nameservers(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines("nameserver")
            .filter_map(|(number, rest)| Some((number, rest.split_whitespace().next()?)))
    }

    /// Whether it names systemd-resolved's own address.
    pub(super) fn names_stub(&self) -> bool {
        self.nameservers().any(|(_, name)| STUBS.contains(&name))
    }

    /// Who wrote it, by what the first comments say, with the line.
    pub(super) fn writer(&self) -> Option<(usize, &'static str)> {
        let comments = (1..)
            .zip(self.text.as_deref().unwrap_or_default().lines())
            .filter(|(_, line)| line.starts_with(['#', ';']));
        comments.take(8).find_map(|(number, line)| {
            let known = WRITERS.iter().find(|(sign, _)| line.contains(sign));
            known.map(|(_, writer)| (number, *writer))
        })
    }
}

/// Words in the comments that programs put into it, and who does.
const WRITERS: [(&str, &str); 10] = [
    ("systemd-resolved", "systemd-resolved"),
    ("NetworkManager", "NetworkManager"),
    ("resolvconf(8)", "resolvconf"),
    ("resolvconf", "openresolv"),
    ("dhcpcd", "dhcpcd"),
    ("tailscale", "Tailscale"),
    ("Mullvad", "the Mullvad daemon"),
    ("netconfig", "netconfig"),
    ("dhclient", "dhclient"),
    ("leakguard", "leakguard"),
];

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::ResolvConf,
        severity,
        title,
        why,
    }
}

pub(super) const OVER_UPLINK: Rule = rule(
    "resolver-over-uplink",
    Severity::Problem,
    "a resolver is asked past the tunnel",
    "leakguard drops what is sent to it: names fail, or are slow until the next resolver is asked",
);
pub(super) const NO_ROUTE: Rule = rule(
    "resolver-without-route",
    Severity::Problem,
    "there is no route to a resolver",
    "what is sent to it fails at once",
);
pub(super) const SILENT: Rule = rule(
    "resolver-silent",
    Severity::Problem,
    "the resolver in the tunnel does not answer",
    "names do not resolve; the tunnel may be up without a peer at its other end",
);
pub(super) const REFUSES: Rule = rule(
    "resolver-refuses",
    Severity::Warning,
    "the resolver in the tunnel answers with an error",
    "names may not resolve; it may not serve this client, or have no way out itself",
);
pub(super) const NO_LISTENER: Rule = rule(
    "resolver-not-listening",
    Severity::Problem,
    "nothing listens at a resolver's address on this host",
    "what is sent to it is refused at once",
);
pub(super) const ABSENT: Rule = rule(
    "resolv-conf-absent",
    Severity::Problem,
    "there is no resolv.conf",
    "programs ask 127.0.0.1",
);
pub(super) const EMPTY: Rule = rule(
    "resolv-conf-without-nameserver",
    Severity::Warning,
    "resolv.conf names no resolver",
    "programs ask 127.0.0.1",
);
pub(super) const MANY: Rule = rule(
    "resolv-conf-too-many",
    Severity::Note,
    "resolv.conf names more than three resolvers",
    "the C library takes the first three",
);
pub(super) const SEARCH: Rule = rule(
    "resolv-conf-search",
    Severity::Note,
    "names are also looked up with a domain behind them",
    "a name that fails is asked again as one of the LAN's: the resolver learns it twice",
);
pub(super) const WRITABLE: Rule = rule(
    "resolv-conf-writable-by-others",
    Severity::Problem,
    "others than root can write resolv.conf",
    "they decide whom this host asks",
);
pub(super) const IMMUTABLE: Rule = rule(
    "resolv-conf-immutable",
    Severity::Note,
    "resolv.conf is immutable",
    "nobody can change it, also not the VPN that brings its own resolver; programs that try fail in silence",
);
pub(super) const STUCK: Rule = rule(
    "resolv-conf-stuck",
    Severity::Problem,
    "resolv.conf is immutable and names a resolver past the tunnel",
    "the VPN cannot put its own there: names do not resolve, whatever is restarted",
);
pub(super) const WRITER: Rule = rule(
    "resolv-conf-written-by",
    Severity::Note,
    "a program writes resolv.conf",
    "what is changed by hand is overwritten; settings belong to that program",
);

pub(super) const RULES: &[&Rule] = &[
    &OVER_UPLINK,
    &NO_ROUTE,
    &SILENT,
    &REFUSES,
    &NO_LISTENER,
    &ABSENT,
    &EMPTY,
    &MANY,
    &SEARCH,
    &WRITABLE,
    &IMMUTABLE,
    &STUCK,
    &WRITER,
];

pub(super) fn collect(root: &Root) -> ResolvConf {
    let metadata = root.metadata(PATH);
    ResolvConf {
        link: root.link(PATH),
        text: root.read(PATH),
        owner: metadata
            .as_ref()
            .map_or(0, std::os::unix::fs::MetadataExt::uid),
        mode: metadata.map_or(0, |metadata| metadata.mode() & 0o7777),
        immutable: root.open_file(PATH).is_ok_and(|file| is_immutable(&file)),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let resolv_conf = &facts.resolv_conf;
    let mut found = servers(facts);
    match (&resolv_conf.text, &resolv_conf.link) {
        (None, Some(link)) => found.push(ABSENT.found(
            [format!("{PATH} -> {link}, which is not there")],
            format!(
                "rm {PATH} && {} # or start the program that writes {link}",
                write(facts)
            ),
        )),
        (None, None) => found.push(ABSENT.found([format!("{PATH}: absent")], write(facts))),
        (Some(_), _) if resolv_conf.nameservers().next().is_none() => {
            found.push(EMPTY.found([format!("{PATH}: no line `nameserver`")], write(facts)));
        }
        _ => {}
    }
    let shown = |(number, text): (usize, &str)| format!("{PATH}:{number}: {text}");
    if resolv_conf.nameservers().count() > 3 {
        let ignored = resolv_conf.nameservers().skip(3).map(shown);
        found.push(MANY.found(ignored, format!("remove what is not wanted from {PATH}")));
    }
    let search: Vec<String> = ["search", "domain"]
        .into_iter()
        .flat_map(|word| resolv_conf.lines(word))
        .filter(|(_, domains)| !domains.is_empty() && *domains != ".")
        .map(shown)
        .collect();
    if !search.is_empty() {
        found.push(SEARCH.found(
            search,
            format!("sed -i '/^search/d;/^domain/d' {PATH} # or where its writer takes it from"),
        ));
    }
    let ResolvConf {
        owner,
        mode,
        immutable,
        ..
    } = resolv_conf;
    if resolv_conf.text.is_some() && mode & 0o022 != 0 {
        found.push(WRITABLE.found(
            [format!("{PATH}: owner {owner}, mode {mode:04o}")],
            format!("chown root:root {PATH} && chmod 644 {PATH}"),
        ));
    }
    if *immutable {
        let shown = [format!("lsattr {PATH}: i")];
        let stuck = found
            .iter()
            .any(|finding| finding.rule.id == OVER_UPLINK.id);
        found.push(if stuck {
            STUCK.found(shown, format!("chattr -i {PATH} && {}", write(facts)))
        } else {
            IMMUTABLE.found(shown, format!("chattr -i {PATH} # where it has to change"))
        });
    }
    if let Some((number, writer)) = resolv_conf.writer() {
        let place = resolv_conf.link.as_ref().map_or_else(
            || format!("{PATH}:{number}: written by {writer}"),
            |link| format!("{PATH} -> {link}: written by {writer}"),
        );
        found.push(WRITER.found(
            [place],
            format!("change the settings of {writer}, not {PATH}"),
        ));
    }
    found
}

/// What there is to say of those whom programs ask.
fn servers(facts: &Facts) -> Vec<Finding> {
    let network = &facts.network;
    let mut found = Vec::new();
    let mut add = |rule: &'static Rule, evidence: String, remedy: String| {
        let known = found
            .iter_mut()
            .find(|finding: &&mut Finding| finding.rule.id == rule.id);
        match known {
            Some(finding) => finding.evidence.push(evidence),
            None => found.push(rule.found([evidence], remedy)),
        }
    };
    for seen in &network.resolvers {
        let address = seen.server.address;
        let text = address.to_string();
        let line = facts
            .resolv_conf
            .nameservers()
            .find(|(_, name)| name.split('%').next() == Some(&text));
        let evidence = line.map_or_else(
            || describe(seen),
            |(number, _)| format!("{PATH}:{number}: {}", describe(seen)),
        );
        match (&seen.way, &seen.asked) {
            (
                Way::Over {
                    role: Role::Uplink, ..
                },
                _,
            ) if !network.is_redirected(address) => {
                add(&OVER_UPLINK, evidence, mend(facts, address));
            }
            (Way::Nowhere, _) => add(&NO_ROUTE, evidence, mend(facts, address)),
            (_, Some(Asked::Silent)) => add(
                &SILENT,
                evidence,
                "wg show # is the latest handshake recent? If not, restart the VPN".to_owned(),
            ),
            (_, Some(Asked::Refused(_))) => {
                add(&REFUSES, evidence, format!("dig @{address} . NS"));
            }
            (Way::Here, _) if address.is_loopback() && !facts.processes.listens(address) => {
                let start = if STUBS.contains(&text.as_str()) {
                    "systemctl enable --now systemd-resolved".to_owned()
                } else {
                    mend(facts, address)
                };
                let evidence = line.map_or_else(
                    || format!("/proc/net/udp: nothing at {address} port 53"),
                    |(number, _)| {
                        format!(
                            "{PATH}:{number}: nameserver {address}; nothing is there at port 53"
                        )
                    },
                );
                add(&NO_LISTENER, evidence, start);
            }
            _ => {}
        }
    }
    found
}

/// What puts another resolver in the place of one.
fn mend(facts: &Facts, address: IpAddr) -> String {
    let network = &facts.network;
    let by = network.resolver_to_use();
    if facts.resolv_conf.names_stub() {
        let tunnel = network.of_role(Role::Tunnel).next();
        let tunnel = tunnel.map_or("TUNNEL", |tunnel| tunnel.name.as_str());
        let uplink = network.uplink_towards(address).unwrap_or("UPLINK");
        return format!(
            "resolvectl dns {uplink} ''; resolvectl dns {tunnel} {by}; resolvectl domain {tunnel} '~.'"
        );
    }
    match facts.resolv_conf.writer() {
        Some((_, writer)) => format!("tell {writer} to use {by} in place of {address}"),
        None if network.resolver_in_tunnel().is_some() => {
            format!("sed -i '/^nameserver {address}$/d' {PATH}")
        }
        None => format!("sed -i 's/^nameserver {address}$/nameserver {by}/' {PATH}"),
    }
}

/// What writes a file that names one resolver.
fn write(facts: &Facts) -> String {
    format!(
        "echo 'nameserver {}' > {PATH}",
        facts.network.resolver_to_use()
    )
}
