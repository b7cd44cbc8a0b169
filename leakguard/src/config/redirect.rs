//! Whom questions are sent to, whomever a process asks, and whose are not.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::RuleError;
use super::kill_switch::is_cgroup;

/// The longest name that the kernel keeps of a process (`TASK_COMM_LEN` without the NUL).
const NAME_MAX: usize = 15;

/// The tunnel's resolver, for each family of address that has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// For questions to IPv4 addresses.
    pub v4: Option<Ipv4Addr>,
    /// For questions to IPv6 addresses.
    pub v6: Option<Ipv6Addr>,
}

impl Redirect {
    /// The resolvers of a list.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Result<Self, RuleError> {
        let mut redirect = Self::default();
        addresses
            .into_iter()
            .try_for_each(|address| redirect.add(address))?;
        Ok(redirect)
    }

    /// Adds the resolver of a family.
    pub(super) fn add(&mut self, address: IpAddr) -> Result<(), RuleError> {
        if !can_be_asked(address) {
            return Err(RuleError::RedirectTarget { address });
        }
        let taken = match address {
            IpAddr::V4(address) => self.v4.replace(address).is_some(),
            IpAddr::V6(address) => self.v6.replace(address).is_some(),
        };
        if taken {
            return Err(RuleError::RedirectTwice { address });
        }
        Ok(())
    }

    /// Whether anything is redirected.
    pub fn is_on(self) -> bool {
        self != Self::default()
    }

    /// Whom a question to this address is sent to; `None` if it is not redirected.
    pub fn instead_of(self, address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    /// The resolvers, IPv4 first.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let Self { v4, v6 } = self;
        v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6))
    }
}

/// Whether an address can be that of a resolver at the other end of a tunnel.
pub(super) fn can_be_asked(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_broadcast() || address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
        }
    };
    !(link_local || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

/// Whose questions are not redirected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spared {
    /// Processes in a cgroup and below it, from the root of the cgroup2 hierarchy on.
    Cgroup(PathBuf),
    /// Processes of a name, which is the kernel's for their first thread.
    Process(String),
}

impl Spared {
    /// The cgroup of this path, or the processes of this name.
    pub(super) fn named(text: &str) -> Result<Self, RuleError> {
        let refused = || RuleError::Spared {
            text: text.to_owned(),
        };
        if text.starts_with('/') {
            let path = Path::new(text);
            return if is_cgroup(path) {
                Ok(Self::Cgroup(path.to_owned()))
            } else {
                Err(refused())
            };
        }
        if text.is_empty() || text.len() > NAME_MAX || text.contains(['\0', '/']) {
            return Err(refused());
        }
        Ok(Self::Process(text.to_owned()))
    }
}

impl fmt::Display for Spared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => path.display().fmt(formatter),
            Self::Process(name) => formatter.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Result<Redirect, RuleError> {
        Redirect::new(texts.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn a_family_has_one_resolver() {
        let both = addresses(&["fd00::1", "10.8.0.1"]).unwrap();
        let listed: Vec<String> = both
            .addresses()
            .map(|address| address.to_string())
            .collect();
        assert_eq!(listed, ["10.8.0.1", "fd00::1"]);
        assert!(both.is_on() && !addresses(&[]).unwrap().is_on());
        let error = addresses(&["10.8.0.1", "10.8.0.2"]).unwrap_err();
        assert!(matches!(error, RuleError::RedirectTwice { .. }), "{error}");
    }

    #[test]
    fn what_no_tunnel_leads_to_is_no_resolver_behind_one() {
        for text in [
            "0.0.0.0",
            "127.0.0.53",
            "224.0.0.251",
            "169.254.1.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::fb",
            "fe80::1",
            "::ffff:10.8.0.1",
        ] {
            let error = addresses(&[text]).unwrap_err();
            assert!(matches!(error, RuleError::RedirectTarget { .. }), "{text}");
        }
    }

    #[test]
    fn a_cgroup_or_a_process_is_spared_and_nothing_else() {
        assert_eq!(
            Spared::named("/system.slice/unbound.service")
                .unwrap()
                .to_string(),
            "/system.slice/unbound.service"
        );
        assert_eq!(
            Spared::named("unbound"),
            Ok(Spared::Process("unbound".into()))
        );
        for text in ["", "/", "/a/../b", "a/b", "sixteen-bytes-xx"] {
            assert!(Spared::named(text).is_err(), "{text:?}");
        }
    }
}
