//! Whom this host's programs ask, and whether the tunnel's resolver can be told from the LAN.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use ipnet::IpNet;
use leakguard_common::abi::Role;
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use super::report::{Check, Part, Verdict};
use crate::host::find_program;
use crate::interfaces::{Address, Exit, NetlinkError, Snapshot, exit_towards};
use crate::preflight::{Sources, resolvers};

/// How long systemd-resolved may take to say whom it asks.
const LIMIT: Duration = Duration::from_secs(1);

/// The interfaces by number: their name and their role.
pub(super) struct Roles<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) roles: &'a BTreeMap<u32, Role>,
}

impl Roles<'_> {
    /// By which interface an address is reached; `None` for this host itself.
    pub(super) async fn towards(
        &self,
        address: IpAddr,
        scope: Option<u32>,
    ) -> Result<Option<(String, Role)>, NetlinkError> {
        Ok(match exit_towards(address, scope).await? {
            Exit::Here => None,
            Exit::Nowhere => Some(("no interface".to_owned(), Role::Uplink)),
            Exit::By(index) => Some((self.name(index), self.role(index))),
        })
    }

    fn name(&self, index: u32) -> String {
        self.snapshot
            .links
            .get(&index)
            .map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }

    fn role(&self, index: u32) -> Role {
        self.roles.get(&index).copied().unwrap_or(Role::Uplink)
    }

    fn index(&self, name: &str) -> Option<u32> {
        let mut links = self.snapshot.links.values();
        links
            .find(|link| link.name == name)
            .map(|link| link.ifindex)
    }
}

/// The resolvers of `resolv.conf` that are reached through a tunnel.
pub(super) async fn behind_tunnels(
    roles: &Roles<'_>,
    sources: &Sources,
) -> Result<Vec<IpAddr>, NetlinkError> {
    let mut found = Vec::new();
    for server in resolvers::read(&sources.resolv_conf, &sources.resolved) {
        let scope = server.scope.as_deref().and_then(|scope| roles.index(scope));
        if let Some((_, Role::Tunnel)) = roles.towards(server.address, scope).await? {
            found.push(server.address);
        }
    }
    Ok(found)
}

/// Looks at `resolv.conf` and at systemd-resolved.
///
/// Calls to port 53 of a family of `redirected` reach the tunnel's resolver, whomever they name.
pub(super) async fn check(
    roles: &Roles<'_>,
    redirected: &[IpAddr],
    sources: &Sources,
) -> Result<Vec<Check>, NetlinkError> {
    let is_redirected = |address: IpAddr| {
        let mut targets = redirected.iter();
        targets.any(|target| target.is_ipv4() == address.is_ipv4())
    };
    let mut wrong = Vec::new();
    let mut right = Vec::new();
    for server in resolvers::read(&sources.resolv_conf, &sources.resolved) {
        let scope = server.scope.as_deref().and_then(|scope| roles.index(scope));
        match roles.towards(server.address, scope).await? {
            None => right.push(format!("{server} is on this host")),
            Some((_, Role::Uplink)) if is_redirected(server.address) => {
                right.push(format!("{server} is redirected into the tunnel"));
            }
            Some((name, Role::Uplink)) => {
                wrong.push(format!(
                    "{server} is reached over {name}, which is no tunnel"
                ));
            }
            Some((name, _)) => right.push(format!("{server} is reached over {name}")),
        }
    }
    let mut checks = vec![conclude("resolv.conf", wrong, right)];
    match resolved().await {
        None => checks.push(Check::new(
            Part::Host,
            "systemd-resolved",
            Verdict::Skipped,
            "it does not run here",
        )),
        Some(servers) => {
            let (mut wrong, mut right) = (Vec::new(), Vec::new());
            for (link, address) in servers {
                let scope = (link != 0).then_some(link);
                let of = scope.map_or_else(|| "global".to_owned(), |link| roles.name(link));
                match roles.towards(address, scope).await? {
                    Some((name, Role::Uplink)) => wrong.push(format!(
                        "{address} ({of}) is reached over {name}, which is no tunnel"
                    )),
                    _ => right.push(format!("{address} ({of})")),
                }
            }
            checks.push(conclude("systemd-resolved", wrong, right));
        }
    }
    Ok(checks)
}

