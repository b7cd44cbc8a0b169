//! The resolver cluster of `deploy/resolver-cluster` in the lab: dnsdist at the tunnel's far end, and nodes behind it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use leakguard::lab::{Cgroup, Daemon, LabError, Netns, address, output_within, wait_until};
use serde_json::Value;
use tempfile::TempDir;

use super::SignedAuthority;

/// How long a program may take to begin, or a health check to see what is.
const LIMIT: Duration = Duration::from_secs(20);
/// dnsdist towards the nodes.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The file that `node_exporter` reads.
const METRICS_FILE: &str = "resolver-cluster.prom";

/// dnsdist, its nodes and an authority for the zones that they ask; all end with the guard.
#[derive(Debug)]
pub struct Cluster<'lab> {
    // Declared in the order in which they go.
    dnsdist: Daemon,
    nodes: Vec<Node>,
    authority: SignedAuthority,
    directory: TempDir,
    vpn: &'lab Netns,
}

impl<'lab> Cluster<'lab> {
    /// The name in its certificate.
    pub const NAME: &'static str = "resolver.lab";

    /// Starts one at the far end of the tunnel, which asks for zones that have `names` more names than usual; returns when
    /// every node is in use.
    pub fn new(vpn: &'lab Netns, nodes: usize, names: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = SignedAuthority::serve(vpn, names);
        certify(directory.path(), nodes);
        vpn.ip_batch(&format!(
            "link add nodes type bridge\naddr add {GATEWAY}/24 dev nodes\nlink set nodes up\n"
        ))
        .unwrap();
        let nodes: Vec<_> = (1..=nodes)
            .map(|number| Node::new(vpn, number, &authority, directory.path()))
            .collect();
        fs::write(
            directory.path().join("cluster.lua"),
            settings(directory.path(), &nodes),
        )
        .unwrap();
        let cluster = Self {
            dnsdist: dnsdist(vpn, directory.path()),
            nodes,
            authority,
            directory,
            vpn,
        };
        for number in 0..cluster.nodes.len() {
            cluster.await_node(number, true);
        }
        cluster
    }

    /// A node; they are counted from 0.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// Ends a node as a crash does.
    pub fn kill(&mut self, number: usize) {
        self.nodes[number].daemon.kill().unwrap();
    }

    /// Starts dnsdist anew, with the same nodes.
    pub fn restart(&mut self) {
        self.dnsdist.terminate(LIMIT).unwrap();
        self.dnsdist = dnsdist(self.vpn, self.directory.path());
        for number in 0..self.nodes.len() {
            self.await_node(number, true);
        }
    }

    /// Starts a node that was killed.
    pub fn revive(&mut self, number: usize) {
        // Whoever killed it, it is reaped.
        self.kill(number);
        self.nodes[number].start(&self.authority, self.directory.path());
    }

    /// Makes new certificates with the same authority, in the place of the old ones.
    pub fn renew(&self) {
        certify(self.directory.path(), self.nodes.len());
    }

    /// The certificate that hosts see, as a fingerprint.
    pub fn fingerprint(&self) -> String {
        let server = format!("{}:853", address::TUNNEL_RESOLVER_V4);
        let mut command = self.vpn.command("sh");
        command.args([
            "-c",
            "openssl s_client -connect \"$1\" 2>/dev/null | openssl x509 -fingerprint -noout",
            "sh",
        ]);
        command.arg(server);
        let output = output_within(command, LIMIT).unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Gives a node a certificate that says the same, of an authority that nobody knows.
    pub fn impersonate(&mut self, number: usize) {
        let elsewhere = tempfile::tempdir().unwrap();
        certify(elsewhere.path(), self.nodes.len());
        for kind in ["key", "pem"] {
            let file = format!("{}.{kind}", self.nodes[number].name);
            fs::copy(
                elsewhere.path().join(&file),
                self.directory.path().join(&file),
            )
            .unwrap();
        }
    }

    /// Waits until health checks have a node up, or down.
    pub fn await_node(&self, number: usize, up: bool) {
        let line = format!(
            "resolver_cluster_node_up{{region=\"lab\",node=\"{}\"}} {}",
            self.nodes[number].name,
            u8::from(up)
        );
        wait_until(&line, LIMIT, || {
            Ok(self.metrics().lines().any(|one| one == line))
        })
        .unwrap();
    }

    /// What the cluster counts, as Prometheus has it; nothing before the first second has passed.
    pub fn metrics(&self) -> String {
        fs::read_to_string(self.metrics_file()).unwrap_or_default()
    }

    /// Where that is written.
    pub fn metrics_file(&self) -> PathBuf {
        self.directory.path().join(METRICS_FILE)
    }

    /// Starts `node_exporter`, which shows that at `127.0.0.1:9100` of a namespace.
    pub fn export(&self, netns: &Netns) -> Daemon {
        let mut command = netns.command("prometheus-node-exporter");
        command.args(["--collector.disable-defaults", "--collector.textfile"]);
        let directory = self.directory.path();
        command.arg(format!(
            "--collector.textfile.directory={}",
            directory.display()
        ));
        command.arg("--web.listen-address=127.0.0.1:9100");
        let own = directory.join("exporter");
        fs::create_dir(&own).unwrap();
        Daemon::start(command, &own).unwrap()
    }

    /// Fails unless dnsdist is still there.
    pub fn check_dnsdist(&mut self) {
        self.dnsdist.check_running().unwrap();
    }

    /// The lines of the audit log.
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.audit_log()).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Where the audit log is.
    pub fn audit_log(&self) -> PathBuf {
        self.directory.path().join("audit.ndjson")
    }

