//! What is found, and what every kind of finding says whoever it is found at.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong.
    Ok,
    /// Good to know; nothing has to be done.
    Note,
    /// Works now, and can fail, be slow or leak something else than DNS.
    Warning,
    /// Names do not resolve, or the host is not protected.
    Problem,
}

impl Severity {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// What the kernel can do.
    Kernel,
    /// What this process may do and see.
    Privileges,
    /// What leakguard enforces now.
    Enforcement,
    /// leakguard's file and state.
    Configuration,
    /// Tunnels and their addresses.
    Interfaces,
    /// Where packets go.
    Routes,
    /// `/etc/resolv.conf`.
    ResolvConf,
    /// systemd-resolved.
    Resolved,
    /// `/etc/nsswitch.conf`, and caches of the C library.
    Nsswitch,
    /// `NetworkManager`.
    NetworkManager,
    /// Clients of DHCP.
    Dhcp,
    /// Resolvers on this host.
    LocalResolver,
    /// Container runtimes.
    Containers,
    /// What is particular to IPv6.
    Ipv6,
    /// Sizes of packets.
    Mtu,
    /// Ciphers and heat.
    Cpu,
    /// Packets that the host itself loses, and parameters that matter.
    Network,
    /// The time.
    Clock,
    /// DNS over HTTPS in browsers.
    Browsers,
    /// Other firewalls.
    Firewall,
    /// Ways out that leakguard does not close.
    OpenWays,
}

impl Subject {
    /// Every subject, in the order in which they are shown.
    pub const ALL: [Self; 21] = [
        Self::Kernel,
        Self::Privileges,
        Self::Enforcement,
        Self::Configuration,
        Self::Interfaces,
        Self::Routes,
        Self::ResolvConf,
        Self::Resolved,
        Self::Nsswitch,
        Self::NetworkManager,
        Self::Dhcp,
        Self::LocalResolver,
        Self::Containers,
        Self::Ipv6,
        Self::Mtu,
        Self::Cpu,
        Self::Network,
        Self::Clock,
        Self::Browsers,
        Self::Firewall,
        Self::OpenWays,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Privileges => "privileges",
            Self::Enforcement => "enforcement",
            Self::Configuration => "configuration",
            Self::Interfaces => "interfaces",
            Self::Routes => "routes",
            Self::ResolvConf => "resolv-conf",
            Self::Resolved => "resolved",
            Self::Nsswitch => "nsswitch",
            Self::NetworkManager => "network-manager",
            Self::Dhcp => "dhcp",
            Self::LocalResolver => "local-resolver",
            Self::Containers => "containers",
            Self::Ipv6 => "ipv6",
            Self::Mtu => "mtu",
            Self::Cpu => "cpu",
            Self::Network => "network",
            Self::Clock => "clock",
            Self::Browsers => "browsers",
            Self::Firewall => "firewall",
            Self::OpenWays => "open-ways",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A kind of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, which stays the same in all versions.
    pub id: &'static str,
    /// What it is about.
    pub subject: Subject,
    /// How bad it is.
    pub severity: Severity,
    /// What is found.
    pub title: &'static str,
    /// Why that matters.
    pub why: &'static str,
}

impl Rule {
    /// It was found, by this evidence.
    pub(super) fn found(
        &'static self,
        evidence: impl IntoIterator<Item = String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            rule: self,
            evidence: evidence.into_iter().collect(),
            remedy: remedy.into(),
        }
    }
}

/// Something that was found on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind it is of.
    pub rule: &'static Rule,
    /// What shows it: a file with its line, a value, what a command says.
    pub evidence: Vec<String>,
    /// What to do: a command, where there is one.
    pub remedy: String,
}

impl Serialize for Finding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;

        let Self {
            rule:
                Rule {
                    id,
                    subject,
                    severity,
                    title,
                    why,
                },
            evidence,
            remedy,
        } = self;
        let mut object = serializer.serialize_struct("Finding", 7)?;
        object.serialize_field("id", id)?;
        object.serialize_field("severity", severity)?;
        object.serialize_field("subject", subject.name())?;
        object.serialize_field("title", title)?;
        object.serialize_field("evidence", evidence)?;
        object.serialize_field("why", why)?;
        object.serialize_field("remedy", remedy)?;
        object.end()
    }
}
