use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::process::Daemon;
use super::scratch::Scratch;
use super::{Cgroup, LabError, Netns, wait_until};

/// A name with an IPv4 and an IPv6 address that every resolver of the lab knows.
pub const LAB_NAME: &str = "www.lab.test";
/// A name whose TXT record says which resolver answered.
pub const WHO_NAME: &str = "who.lab.test";

/// How long Unbound may take to answer.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long one probe waits for its answer.
const PROBE_LIMIT: Duration = Duration::from_millis(100);
/// A query for the root's name servers, as sent to see whether somebody answers.
const PROBE: [u8; 17] = [0x4c, 0x47, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// An Unbound that answers on port 53, UDP and TCP, on every address of a namespace; ended when
/// dropped.
#[derive(Debug)]
pub struct Resolver {
    daemon: Daemon,
    _directory: Scratch,
}

impl Resolver {
    /// Starts one that answers `who` for [`WHO_NAME`]; returns when it answers over both families.
    pub fn new(netns: &Netns, who: &str) -> Result<Self, LabError> {
        Self::start(netns, None, &static_data(who))
    }

    /// Starts one that knows these names and asks `upstream` for all others, every time anew; returns when it answers
    /// over both families.
    ///
    /// It asks from inside `cgroup`. What it is asked first, `upstream` has to answer.
    pub fn forwarding(
        netns: &Netns,
        cgroup: &Cgroup,
        names: &[(&str, IpAddr)],
        upstream: &[IpAddr],
    ) -> Result<Self, LabError> {
        Self::start(netns, Some(cgroup), &forward_data(names, upstream))
    }

    fn start(netns: &Netns, cgroup: Option<&Cgroup>, data: &str) -> Result<Self, LabError> {
        let directory = Scratch::new("unbound")?;
        let file = directory.path().join("unbound.conf");
        fs::write(&file, configuration(data))
            .map_err(LabError::io(format!("write {}", file.display())))?;
        let mut unbound = netns.command("unbound");
        unbound.arg("-d").arg("-c").arg(&file);
        if let Some(cgroup) = cgroup {
            cgroup.attach(&mut unbound);
        }
        let mut daemon = Daemon::start(unbound, directory.path())?;

        for server in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            let what = format!("Unbound answers in {}", netns.name());
            wait_until(&what, START_LIMIT, || {
                daemon.check_running()?;
                Ok(netns.run_in(|| answers(server))?.is_ok())
            })?;
        }
        Ok(Self {
            daemon,
            _directory: directory,
        })
    }

    /// Unbound's log; it has one line per query.
    pub fn log(&self) -> String {
        self.daemon.stderr()
    }
}

/// Sends one query and waits for its answer.
fn answers(server: IpAddr) -> io::Result<()> {
    let unspecified: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(unspecified, 0))?;
    socket.connect(SocketAddr::new(server, 53))?;
    socket.set_read_timeout(Some(PROBE_LIMIT))?;
    socket.send(&PROBE)?;
    socket.recv(&mut [0; 512]).map(drop)
}

/// Everything is local data: with `.` static, Unbound never asks anybody, so nothing it sends can
/// look like a leak.
fn static_data(who: &str) -> String {
    format!(
        r#"  local-zone: "." static
  local-data: "{WHO_NAME}. 5 IN TXT {who}"
  local-data: "{LAB_NAME}. 5 IN A 192.0.2.80"
  local-data: "{LAB_NAME}. 5 IN AAAA 2001:db8:80::80"
"#
    )
}

/// Some names are local data, and nothing else is kept. Without its own idea of `test.`, which is that there is none.
fn forward_data(names: &[(&str, IpAddr)], upstream: &[IpAddr]) -> String {
    let local = names.iter().map(|(name, address)| {
        let record = if address.is_ipv4() { "A" } else { "AAAA" };
        format!("  local-data: \"{name}. 5 IN {record} {address}\"\n")
    });
    let forward = upstream
        .iter()
        .map(|address| format!("  forward-addr: {address}\n"));
    format!(
        "  local-zone: \"test.\" nodefault\n  cache-max-ttl: 0\n  cache-max-negative-ttl: 0\n  infra-host-ttl: 0\n{}forward-zone:\n  name: \".\"\n{}",
        local.collect::<String>(),
        forward.collect::<String>()
    )
}

/// `data` ends the clause of the server, and may begin others.
fn configuration(data: &str) -> String {
    format!(
        r#"server:
  username: ""
  chroot: ""
  pidfile: ""
  use-syslog: no
  logfile: ""
  verbosity: 1
  log-queries: yes
  do-daemonize: no
  num-threads: 1
  outgoing-range: 16
  incoming-num-tcp: 256
  interface: 0.0.0.0
  interface: ::0
  interface-automatic: yes
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  module-config: "iterator"
{data}remote-control:
  control-enable: no
"#
    )
}
