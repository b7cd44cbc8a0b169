//! A real DHCP server (dnsmasq) at the ISP, and a real client (dhclient) on the device under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use leakguard::lab::{Daemon, Netns, Topology, output_within, wait_until};
use tempfile::TempDir;

use super::Origin;

/// dnsmasq knows no shorter lease.
pub const LEASE: Duration = Duration::from_mins(2);

/// How long the programs may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);

/// When the server tells IPv4 clients to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Renew after a half and rebind after seven eighths of [`LEASE`], as the standard has it.
    Standard,
    /// Renew after 3 s and rebind after 8 s. DHCPv6 has no such option: there it is as above.
    Hurried,
}

/// A DHCPv4 and DHCPv6 server on the ISP's side of the uplink, with one address each: those that the topology gives
/// the device itself. Ended when dropped.
#[derive(Debug)]
pub struct DhcpServer {
    daemon: Option<Daemon>,
    pace: Pace,
    files: TempDir,
}

impl DhcpServer {
    /// Starts it; returns when it serves.
    pub fn start(topology: &Topology, pace: Pace) -> Self {
        let mut server = Self {
            daemon: None,
            pace,
            files: tempfile::tempdir().unwrap(),
        };
        server.resume(topology);
        server
    }

    /// Ends it without a word to anybody; it keeps its leases.
    pub fn stop(&mut self) {
        self.daemon = None;
    }

    /// Starts it again.
    pub fn resume(&mut self, topology: &Topology) {
        let file = |option: &str, name: &str| {
            let path = self.files.path().join(name);
            format!("--{option}={}", path.display())
        };
        let served = self.log().matches(READY).count();
        let mut dnsmasq = topology.isp().command("dnsmasq");
        dnsmasq.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            // No DNS: nothing it sends can look like a leak.
            "--port=0",
            "--bind-dynamic",
            "--no-ping",
            "--log-dhcp",
            "--user=root",
            "--pid-file=",
            "--dhcp-authoritative",
            "--dhcp-range=192.168.77.10,192.168.77.10,255.255.255.0,2m",
            "--dhcp-range=fd77::10,fd77::10,64,2m",
        ]);
        if self.pace == Pace::Hurried {
            dnsmasq.args(["--dhcp-option=option:T1,3", "--dhcp-option=option:T2,8"]);
        }
        dnsmasq
            .arg(format!("--interface={}", Topology::OBSERVED))
            .arg(file("dhcp-leasefile", "leases"))
            .arg(file("log-facility", LOG));
        let mut daemon = Daemon::start(dnsmasq, self.files.path()).unwrap();
        wait_until("dnsmasq serves", START_LIMIT, || {
            daemon.check_running()?;
            Ok(self.log().matches(READY).count() > served)
        })
        .unwrap();
        self.daemon = Some(daemon);
    }

    /// Its log: a line for each message.
    pub fn log(&self) -> String {
        fs::read_to_string(self.files.path().join(LOG)).unwrap_or_default()
    }

    /// How many messages of a kind there were, such as `DHCPACK` (IPv4) or `DHCPREPLY` (IPv6).
    pub fn messages(&self, kind: &str) -> usize {
        let kind = format!(" {kind}(");
        self.log()
            .lines()
            .filter(|line| line.contains(&kind))
            .count()
    }
}

const LOG: &str = "dnsmasq.log";

/// What dnsmasq logs last when it starts.
const READY: &str = "sockets bound exclusively to interface";

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// DHCPv4.
    V4,
    /// DHCPv6.
    V6,
}

/// What a client was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Why dhclient called its script: `BOUND`, `RENEW`, `REBIND`, `REBOOT`, and the same with a 6.
    pub reason: String,
    /// The address.
    pub address: String,
    /// How long it may be used.
    pub time: Duration,
}

/// A DHCP client on the device under test; killed when dropped, which gives nothing back.
///
/// Its script changes addresses and routes of its namespace only; nothing of the machine's files is touched.
#[derive(Debug)]
pub struct DhcpClient {
    daemon: Option<Daemon>,
    family: Family,
    files: TempDir,
}

impl DhcpClient {
    /// Starts one for an interface, with the sockets of a place; it has no lease yet.
    pub fn start(origin: Origin<'_>, interface: &str, family: Family) -> Self {
        let files = tempfile::tempdir().unwrap();
        fs::write(files.path().join("dhclient.conf"), CONFIGURATION).unwrap();
        fs::write(files.path().join("leases"), "").unwrap();
        install_script(files.path());
        let mut client = Self {
            daemon: None,
            family,
            files,
        };
        client.restart(origin, interface);
        client
    }