    /// The file of the authority whose certificate it has.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Asks over TLS, with the certificate checked: one try of so many seconds.
    pub fn ask(&self, netns: &Netns, cgroup: Option<&Cgroup>, name: &str, seconds: u32) -> Kdig {
        let authority = format!("+tls-ca={}", self.authority().display());
        let hostname = format!("+tls-hostname={}", Self::NAME);
        let server = address::TUNNEL_RESOLVER_V4.into();
        let options = [authority.as_str(), hostname.as_str(), "+dnssec"];
        Kdig::ask(netns, cgroup, server, name, seconds, &options)
    }
}

/// A node: Unbound in a namespace of its own.
#[derive(Debug)]
pub struct Node {
    // Declared in the order in which they go.
    daemon: Daemon,
    netns: Netns,
    name: String,
    address: Ipv4Addr,
    control: PathBuf,
}

impl Node {
    fn new(vpn: &Netns, number: usize, authority: &SignedAuthority, directory: &Path) -> Self {
        let name = format!("node-{number}");
        let address = Ipv4Addr::from(u32::from(GATEWAY) + 10 + u32::try_from(number).unwrap());
        let netns = Netns::new(&name).unwrap();
        vpn.ip_batch(&format!(
            "link add {name} type veth peer name eth0 netns {}\nlink set {name} master nodes up\n",
            netns.name()
        ))
        .unwrap();
        netns
            .ip_batch(&format!(
                "link set eth0 up\naddr add {address}/24 dev eth0\nroute add default via {GATEWAY}\n"
            ))
            .unwrap();
        let control = directory.join(format!("{name}.control"));
        let daemon = unbound(&netns, &name, address, authority, directory);
        Self {
            daemon,
            netns,
            name,
            address,
            control,
        }
    }

    fn start(&mut self, authority: &SignedAuthority, directory: &Path) {
        self.daemon = unbound(&self.netns, &self.name, self.address, authority, directory);
    }

    /// Its name, without the region.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Runs a command of `unbound-control`; gives what it says.
    pub fn control(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("unbound-control");
        command.arg("-s").arg(&self.control).args(arguments);
        let output = output_within(command, LIMIT).unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it has counted.
    pub fn statistics(&self) -> BTreeMap<String, f64> {
        let text = self.control(&["stats_noreset"]);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }
}

/// What kdig got over TLS.
#[derive(Debug)]
pub struct Kdig(Output);

impl Kdig {
    /// Asks a server over TLS for the address of a name: one try of so many seconds, with more options.
    pub fn ask(
        netns: &Netns,
        cgroup: Option<&Cgroup>,
        server: IpAddr,
        name: &str,
        seconds: u32,
        options: &[&str],
    ) -> Self {
        let mut kdig = netns.command("kdig");
        kdig.arg(format!("@{server}")).args([name, "A", "+tls"]);
        kdig.args(["+retry=0", &format!("+time={seconds}")])
            .args(options);
        if let Some(cgroup) = cgroup {
            cgroup.attach(&mut kdig);
        }
        Self(output_within(kdig, LIMIT).unwrap())
    }

    fn header(&self, field: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0.stdout);
        let start = text.find(field)? + field.len();
        let value = text.get(start..)?.split([';', '\n']).next()?;
        Some(value.trim().to_owned())
    }

    /// Its status, such as `NOERROR`; none without an answer.
    pub fn status(&self) -> Option<String> {
        self.header("status: ")
    }

