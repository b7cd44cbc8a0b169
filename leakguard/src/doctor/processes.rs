//! Programs that run in this network namespace, and who listens for DNS.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::root::Root;

/// The port of DNS.
const DNS: u16 = 53;

/// A socket that waits for questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) address: IpAddr,
    /// The command name of the process that holds it, where it can be seen.
    pub(super) program: Option<String>,
}

/// What runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Processes {
    /// Process numbers by command name.
    pub(super) by_name: BTreeMap<String, Vec<u32>>,
    /// Who listens on port 53, by UDP.
    pub(super) listeners: Vec<Listener>,
}

impl Processes {
    /// Whether a program of this command name runs.
    pub(super) fn runs(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The first of these names that runs, as evidence.
    pub(super) fn evidence(&self, names: &[&str]) -> Option<String> {
        let mut running = names
            .iter()
            .filter_map(|name| self.by_name.get_key_value(*name));
        running.next().map(|(name, pids)| {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            format!("{name} runs (process {})", pids.join(", "))
        })
    }

    /// Whether something listens where packets to an address of this host arrive.
    pub(super) fn listens(&self, address: IpAddr) -> bool {
        self.listeners.iter().any(|listener| {
            listener.address == address
                || listener.address.is_unspecified()
                    && (listener.address.is_ipv6() || address.is_ipv4())
        })
    }
}

pub(super) fn collect(root: &Root) -> Processes {
    let own = root.link("/proc/self/ns/net");
    let mut processes = Processes::default();
    let mut holders: BTreeMap<u64, String> = BTreeMap::new();
    let sockets = dns_sockets(root);
    for name in root.list("/proc") {
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        // What runs in another namespace, as in a container, says nothing of this host's resolvers.
        let theirs = root.link(&format!("/proc/{pid}/ns/net"));
        if own.is_some() && theirs.is_some() && own != theirs {
            continue;
        }
        let Some(command) = root.word(&format!("/proc/{pid}/comm")) else {
            continue;
        };
        if !sockets.is_empty() {
            let descriptors = format!("/proc/{pid}/fd");
            for number in root.list(&descriptors) {
                let inode = root
                    .link(&format!("{descriptors}/{number}"))
                    .and_then(|link| crate::sockets::inode(&link));
                if let Some(inode) = inode.filter(|inode| sockets.contains_key(inode)) {
                    holders.insert(inode, command.clone());
                }
            }
        }
        processes.by_name.entry(command).or_default().push(pid);
    }
    processes.listeners = sockets
        .into_iter()
        .map(|(inode, address)| Listener {
            address,
            program: holders.remove(&inode),
        })
        .collect();
    processes
}

/// Sockets at port 53 by UDP: their inodes and addresses.
fn dns_sockets(root: &Root) -> BTreeMap<u64, IpAddr> {
    let own = if root.is_host() {
        "thread-self"
    } else {
        "self"
    };
    let mut sockets = BTreeMap::new();
    for table in ["udp", "udp6"] {
        let text = root
            .read(&format!("/proc/{own}/net/{table}"))
            .unwrap_or_default();
        sockets.extend(text.lines().skip(1).filter_map(listener));
    }
    sockets
}

/// Reads a line of `/proc/net/udp` or `udp6`, if its socket is at port 53.
fn listener(line: &str) -> Option<(u64, IpAddr)> {
    let mut words = line.split_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    (u16::from_str_radix(port, 16).ok()? == DNS).then_some(())?;
    // Each 32 bits of an address are a number of the machine's.
    let words_of = |text: &str| -> Option<Vec<u8>> {
        let chunks = text.as_bytes().chunks(8);
        let numbers = chunks.map(|digits| {
            let number = u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
            Some(number.to_ne_bytes())
        });
        Some(numbers.collect::<Option<Vec<_>>>()?.concat())
    };
    let bytes = words_of(address)?;
    let address = if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        Ipv4Addr::from(v4).into()
    } else {
        Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).to_canonical()
    };
    let inode = words.nth(7)?.parse().ok()?;
    Some((inode, address))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn listeners_are_found_with_their_programs() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "proc/self/net/udp",
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref\n\
              1: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 4711 2\n\
              2: 0100007F:1435 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 4712 2\n\
              garbage\n",
        );
        write("proc/7/comm", "systemd-resolve\n");
        fs::create_dir_all(directory.path().join("proc/7/fd")).unwrap();
        symlink("socket:[4711]", directory.path().join("proc/7/fd/3")).unwrap();
        write("proc/8/comm", "dhclient\n");
        let processes = collect(&Root::open(directory.path()).unwrap());
        assert_eq!(
            processes.listeners,
            [Listener {
                address: Ipv4Addr::new(127, 0, 0, 53).into(),
                program: Some("systemd-resolve".to_owned())
            }]
        );
        assert!(processes.runs("dhclient") && !processes.runs("dnsmasq"));
        assert_eq!(
            processes.evidence(&["dnsmasq", "dhclient"]).unwrap(),
            "dhclient runs (process 8)"
        );
    }

    #[test]
    fn what_listens_everywhere_listens_there() {
        let at = |address: &str| Processes {
            listeners: vec![Listener {
                address: address.parse().unwrap(),
                program: None,
            }],
            ..Processes::default()
        };
        let stub = Ipv4Addr::new(127, 0, 0, 53).into();
        assert!(at("0.0.0.0").listens(stub));
        assert!(at("::").listens(stub));
        assert!(!at("127.0.0.1").listens(stub));
        assert!(!at("0.0.0.0").listens(Ipv6Addr::LOCALHOST.into()));
    }
}
