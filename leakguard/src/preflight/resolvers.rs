//! Which resolvers programs on this host ask, out of `resolv.conf(5)`.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::libc::O_NONBLOCK;

use crate::host::text_of;

/// How many resolvers the C library takes (`MAXNS`).
const MOST: usize = 3;

/// Where systemd-resolved listens.
const STUBS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];

/// A resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nameserver {
    pub(crate) address: IpAddr,
    /// The interface that a link-local address belongs to, by name or number.
    pub(crate) scope: Option<String>,
    /// Whether it is systemd-resolved that asks it.
    pub(crate) behind_stub: bool,
    /// Whom programs ask, whose questions are redirected to this one.
    pub(crate) instead_of: Option<IpAddr>,
}

impl fmt::Display for Nameserver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "nameserver {}", self.address)?;
        if let Some(scope) = &self.scope {
            write!(formatter, "%{scope}")?;
        }
        if self.behind_stub {
            formatter.write_str(" (of systemd-resolved)")?;
        }
        if let Some(address) = self.instead_of {
            write!(formatter, " (by redirection, instead of {address})")?;
        }
        Ok(())
    }
}

/// Reads who is asked; behind systemd-resolved's own address, whom that asks, where it says so.
pub(crate) fn read(resolv_conf: &Path, resolved: &Path) -> Vec<Nameserver> {
    let mut named: Vec<Nameserver> = parse(&content(resolv_conf)).take(MOST).collect();
    if named.is_empty() {
        // What the C library does without a file or without a resolver in it.
        named.push(Nameserver {
            address: Ipv4Addr::LOCALHOST.into(),
            scope: None,
            behind_stub: false,
            instead_of: None,
        });
    }
    let mut upstreams: Vec<Nameserver> = Vec::new();
    let mut stub = false;
    named.retain(|server| {
        let is_stub = STUBS.iter().any(|address| server.address == *address);
        stub |= is_stub;
        !is_stub
    });
    if stub {
        upstreams = parse(&content(resolved)).collect();
        upstreams.retain(|server| !server.address.is_loopback());
        for server in &mut upstreams {
            server.behind_stub = true;
        }
        if upstreams.is_empty() {
            upstreams.push(Nameserver {
                address: STUBS[0].into(),
                scope: None,
                behind_stub: false,
                instead_of: None,
            });
        }
    }
    upstreams.extend(named);
    upstreams
}

/// What is in a file; nothing, and a word about it, if it cannot be read.
///
/// It may belong to a service, which must not be able to keep leakguard waiting, or to fill its memory.
fn content(path: &Path) -> String {
    let mut options = File::options();
    let file = options.read(true).custom_flags(O_NONBLOCK).open(path);
    file.and_then(text_of).unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            log::warn!(
                "cannot read {}, so it is taken for empty: {error}",
                path.display()
            );
        }
        String::new()
    })
}

fn parse(text: &str) -> impl Iterator<Item = Nameserver> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        let word = words.next()?;
        let (address, scope) = match word.split_once('%') {
            Some((address, scope)) => (address, Some(scope.to_owned())),
            None => (word, None),
        };
        Some(Nameserver {
            address: address.parse().ok()?,
            scope,
            behind_stub: false,
            instead_of: None,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    /// Reads two files of these texts; `None` is a file that is not there.
    fn read_texts(resolv_conf: Option<&str>, resolved: Option<&str>) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: Option<&str>| {
            let path = directory.path().join(name);
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            path
        };
        read(&file("a", resolv_conf), &file("b", resolved))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_first_three_count() {
        let text = "# nameserver 9.9.9.9\nsearch lab\nnameserver 10.8.0.1 # tunnel\n nameserver\tfe80::1%eth0\n\
                    nameserver nonsense\nnameserver\nnameserver 2001:db8::1\nnameserver 1.1.1.1\n";
        assert_eq!(
            read_texts(Some(text), None),
            [
                "nameserver 10.8.0.1",
                "nameserver fe80::1%eth0",
                "nameserver 2001:db8::1"
            ]
        );
    }

    #[test]
    fn without_a_resolver_it_is_this_host() {
        for text in [None, Some(""), Some("options edns0\n")] {
            assert_eq!(read_texts(text, None), ["nameserver 127.0.0.1"]);
        }
    }

    #[test]
    fn behind_the_stub_are_the_upstreams() {
        let stub = Some("nameserver 127.0.0.53\n");
        assert_eq!(
            read_texts(
                stub,
                Some("nameserver 192.168.1.1\nnameserver 127.0.0.53\n")
            ),
            ["nameserver 192.168.1.1 (of systemd-resolved)"]
        );
        for unknown in [None, Some(""), Some("nameserver 127.0.0.1\n")] {
            assert_eq!(read_texts(stub, unknown), ["nameserver 127.0.0.53"]);
        }
        // Another resolver on this host is not systemd-resolved.
        assert_eq!(
            read_texts(
                Some("nameserver 127.0.0.1\n"),
                Some("nameserver 192.168.1.1\n")
            ),
            ["nameserver 127.0.0.1"]
        );
    }

    #[test]
    fn nobody_is_waited_for_and_no_memory_filled() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("resolv.conf");
        mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
        for path in [pipe.as_path(), Path::new("/dev/zero"), directory.path()] {
            let read = read(path, Path::new("/nonexistent"));
            assert_eq!(read.len(), 1, "{}", path.display());
            assert!(read[0].address.is_loopback(), "{}", path.display());
        }
        let stub = directory.path().join("stub.conf");
        fs::write(&stub, "nameserver 127.0.0.53\n").unwrap();
        assert_eq!(read(&stub, &pipe).len(), 1);
    }
}
