//! The SSH session in which leakguard was called, and whether a kill switch would cut it.

use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ipnet::IpNet;
use leakguard_common::abi::Role;

/// What sshd tells the processes of a session: the client's address and port, the server's address and port.
const VARIABLE: &str = "SSH_CONNECTION";

/// More ancestors than a session has.
const GENERATIONS: usize = 64;

/// An SSH session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The other end.
    pub client: IpAddr,
    /// The interface that a link-local address belongs to.
    pub scope: Option<String>,
}

/// The session of this process, by its own environment or, because sudo cleans that, by an ancestor's.
pub fn current(proc: &Path) -> Option<Session> {
    let own = std::env::var_os(VARIABLE);
    own.as_deref()
        .and_then(parse)
        .or_else(|| of_ancestors(proc, std::process::id()))
}

/// The session of the nearest ancestor that has one.
pub fn of_ancestors(proc: &Path, pid: u32) -> Option<Session> {
    let mut pid = pid;
    for _ in 0..GENERATIONS {
        pid = parent(&proc.join(pid.to_string()))?;
        let environment = fs::read(proc.join(pid.to_string()).join("environ")).unwrap_or_default();
        let found = environment.split(|byte| *byte == 0).find_map(|variable| {
            let value = variable
                .strip_prefix(VARIABLE.as_bytes())?
                .strip_prefix(b"=")?;
            parse(OsStr::from_bytes(value))
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Whether a kill switch would cut a session, whose packets go back by an interface of this role.
///
/// `lan` are the networks that are exempt.
pub fn is_cut(client: IpAddr, exit: Role, lan: &[IpNet], armed: bool) -> bool {
    let client = client.to_canonical();
    armed && exit == Role::Uplink && !lan.iter().any(|network| network.contains(&client))
}

fn parse(value: &OsStr) -> Option<Session> {
    let client = value.to_str()?.split_whitespace().next()?;
    let (client, scope) = match client.split_once('%') {
        Some((client, scope)) => (client, Some(scope.to_owned())),
        None => (client, None),
    };
    let client: IpAddr = client.parse().ok()?;
    Some(Session {
        client: client.to_canonical(),
        scope,
    })
}

/// The parent of a process, by its `stat`: the name before it, in parentheses, can hold anything.
fn parent(process: &Path) -> Option<u32> {
    let stat = fs::read(process.join("stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(stat.get(end + 1..)?).ok()?;
    let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
    (parent != 0).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_armed_switch_cuts_what_goes_back_over_an_uplink() {
        let client = address("198.51.100.7");
        for (exit, armed, cut) in [
            (Role::Uplink, true, true),
            (Role::Uplink, false, false),
            (Role::Tunnel, true, false),
            (Role::Local, true, false),
        ] {
            assert_eq!(is_cut(client, exit, &[], armed), cut, "{exit:?} {armed}");
        }
    }

    #[test]
    fn an_exempt_network_is_not_cut() {
        for (client, network, inside) in [
            ("192.168.1.7", "192.168.1.0/24", true),
            ("192.168.2.7", "192.168.1.0/24", false),
            ("192.168.1.7", "192.168.1.7/32", true),
            ("fd00::7", "fd00::/64", true),
            ("fd00:0:0:1::7", "fd00::/64", false),
            ("::ffff:192.168.1.7", "192.168.1.0/24", true),
            ("192.168.1.7", "::/0", false),
        ] {
            let lan = [network.parse().unwrap()];
            let cut = is_cut(address(client), Role::Uplink, &lan, true);
            assert_eq!(cut, !inside, "{client} in {network}");
        }
    }

    #[test]
    fn the_session_is_found_behind_sudo() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: u32, stat: &str, environ: &[u8]| {
            let directory = proc.path().join(pid.to_string());
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("stat"), stat).unwrap();
            fs::write(directory.join("environ"), environ).unwrap();
        };
        process(9, "9 (leakguard) S 8 9 9", b"PATH=/bin\0");
        process(
            8,
            "8 (su do) x) S 7 8 8",
            b"PATH=/bin\0SSH_CONNECTION_X=1\0",
        );
        process(
            7,
            "7 (bash) S 1 7 7",
            b"A=b\0SSH_CONNECTION=2001:db8::7 5 2001:db8::1 22\0C=d",
        );
        process(
            1,
            "1 (init) S 0 1 1",
            b"SSH_CONNECTION=192.0.2.1 5 192.0.2.2 22\0",
        );
        let found = |pid| of_ancestors(proc.path(), pid).map(|session| session.client);
        assert_eq!(found(9), Some(address("2001:db8::7")));
        assert_eq!(found(7), Some(address("192.0.2.1")));
        assert_eq!(found(1), None, "the first process has no parent");
        assert_eq!(found(5), None, "no such process");
    }

    #[test]
    fn a_value_that_is_none_is_no_session() {
        let client = |value: &str| parse(OsStr::new(value));
        assert_eq!(client(""), None);
        assert_eq!(client("somewhere 22"), None);
        assert_eq!(
            client("fe80::1%eth0 5 fe80::2%eth0 22"),
            Some(Session {
                client: address("fe80::1"),
                scope: Some("eth0".into())
            })
        );
        assert_eq!(
            client("::ffff:192.0.2.7 5 ::ffff:192.0.2.1 22")
                .unwrap()
                .client,
            address("192.0.2.7")
        );
    }
}
