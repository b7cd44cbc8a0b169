//! The look before enforcing: will names still resolve, and will the session that asks for it survive?
//!
//! Nothing is changed, and nothing leaves the host but by a tunnel: of each resolver the kernel says by which
//! interface it is reached, and only one that is reached through a tunnel is asked a question.

pub(crate) mod probe;
pub(crate) mod resolvers;
pub mod session;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use leakguard_common::abi::{Class, Role};

pub(crate) use self::probe::Asked;
pub(crate) use self::resolvers::Nameserver;
use crate::config::{Config, KillSwitchMode, Redirect};
use crate::interfaces::{Exit, Interface, NetlinkError, classify, exit_towards, snapshot};

/// Where the facts about this host are read.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The resolvers that programs use.
    pub resolv_conf: PathBuf,
    /// The resolvers that systemd-resolved asks in its turn.
    pub resolved: PathBuf,
    /// The process file system, for the environment of those who called.
    pub proc: PathBuf,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            resolved: "/run/systemd/resolve/resolv.conf".into(),
            proc: "/proc".into(),
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is as it should be, or cannot be known; one sentence each.
    pub notes: Vec<String>,
    /// What will not work any more.
    pub problems: Vec<Problem>,
}

/// Something that enforcing would break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What will happen, and why.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// Looks at this host as the configuration would have it.
pub async fn look(config: &Config, sources: &Sources) -> Result<Report, NetlinkError> {
    let interfaces = classify(&snapshot().await?, &config.role_patterns());
    let mut report = Report::default();
    if config.blocked().contains(Class::Dns) {
        let seen = resolvers(&interfaces, sources, config.redirect()).await?;
        let wanted: Vec<String> = config.tunnel().iter().map(ToString::to_string).collect();
        let up = |interface: &Interface| interface.role == Role::Tunnel && interface.up;
        judge_resolvers(
            &mut report,
            interfaces.values().any(up),
            &wanted.join(", "),
            &seen,
        );
    }
    let kill_switch = config.kill_switch();
    if kill_switch.mode != KillSwitchMode::Off && kill_switch.endpoints.is_empty() {
        report.problems.push(Problem {
            what: "the kill switch exempts no endpoint: a VPN over an uplink will be cut off from its server".into(),
            remedy: "name the server's address and port, and the mark of the VPN's packets, in [kill_switch] endpoints"
                .into(),
        });
    }
    if let Some(session::Session { client, scope }) = session::current(&sources.proc) {
        let over = interface_towards(&interfaces, client, scope.as_deref()).await?;
        let role = match &over {
            Way::Here => Role::Local,
            Way::Over { role, .. } => *role,
            // What cannot be told may be cut.
            Way::Nowhere => Role::Uplink,
        };
        let armed = kill_switch.mode != KillSwitchMode::Off;
        if session::is_cut(client, role, &kill_switch.lan, armed) {
            let when = match kill_switch.mode {
                KillSwitchMode::TunnelDown => " when no tunnel is up",
                KillSwitchMode::Always | KillSwitchMode::Off => "",
            };
            report.problems.push(Problem {
                what: format!(
                    "your SSH session from {client} will be cut{when}: the kill switch lets nothing back to it"
                ),
                remedy: "name its network in [kill_switch] lan, or log in through the tunnel".into(),
            });
        }
    }
    Ok(report)
}

/// Where packets to an address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To this host itself.
    Here,
    /// Out by an interface.
    Over {
        /// Its name.
        name: String,
        /// Its role.
        role: Role,
    },
    /// There is no route.
    Nowhere,
}

/// A resolver, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) server: Nameserver,
    pub(crate) way: Way,
    /// Present if it is behind a tunnel.
    pub(crate) asked: Option<Asked>,
}

