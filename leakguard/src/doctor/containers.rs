//! Container runtimes: which resolvers they give to containers.

use std::net::IpAddr;

use serde_json::Value;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;

const DAEMON_JSON: &str = "/etc/docker/daemon.json";
const CONTAINERS_CONF: &str = "/etc/containers/containers.conf";

/// Facts about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Containers {
    /// Why Docker's file cannot be read.
    pub(super) docker_invalid: Option<String>,
    /// The resolvers in it.
    pub(super) docker_dns: Vec<IpAddr>,
    /// The line of podman's file that names resolvers, with its place.
    pub(super) podman_dns: Vec<(String, IpAddr)>,
    /// Whether podman is installed.
    pub(super) podman: bool,
    /// Resolvers in CNI's files, with the file.
    pub(super) cni_dns: Vec<(String, IpAddr)>,
}

impl Containers {
    /// Every address that was found.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let placed = self.podman_dns.iter().chain(&self.cni_dns);
        let placed = placed.map(|(_, address)| *address);
        self.docker_dns.iter().copied().chain(placed)
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
        subject: Subject::Containers,
        severity,
        title,
        why,
    }
}

pub(super) const DOCKER_OFF: Rule = rule(
    "docker-dns-past-tunnel",
    Severity::Warning,
    "Docker gives containers a resolver past the tunnel",
    "what containers ask it is dropped: names do not resolve in them",
);
pub(super) const DOCKER_INVALID: Rule = rule(
    "docker-daemon-json-invalid",
    Severity::Warning,
    "Docker's configuration cannot be read",
    "dockerd does not start with it",
);
pub(super) const DOCKER_UPSTREAMS: Rule = rule(
    "docker-takes-resolveds-upstreams",
    Severity::Warning,
    "Docker gives containers systemd-resolved's upstream resolvers",
    "it passes over 127.0.0.53 and takes every interface's, also those of uplinks, which are dropped",
);
pub(super) const DOCKER_PUBLIC: Rule = rule(
    "docker-falls-back",
    Severity::Warning,
    "Docker gives containers 8.8.8.8",
    "resolv.conf names only addresses of this host, which a container cannot reach; 8.8.8.8 is dropped past the tunnel",
);
pub(super) const PODMAN_OFF: Rule = rule(
    "podman-dns-past-tunnel",
    Severity::Warning,
    "podman gives containers a resolver past the tunnel",
    "what containers ask it is dropped: names do not resolve in them",
);
pub(super) const PODMAN_PUBLIC: Rule = rule(
    "podman-falls-back",
    Severity::Note,
    "podman may give containers 8.8.8.8",
    "resolv.conf names only addresses of this host; older versions put 8.8.8.8 in their place",
);
pub(super) const CNI_OFF: Rule = rule(
    "cni-dns-past-tunnel",
    Severity::Warning,
    "a container network has a resolver past the tunnel",
    "what containers ask it is dropped: names do not resolve in them",
);

pub(super) const RULES: &[&Rule] = &[
    &DOCKER_OFF,
    &DOCKER_INVALID,
    &DOCKER_UPSTREAMS,
    &DOCKER_PUBLIC,
    &PODMAN_OFF,
    &PODMAN_PUBLIC,
    &CNI_OFF,
];