fn conclude(name: &str, wrong: Vec<String>, right: Vec<String>) -> Check {
    let (result, reason) = if wrong.is_empty() {
        (Verdict::Pass, right)
    } else {
        (Verdict::Fail, wrong)
    };
    Check::new(Part::Host, name, result, reason.join("; "))
}

/// A property as `busctl --json=short` prints it.
#[derive(Deserialize)]
struct Property {
    /// Interface (0: all), family, address.
    data: Vec<(u32, i32, Vec<u8>)>,
}

/// Whom systemd-resolved asks, by interface; `None` if it does not run.
async fn resolved() -> Option<Vec<(u32, IpAddr)>> {
    const SERVICE: &str = "org.freedesktop.resolve1";
    // Without it, asking for the property would start it.
    if !std::path::Path::new("/run/systemd/resolve").exists() {
        return None;
    }
    let mut busctl = Command::new(find_program("busctl")?);
    busctl
        .args([
            "--json=short",
            "get-property",
            SERVICE,
            "/org/freedesktop/resolve1",
        ])
        .args(["org.freedesktop.resolve1.Manager", "DNS"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(LIMIT, busctl.output()).await.ok()?.ok()?;
    output
        .status
        .success()
        .then(|| servers(&output.stdout))
        .flatten()
}

fn servers(json: &[u8]) -> Option<Vec<(u32, IpAddr)>> {
    let Property { data } = serde_json::from_slice(json).ok()?;
    let server = |(link, _, address): (u32, i32, Vec<u8>)| {
        let v4 = <[u8; 4]>::try_from(address.as_slice()).map(IpAddr::from);
        let address = v4.or_else(|_| <[u8; 16]>::try_from(address.as_slice()).map(IpAddr::from));
        Some((link, address.ok()?))
    };
    Some(data.into_iter().filter_map(server).collect())
}

/// Whether a network that is not the tunnel's has the resolver's address in it too. Single addresses are no networks.
pub(super) fn overlap(
    roles: &Roles<'_>,
    addresses: &[Address],
    resolver: IpAddr,
    tunnel: &str,
) -> Check {
    let networks: Vec<(String, Role, IpNet)> = addresses
        .iter()
        .filter(|Address { ifindex, net }| {
            // One that has come since is not known yet.
            roles.snapshot.links.contains_key(ifindex)
                && net.prefix_len() < net.max_prefix_len()
                && !net.addr().is_loopback()
        })
        .map(|Address { ifindex, net }| (roles.name(*ifindex), roles.role(*ifindex), net.trunc()))
        .collect();
    let tunnels: Vec<IpNet> = networks
        .iter()
        .filter(|(name, _, net)| name == tunnel && net.contains(&resolver))
        .map(|(_, _, net)| *net)
        .collect();
    let other = networks.iter().find(|(_, role, net)| {
        let meets = net.contains(&resolver)
            || tunnels
                .iter()
                .any(|tunnel| net.contains(tunnel) || tunnel.contains(net));
        *role != Role::Tunnel && meets
    });
    let (result, reason) = match other {
        Some((name, _, net)) => (
            Verdict::Fail,
            format!(
                "{net} of {name} overlaps with the network of {resolver}: lookups may go there instead of into {tunnel}"
            ),
        ),
        None => (
            Verdict::Pass,
            format!("{resolver} is in no other network of this host"),
        ),
    };
    Check::new(Part::Host, "overlap", result, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_busctl_prints_is_read() {
        let json = br#"{"type":"a(iiay)","data":[[2,2,[192,168,1,1]],[0,10,[253,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1]],[3,2,[1]]]}"#;
        let found = servers(json).unwrap();
        assert_eq!(
            found,
            [
                (2, "192.168.1.1".parse().unwrap()),
                (0, "fd00::1".parse().unwrap())
            ]
        );
        assert_eq!(servers(b"no"), None);
    }
}
