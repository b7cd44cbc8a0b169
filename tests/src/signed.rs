//! A tree of zones of its own with a signed root, and a resolver that has its key.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use leakguard::lab::{Daemon, LabError, Netns, address, output_within, wait_until};
use tempfile::TempDir;

/// How long a key, a signature or a daemon may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Whose signature is right, and whose is not.
const LEAVES: [&str; 2] = ["good.lab.", "bogus.lab."];

/// Every zone has the same server.
const HEAD: &str = "$TTL 60\n@ IN SOA ns.lab. host.lab. 1 3600 600 86400 60\n@ IN NS ns.lab.\n";

/// nsd with the zones; ends with the guard.
#[derive(Debug)]
pub struct SignedAuthority {
    // Declared in the order in which they go.
    _nsd: Daemon,
    directory: TempDir,
}

impl SignedAuthority {
    /// Signs and serves them at the far end of the tunnel; `good.lab` with more names, `n0` and so on.
    pub fn serve(vpn: &Netns, names: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let anchor = sign(directory.path(), names);
        let server = address::VPN_SERVER_V4;
        let hints = format!(". 3600 IN NS ns.lab.\nns.lab. 3600 IN A {server}\n");
        fs::write(directory.path().join("anchor"), anchor).unwrap();
        fs::write(directory.path().join("hints"), hints).unwrap();
        Self {
            _nsd: nsd(vpn, directory.path()),
            directory,
        }
    }

    /// A file with the root's key.
    pub fn trust_anchor(&self) -> PathBuf {
        self.directory.path().join("anchor")
    }

    /// A file that says where the root is served.
    pub fn root_hints(&self) -> PathBuf {
        self.directory.path().join("hints")
    }
}

/// An authority for the zones, and Unbound in front of it; both end with the guard.
#[derive(Debug)]
pub struct SignedZones {
    // Declared in the order in which they go.
    _unbound: Daemon,
    _authority: SignedAuthority,
}

impl SignedZones {
    /// A name whose zone is signed.
    pub const SIGNED: &'static str = "www.good.lab";
    /// A name whose signature is wrong.
    pub const BOGUS: &'static str = "www.bogus.lab";

    /// Signs and serves them at the far end of the tunnel; with or without validation.
    pub fn serve(vpn: &Netns, validating: bool) -> Self {
        let authority = SignedAuthority::serve(vpn, 0);
        Self {
            _unbound: unbound(vpn, &authority, validating),
            _authority: authority,
        }
    }
}

/// Writes and signs the zones from the leaves up; returns the root's key.
fn sign(directory: &Path, names: usize) -> String {
    let server = address::VPN_SERVER_V4;
    let mut lab = format!("{HEAD}ns.lab. IN A {server}\n");
    for zone in LEAVES {
        let mut text =
            format!("{HEAD}www.{zone} IN A 192.0.2.80\nwww.{zone} IN AAAA 2001:db8:80::80\n");
        if zone == LEAVES[0] {
            text.extend((0..names).map(|number| format!("n{number}.{zone} IN A 192.0.2.81\n")));
        }
        let (ds, _) = sign_zone(directory, zone, text);
        lab = format!("{lab}{zone} IN NS ns.lab.\n{ds}");
    }
    // Changed after it was signed.
    let bogus = directory.join("bogus.lab..signed");
    let text = fs::read_to_string(&bogus).unwrap();
    fs::write(&bogus, text.replace("192.0.2.80", "192.0.2.66")).unwrap();
    let (ds, _) = sign_zone(directory, "lab.", lab);
    let root = format!("{HEAD}ns.lab. IN A {server}\nlab. IN NS ns.lab.\n{ds}");
    sign_zone(directory, ".", root).1
}