    /// Whether it is said to be authentic.
    pub fn is_authentic(&self) -> bool {
        let flags = self.header("Flags: ");
        flags.is_some_and(|flags| flags.split(' ').any(|flag| flag == "ad"))
    }
}

/// What the operator has.
fn deployed(file: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/resolver-cluster");
    root.canonicalize().unwrap().join(file)
}

fn certify(directory: &Path, nodes: usize) {
    let mut command = Command::new(deployed("make-certificates.sh"));
    let addresses = format!(
        "{},{}",
        address::TUNNEL_RESOLVER_V4,
        address::TUNNEL_RESOLVER_V6
    );
    command.arg(directory).args([Cluster::NAME, &addresses]);
    command.args((1..=nodes).map(|number| format!("node-{number}")));
    let output = output_within(command, LIMIT).unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The operator's settings, with what is different here.
fn settings(directory: &Path, nodes: &[Node]) -> String {
    let path = directory.display();
    let (v4, v6) = (address::TUNNEL_RESOLVER_V4, address::TUNNEL_RESOLVER_V6);
    let nodes: Vec<_> = nodes
        .iter()
        .map(|Node { name, address, .. }| {
            let [.., last] = address.octets();
            let id = format!("6f1e1c6a-0d3c-4c53-9d5e-{last:012}");
            format!("{{name=\"{name}\",id=\"{id}\",address=\"{address}:853\",weight=100}}")
        })
        .collect();
    let nodes = nodes.join(",");
    format!(
        "dofile(\"{}\")\nregion = \"lab\"\nlisten_tls = {{ \"{v4}:853\", \"[{v6}]:853\" }}\n\
         listen_plain = {{ \"{v4}:53\", \"[{v6}]:53\" }}\nqueries_per_second = 100000\n\
         certificate, key = \"{path}/cluster.pem\", \"{path}/cluster.key\"\nnodes_authority = \"{path}/ca.pem\"\n\
         certificates_every = 1\n\
         nodes = {{{nodes}}}\naudit_log = \"{path}/audit.ndjson\"\nmetrics_file = \"{path}/{METRICS_FILE}\"\n",
        deployed("cluster.lua").display(),
    )
}

fn dnsdist(vpn: &Netns, directory: &Path) -> Daemon {
    let mut command = vpn.command("dnsdist");
    command.args(["--supervised", "--disable-syslog", "-C"]);
    command.arg(deployed("dnsdist.conf"));
    command.env("RESOLVER_CLUSTER", directory.join("cluster.lua"));
    let mut daemon = Daemon::start(command, directory).unwrap();
    await_port(vpn, &mut daemon, address::TUNNEL_RESOLVER_V4);
    daemon
}

fn unbound(
    netns: &Netns,
    name: &str,
    address: Ipv4Addr,
    authority: &SignedAuthority,
    directory: &Path,
) -> Daemon {
    let own = directory.join(format!("{name}.d"));
    fs::create_dir_all(&own).unwrap();
    let path = directory.display();
    let configuration = format!(
        "include: \"{}\"\nserver:\n  username: \"\"\n  chroot: \"\"\n  directory: \"{}\"\n  pidfile: \"\"\n  \
         use-syslog: no\n  logfile: \"\"\n  do-daemonize: no\n  root-hints: \"{}\"\n  trust-anchor-file: \"{}\"\n  \
         interface: {address}@853\n  tls-service-pem: \"{path}/{name}.pem\"\n  tls-service-key: \"{path}/{name}.key\"\n  \
         access-control: {GATEWAY}/32 allow\n  num-threads: 1\nremote-control:\n  control-enable: yes\n  \
         control-interface: \"{path}/{name}.control\"\n",
        deployed("unbound.conf").display(),
        own.display(),
        authority.root_hints().display(),
        authority.trust_anchor().display(),
    );
    let file = own.join("unbound.conf");
    fs::write(&file, configuration).unwrap();
    let mut command = netns.command("unbound");
    command.arg("-d").arg("-c").arg(file);
    let mut daemon = Daemon::start(command, &own).unwrap();
    await_port(netns, &mut daemon, address);
    daemon
}

/// Waits until somebody listens for TLS.
fn await_port(netns: &Netns, daemon: &mut Daemon, address: Ipv4Addr) {
    wait_until(&format!("{address} listens"), LIMIT, || {
        daemon.check_running()?;
        let connected = netns.run_in(|| TcpStream::connect((address, 853)))?;
        Ok::<_, LabError>(connected.is_ok())
    })
    .unwrap();
}