/// Whom programs on this host ask, or whom their questions are redirected to, and what becomes of it; only who is behind a tunnel
/// is asked.
pub(crate) async fn resolvers(
    interfaces: &BTreeMap<u32, Interface>,
    sources: &Sources,
    redirect: Redirect,
) -> Result<Vec<Seen>, NetlinkError> {
    let mut seen = Vec::new();
    for mut server in resolvers::read(&sources.resolv_conf, &sources.resolved) {
        let mut way =
            interface_towards(interfaces, server.address, server.scope.as_deref()).await?;
        // Who is on this host, or on a network of it, is asked as before.
        let is_far = matches!(
            way,
            Way::Nowhere
                | Way::Over {
                    role: Role::Uplink | Role::Tunnel,
                    ..
                }
        );
        if let Some(address) = redirect.instead_of(server.address).filter(|_| is_far)
            && address != server.address
        {
            way = interface_towards(interfaces, address, None).await?;
            server = Nameserver {
                address,
                scope: None,
                behind_stub: server.behind_stub,
                instead_of: Some(server.address),
            };
        }
        seen.push(Seen {
            server,
            way,
            asked: None,
        });
    }
    let mut questions = tokio::task::JoinSet::new();
    for (number, Seen { server, way, .. }) in seen.iter().enumerate() {
        if let Way::Over {
            name,
            role: Role::Tunnel,
        } = way
        {
            let question = probe::ask(server.clone(), name.clone());
            questions.spawn(async move { (number, question.await) });
        }
    }
    while let Some(answered) = questions.join_next().await {
        if let Ok((number, asked)) = answered
            && let Some(seen) = seen.get_mut(number)
        {
            seen.asked = Some(asked);
        }
    }
    Ok(seen)
}

/// Where packets to an address go; `scope` is the interface of a link-local one.
pub(crate) async fn interface_towards(
    interfaces: &BTreeMap<u32, Interface>,
    address: IpAddr,
    scope: Option<&str>,
) -> Result<Way, NetlinkError> {
    let scope = scope.and_then(|scope| {
        let named = |interface: &&Interface| {
            interface.name == scope || interface.ifindex.to_string() == scope
        };
        interfaces.values().find(named)
    });
    let exit = exit_towards(address, scope.map(|interface| interface.ifindex)).await?;
    Ok(match exit {
        Exit::Here => Way::Here,
        // One that has come after the interfaces were read is unknown, and unknown is an uplink.
        Exit::By(ifindex) => interfaces.get(&ifindex).map_or(
            Way::Over {
                name: format!("interface {ifindex}"),
                role: Role::Uplink,
            },
            |interface| Way::Over {
                name: interface.name.clone(),
                role: interface.role,
            },
        ),
        Exit::Nowhere => Way::Nowhere,
    })
}

/// Whether names will resolve, as far as it can be told.
fn judge_resolvers(report: &mut Report, tunnel_up: bool, wanted: &str, seen: &[Seen]) {
    let clauses = seen.iter().map(describe);
    if !tunnel_up {
        report.notes.extend(clauses);
        report.problems.push(Problem {
            what: format!(
                "no tunnel is up yet (wanted: {wanted}): names will not resolve until one is"
            ),
            remedy: "bring the VPN up".into(),
        });
        return;
    }
    let answered = |seen: &Seen| matches!(seen.asked, Some(Asked::Answered));
    if seen.iter().any(|seen| answered(seen) || is_unknown(seen)) {
        report.notes.extend(clauses);
        return;
    }
    let clauses: Vec<String> = clauses.collect();
    report.problems.push(Problem {
        what: format!("names will not resolve: {}", clauses.join("; ")),
        remedy: "put a resolver that is reached through the tunnel into /etc/resolv.conf, or route the one that is \
                 there into the tunnel"
            .into(),
    });
}

/// Whether nothing says that it will fail.
fn is_unknown(seen: &Seen) -> bool {
    match &seen.way {
        Way::Here => true,
        Way::Over { role, .. } => {
            *role == Role::Local || matches!(seen.asked, Some(Asked::NotAllowed))
        }
        Way::Nowhere => false,
    }
}

/// What was seen, in words.
pub(crate) fn describe(seen: &Seen) -> String {
    let Seen { server, way, asked } = seen;
    let unknown = "whom it asks is not known: it must ask through a tunnel";
    match way {
        Way::Here => format!("{server} is on this host, and {unknown}"),
        Way::Nowhere => format!("there is no route to {server}"),
        Way::Over { name, role } => match (role, asked) {
            (Role::Uplink, _) => format!("{server} is reached over {name}, which is an uplink"),
            (Role::Local, _) => {
                format!("{server} is reached over {name}, which is local, and {unknown}")
            }
            (Role::Tunnel, asked) => {
                let answer = match asked {
                    Some(Asked::Answered) => "answers",
                    Some(Asked::Refused(code)) => {
                        return format!(
                            "{server} is reached over {name}, which is a tunnel, but answers {code}"
                        );
                    }
                    Some(Asked::NotAllowed) => "could not be asked yet",
                    Some(Asked::Silent) | None => "does not answer within 1 s",
                };
                format!("{server} is reached over {name}, which is a tunnel, and {answer}")
            }
        },
    }
}

#[cfg(test)]
mod tests;