/// Signs one zone; returns what its parent has to say of it, and its key.
fn sign_zone(directory: &Path, zone: &str, text: String) -> (String, String) {
    let key = |flags: &[&str]| {
        let arguments = [&["-q", "-a", "ECDSAP256SHA256"], flags, &[zone]].concat();
        let name = run(directory, "dnssec-keygen", &arguments);
        let name = name.trim().to_owned();
        let public = fs::read_to_string(directory.join(format!("{name}.key"))).unwrap();
        (name, public)
    };
    let ((zone_key, zone_public), (key_key, key_public)) = (key(&[]), key(&["-f", "KSK"]));
    let file = directory.join(zone);
    let file = if zone == "." {
        directory.join("root")
    } else {
        file
    };
    fs::write(&file, text + &zone_public + &key_public).unwrap();
    let signed = format!("{}.signed", file.display());
    let file = file.to_str().unwrap();
    run(
        directory,
        "dnssec-signzone",
        &[
            "-q", "-o", zone, "-f", &signed, "-k", &key_key, file, &zone_key,
        ],
    );
    let ds = run(directory, "dnssec-dsfromkey", &["-2", &key_key]);
    let anchor = key_public.lines().find(|line| !line.starts_with(';'));
    (ds, anchor.unwrap().to_owned())
}

fn run(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.current_dir(directory).args(arguments);
    let output = output_within(command, LIMIT).unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn nsd(vpn: &Netns, directory: &Path) -> Daemon {
    let path = directory.display();
    let zone =
        |name: &str, file: &str| format!("zone:\n  name: \"{name}\"\n  zonefile: {file}.signed\n");
    let zones: String = LEAVES.iter().map(|name| zone(name, name)).collect();
    let configuration = format!(
        "server:\n  ip-address: {}\n  username: \"\"\n  zonesdir: \"{path}\"\n  pidfile: \"{path}/nsd.pid\"\n  \
         xfrdfile: \"{path}/xfrd.state\"\n  xfrdir: \"{path}\"\n  zonelistfile: \"{path}/zone.list\"\n  database: \"\"\n  \
         server-count: 1\nremote-control:\n  control-enable: no\n{}{}{zones}",
        address::VPN_SERVER_V4,
        zone(".", "root"),
        zone("lab.", "lab."),
    );
    let file = directory.join("nsd.conf");
    fs::write(&file, configuration).unwrap();
    let mut command = vpn.command("nsd");
    command.arg("-d").arg("-c").arg(file);
    let daemon = Daemon::start(command, directory).unwrap();
    await_answer(vpn, daemon, address::VPN_SERVER_V4)
}

fn unbound(vpn: &Netns, authority: &SignedAuthority, validating: bool) -> Daemon {
    let directory = authority.directory.path();
    let path = directory.display();
    let (module, trust) = if validating {
        let key = authority.trust_anchor();
        let trust = format!("  trust-anchor-file: \"{}\"\n", key.display());
        ("validator iterator", trust)
    } else {
        ("iterator", String::new())
    };
    let configuration = format!(
        "server:\n  username: \"\"\n  chroot: \"\"\n  directory: \"{path}\"\n  pidfile: \"\"\n  use-syslog: no\n  \
         logfile: \"\"\n  do-daemonize: no\n  num-threads: 1\n  interface: {}\n  interface: {}\n  ip-freebind: yes\n  \
         access-control: 0.0.0.0/0 allow\n  access-control: ::/0 allow\n  root-hints: \"{}\"\n  \
         module-config: \"{module}\"\n{trust}remote-control:\n  control-enable: no\n",
        address::TUNNEL_RESOLVER_V4,
        address::TUNNEL_RESOLVER_V6,
        authority.root_hints().display(),
    );
    let file = directory.join("unbound.conf");
    fs::write(&file, configuration).unwrap();
    let mut command = vpn.command("unbound");
    command.arg("-d").arg("-c").arg(file);
    let daemon = Daemon::start(command, directory).unwrap();
    await_answer(vpn, daemon, address::TUNNEL_RESOLVER_V4)
}

/// Waits until a server answers a question for the root.
fn await_answer(netns: &Netns, mut daemon: Daemon, server: Ipv4Addr) -> Daemon {
    const QUESTION: [u8; 17] = [0x4c, 0x47, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

    let asked = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((server, 53))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        socket.send(&QUESTION)?;
        socket.recv(&mut [0; 2048])
    };
    wait_until(&format!("{server} answers"), LIMIT, || {
        daemon.check_running()?;
        Ok::<_, LabError>(netns.run_in(asked)?.is_ok())
    })
    .unwrap();
    daemon
}
