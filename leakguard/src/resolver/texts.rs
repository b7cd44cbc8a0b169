//! What the files say.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::config::{Resolver, Word};

/// Where the cache listens: on an address of its own, so that it is in nobody's way.
pub(super) const CACHE_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 55);

/// The first line of each.
const HEADER: &str =
    "# Written by `leakguard resolver apply`; `leakguard resolver revert` takes it back.\n";

/// The keys that the root zone is signed with (<https://data.iana.org/root-anchors/root-anchors.xml>).
const ROOT_KEYS: [&str; 2] = [
    ". DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D",
    ". DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16",
];

/// Which programs trust the host's certificates of authorities.
pub(super) const CERTIFICATES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

fn joined(words: &[Word]) -> String {
    let words: Vec<&str> = words.iter().map(Word::as_str).collect();
    words.join(" ")
}

/// resolv.conf.
pub(super) fn resolv_conf(servers: &[IpAddr], settings: &Resolver) -> String {
    let mut text = HEADER.to_owned();
    for server in servers {
        line(&mut text, format_args!("nameserver {server}"));
    }
    if !settings.search.is_empty() {
        line(
            &mut text,
            format_args!("search {}", joined(&settings.search)),
        );
    }
    if !settings.options.is_empty() {
        line(
            &mut text,
            format_args!("options {}", joined(&settings.options)),
        );
    }
    text
}

/// The drop-in of systemd-resolved. An empty value first: these are lists, and others may have added to them.
pub(super) fn resolved(
    servers: &[IpAddr],
    tls: Option<&Word>,
    stub: bool,
    settings: &Resolver,
) -> String {
    let servers: Vec<String> = servers
        .iter()
        .map(|server| match tls {
            Some(name) => format!("{server}#{name}"),
            None => server.to_string(),
        })
        .collect();
    let domains = [
        &["~.".to_owned()][..],
        &settings
            .search
            .iter()
            .map(Word::to_string)
            .collect::<Vec<_>>(),
    ]
    .concat();
    let mut text = format!(
        "{HEADER}[Resolve]\nDNS=\nDNS={}\nFallbackDNS=\nDomains=\nDomains={}\nDNSOverTLS={}\nLLMNR=no\nMulticastDNS=no\n",
        servers.join(" "),
        domains.join(" "),
        yes_no(tls.is_some()),
    );
    line(&mut text, format_args!("DNSStubListener={}", yes_no(stub)));
    if !stub {
        line(&mut text, format_args!("DNSStubListenerExtra="));
    }
    text
}

/// The drop-in of `NetworkManager`: it neither writes resolv.conf nor tells systemd-resolved.
pub(super) fn network_manager() -> String {
    format!("{HEADER}[main]\ndns=none\nrc-manager=unmanaged\nsystemd-resolved=false\n")
}

/// The hook of dhclient.
pub(super) fn dhclient() -> String {
    format!(
        "{HEADER}# A lease does not change who is asked for names.\nmake_resolv_conf() {{ :; }}\n"
    )
}

/// What daemon.json of docker says at `dns`.
pub(super) fn docker(servers: &[IpAddr]) -> String {
    let servers: Vec<String> = servers
        .iter()
        .map(|server| format!("\"{server}\""))
        .collect();
    format!("[{}]", servers.join(", "))
}

/// The drop-in of podman, buildah and the like.
pub(super) fn containers(servers: &[IpAddr]) -> String {
    format!("{HEADER}[containers]\ndns_servers = {}\n", docker(servers))
}

/// Settings of the kernel. With slashes: a dot may be a part of an interface's name.
pub(super) fn sysctl<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = HEADER.to_owned();
    for (path, value) in settings {
        let name = path.trim_start_matches("/proc/sys/");
        // An interface may not be there at boot, which is no failure.
        line(&mut text, format_args!("-{name} = {value}"));
    }
    text
}