pub(super) fn collect(root: &Root) -> Containers {
    let mut containers = Containers {
        podman: root.exists("/usr/bin/podman"),
        ..Containers::default()
    };
    if let Some(text) = root.read(DAEMON_JSON) {
        match serde_json::from_str::<Value>(&text) {
            Ok(value) => containers.docker_dns = addresses(&value["dns"]),
            Err(error) => containers.docker_invalid = Some(error.to_string()),
        }
    }
    let text = root.read(CONTAINERS_CONF).unwrap_or_default();
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(rest) = line.trim().strip_prefix("dns_servers") {
            let words = rest.split(['=', '[', ']', ',', '"', '\'', ' ']);
            let place = format!("{CONTAINERS_CONF}:{number}");
            let found = words.filter_map(|word| Some((place.clone(), word.parse().ok()?)));
            containers.podman_dns.extend(found);
        }
    }
    for ending in [".conf", ".conflist"] {
        for path in root.files("/etc/cni/net.d", ending) {
            let text = root.read(&path).unwrap_or_default();
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            let plugins = value["plugins"].as_array().into_iter().flatten();
            for plugin in std::iter::once(&value).chain(plugins) {
                let found = addresses(&plugin["dns"]["nameservers"]);
                containers
                    .cni_dns
                    .extend(found.into_iter().map(|address| (path.clone(), address)));
            }
        }
    }
    containers
}

/// The addresses in a list of texts.
fn addresses(list: &Value) -> Vec<IpAddr> {
    let texts = list.as_array().into_iter().flatten();
    texts
        .filter_map(|text| text.as_str()?.parse().ok())
        .collect()
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let network = &facts.network;
    let Containers {
        docker_invalid,
        docker_dns,
        podman_dns,
        podman,
        cni_dns,
    } = &facts.containers;
    let mut found = Vec::new();
    let resolver = network.resolver_to_use();
    let docker_remedy =
        format!("put \"dns\": [\"{resolver}\"] into {DAEMON_JSON}, and systemctl restart docker");
    if let Some(error) = docker_invalid {
        found.push(DOCKER_INVALID.found(
            [format!("{DAEMON_JSON}: {error}")],
            format!("dockerd --validate --config-file {DAEMON_JSON}"),
        ));
    }
    let off = |place: &str, address: IpAddr| Some(format!("{place}: {}", network.leaves(address)?));
    let docker_off: Vec<String> = docker_dns
        .iter()
        .filter_map(|address| off(DAEMON_JSON, *address))
        .collect();
    if !docker_off.is_empty() {
        found.push(DOCKER_OFF.found(docker_off, docker_remedy.clone()));
    }
    let only_loopback = {
        let mut names = facts.resolv_conf.nameservers().peekable();
        names.peek().is_some()
            && names.all(|(_, name)| {
                name.parse()
                    .is_ok_and(|address: IpAddr| address.is_loopback())
            })
    };
    if let Some(running) = facts.processes.evidence(&["dockerd"])
        && docker_dns.is_empty()
        && docker_invalid.is_none()
    {
        if facts.resolv_conf.names_stub() {
            let upstreams: Vec<String> = facts
                .resolved
                .upstreams
                .iter()
                .filter_map(|address| off("/run/systemd/resolve/resolv.conf", *address))
                .collect();
            if !upstreams.is_empty() {
                found.push(
                    DOCKER_UPSTREAMS
                        .found(std::iter::once(running).chain(upstreams), docker_remedy),
                );
            }
        } else if only_loopback {
            found.push(DOCKER_PUBLIC.found([running], docker_remedy));
        }
    }
    let podman_remedy =
        || format!("put dns_servers = [\"{resolver}\"] into [containers] of {CONTAINERS_CONF}");
    let podman_off: Vec<String> = podman_dns
        .iter()
        .filter_map(|(place, address)| off(place, *address))
        .collect();
    if !podman_off.is_empty() {
        found.push(PODMAN_OFF.found(podman_off, podman_remedy()));
    }
    if *podman && podman_dns.is_empty() && only_loopback && !facts.resolv_conf.names_stub() {
        found.push(PODMAN_PUBLIC.found(
            ["/usr/bin/podman; /etc/resolv.conf: loopback addresses only".to_owned()],
            podman_remedy(),
        ));
    }
    let cni_off: Vec<String> = cni_dns
        .iter()
        .filter_map(|(place, address)| off(place, *address))
        .collect();
    if !cni_off.is_empty() {
        found.push(CNI_OFF.found(
            cni_off,
            format!("put {resolver} into \"nameservers\" of that file"),
        ));
    }
    found
}