    /// Starts it anew with the lease that it has: it asks whether that still holds.
    pub fn restart(&mut self, origin: Origin<'_>, interface: &str) {
        self.daemon = None;
        if self.family == Family::V6 {
            await_link_local(origin.netns, interface);
        }
        let path = |name: &str| -> PathBuf { self.files.path().join(name) };
        let mut dhclient = origin.netns.command("dhclient");
        dhclient.arg("-d").arg(match self.family {
            Family::V4 => "-4",
            Family::V6 => "-6",
        });
        dhclient.arg("-cf").arg(path("dhclient.conf"));
        dhclient.arg("-sf").arg(path("script"));
        dhclient.arg("-lf").arg(path("leases"));
        dhclient.arg("-pf").arg(path("pid"));
        dhclient.arg(interface);
        if let Some(cgroup) = origin.cgroup {
            cgroup.attach(&mut dhclient);
        }
        self.daemon = Some(Daemon::start(dhclient, self.files.path()).unwrap());
    }

    /// What it was given so far, oldest first.
    pub fn leases(&self) -> Vec<Lease> {
        let text = fs::read_to_string(self.files.path().join("given")).unwrap_or_default();
        let given = |line: &str| {
            let mut words = line.split(' ').map(ToOwned::to_owned);
            let (reason, address) = (words.next()?, words.next()?);
            let time = Duration::from_secs(words.next()?.parse().ok()?);
            Some(Lease {
                reason,
                address,
                time,
            })
        };
        text.lines().filter_map(given).collect()
    }

    /// How often it was given something for a reason.
    pub fn count(&self, reason: &str) -> usize {
        let leases = self.leases().into_iter();
        leases.filter(|lease| lease.reason == reason).count()
    }

    /// Waits until it was given something for a reason that often; returns the last of these.
    ///
    /// # Panics
    ///
    /// If it was not in time; says what the client has written.
    pub fn await_lease(&mut self, reason: &str, count: usize, limit: Duration) -> Lease {
        let what = format!("dhclient has {count} {reason}");
        let waited = wait_until(&what, limit, || {
            if let Some(daemon) = &mut self.daemon {
                daemon.check_running()?;
            }
            Ok(self.count(reason) >= count)
        });
        if let Err(error) = waited {
            let written = self.daemon.as_ref().map(Daemon::stderr).unwrap_or_default();
            panic!("{error}; given: {:?}; {written}", self.leases());
        }
        let mut leases = self.leases().into_iter();
        leases.rfind(|lease| lease.reason == reason).unwrap()
    }
}

const CONFIGURATION: &str = "\
timeout 30;
retry 5;
initial-interval 1;
backoff-cutoff 2;
request subnet-mask, routers, dhcp-lease-time, dhcp-renewal-time, dhcp-rebinding-time;
";

/// What dhclient runs: `$1` is the file for what was given.
const SCRIPT: &str = r#"#!/bin/sh
case $reason in
BOUND|RENEW|REBIND|REBOOT)
    ip -4 addr replace "$new_ip_address/24" dev "$interface"
    ip -4 route replace default via "$new_routers"
    echo "$reason $new_ip_address $new_dhcp_lease_time" >>GIVEN ;;
BOUND6|RENEW6|REBIND6|REBOOT6)
    ip -6 addr replace "$new_ip6_address/64" dev "$interface" nodad
    echo "$reason $new_ip6_address $new_max_life" >>GIVEN ;;
EXPIRE|FAIL|STOP)
    ip -4 addr flush dev "$interface" ;;
EXPIRE6|DEPREF6|STOP6)
    ;;
esac
exit 0
"#;

/// Written by a child: a descriptor of this process would be inherited by children of other tests, and what is open
/// for writing cannot be executed.
fn install_script(directory: &Path) {
    let (text, script) = (directory.join("script.txt"), directory.join("script"));
    let given = directory.join("given").display().to_string();
    fs::write(&text, SCRIPT.replace("GIVEN", &given)).unwrap();
    let mut install = Command::new("install");
    install.args(["-m", "755"]).arg(text).arg(script);
    let output = output_within(install, START_LIMIT).unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Takes every address and route that the topology has given the uplink, as if the device had just been plugged in.
pub fn unconfigure(host: &Netns, uplink: &str) {
    host.ip(&["-4", "addr", "flush", "dev", uplink]).unwrap();
    host.ip(&["-6", "addr", "flush", "dev", uplink, "scope", "global"])
        .unwrap();
    host.ip(&["-6", "route", "flush", "dev", uplink, "default"])
        .unwrap();
}

/// dhclient sends DHCPv6 from the link-local address, and ends if there is none that can be used.
fn await_link_local(netns: &Netns, interface: &str) {
    let show = [
        "-6",
        "addr",
        "show",
        "dev",
        interface,
        "scope",
        "link",
        "-tentative",
    ];
    wait_until("there is a link-local address", START_LIMIT, || {
        Ok(netns.ip(&show)?.contains("fe80:"))
    })
    .unwrap();
}