/// What a cache is made of, besides the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheParts<'a> {
    /// The addresses that it asks from: the tunnel's.
    pub(super) sources: &'a [IpAddr],
    /// The keys of the root, if the host has a file of them.
    pub(super) root_key: Option<&'a Path>,
    /// The certificates that it trusts.
    pub(super) certificates: Option<&'static str>,
}

/// The configuration of Unbound.
pub(super) fn unbound(settings: &Resolver, parts: &CacheParts<'_>) -> String {
    let CacheParts {
        sources,
        root_key,
        certificates,
    } = parts;
    let mut text = format!(
        "{HEADER}server:\n    directory: \"/\"\n    chroot: \"\"\n    pidfile: \"\"\n    use-syslog: no\n    interface: {CACHE_ADDRESS}\n    \
         port: 53\n    access-control: 127.0.0.0/8 allow\n    hide-identity: yes\n    hide-version: yes\n    \
         module-config: \"validator iterator\"\n    prefetch: yes\n    do-not-query-localhost: no\n    \
         unblock-lan-zones: yes\n    insecure-lan-zones: yes\n"
    );
    for zone in ["home.arpa.", "test."] {
        line(
            &mut text,
            format_args!("    local-zone: \"{zone}\" nodefault"),
        );
    }
    for zone in &settings.insecure {
        line(&mut text, format_args!("    domain-insecure: \"{zone}\""));
    }
    for source in *sources {
        line(&mut text, format_args!("    outgoing-interface: {source}"));
    }
    match settings.trust_anchor.as_deref().or(*root_key) {
        Some(path) => line(
            &mut text,
            format_args!("    trust-anchor-file: \"{}\"", path.display()),
        ),
        None => {
            for key in ROOT_KEYS {
                line(&mut text, format_args!("    trust-anchor: \"{key}\""));
            }
        }
    }
    if settings.upstream_tls.is_some()
        && let Some(certificates) = certificates
    {
        line(
            &mut text,
            format_args!("    tls-cert-bundle: \"{certificates}\""),
        );
    }
    text.push_str("remote-control:\n    control-enable: no\nforward-zone:\n    name: \".\"\n");
    if settings.upstream_tls.is_some() {
        text.push_str("    forward-tls-upstream: yes\n");
    }
    for server in &settings.servers {
        match &settings.upstream_tls {
            Some(name) => line(
                &mut text,
                format_args!("    forward-addr: {server}@853#{name}"),
            ),
            None => line(&mut text, format_args!("    forward-addr: {server}")),
        }
    }
    text
}

/// The configuration of dnsmasq.
pub(super) fn dnsmasq(settings: &Resolver, parts: &CacheParts<'_>) -> String {
    let mut text = format!(
        "{HEADER}port=53\nlisten-address={CACHE_ADDRESS}\nbind-interfaces\npid-file\nno-resolv\nno-hosts\ncache-size=10000\nproxy-dnssec\n"
    );
    for server in &settings.servers {
        let source = parts
            .sources
            .iter()
            .find(|source| source.is_ipv4() == server.is_ipv4());
        match source {
            Some(source) => line(&mut text, format_args!("server={server}@{source}")),
            None => line(&mut text, format_args!("server={server}")),
        }
    }
    text
}

/// The unit that runs a cache.
pub(super) fn unit(command: &str) -> String {
    format!(
        "{HEADER}[Unit]\nDescription=Local DNS cache, set up by leakguard\nAfter=network.target\nBefore=nss-lookup.target\n\
         Wants=nss-lookup.target\n\n[Service]\nType=exec\nExecStart={command}\nRestart=always\nRestartSec=1\n\
         NoNewPrivileges=yes\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\nPrivateDevices=yes\n\
         ProtectControlGroups=yes\nProtectKernelModules=yes\nProtectKernelTunables=yes\nRestrictNamespaces=yes\n\
         RestrictRealtime=yes\nLockPersonality=yes\n\n[Install]\nWantedBy=multi-user.target\n"
    )
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.push_str(&line.to_string());
    text.push('\n');
}
