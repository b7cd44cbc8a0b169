//! Interfaces, routes and the nftables table, against the kernel, in network namespaces of their own.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails"
)]

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use leakguard::{
    interfaces::{Changes, Interface, RolePatterns, Watcher, classify, snapshot, visible_tunnels},
    lab::{Netns, output_within},
    netfilter::{self, Action, Applied, Listings, Permitted, Ruleset},
};
use leakguard_common::abi::{Class, Reason, Role};

/// How long anything that should happen may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What these tests do with a namespace of the lab.
trait NetnsExt {
    /// Runs `ip` with arguments that are separated by blanks.
    fn ip_line(&self, arguments: &str);

    fn ifindex(&self, interface: &str) -> u32;

    /// Runs a closure on a thread inside the namespace. Sockets made there stay there.
    fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T;

    /// Runs a future inside the namespace, with the programs it starts.
    fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> T;

    /// Joins two namespaces by a pair of interfaces that are up.
    fn pair(&self, name: &str, other: &Netns, other_name: &str);

    fn address(&self, interface: &str, address: &str);

    /// Runs one command of nft; gives what it wrote.
    fn nft(&self, command: &str) -> String;
}

impl NetnsExt for Netns {
    fn ip_line(&self, arguments: &str) {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        self.ip(&arguments).unwrap();
    }

    fn ifindex(&self, interface: &str) -> u32 {
        self.inside(|| nix::net::if_::if_nametoindex(interface))
            .unwrap()
    }

    fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.run_in(body).unwrap()
    }

    fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(future)
        })
    }

    fn pair(&self, name: &str, other: &Netns, other_name: &str) {
        let peer = other.name();
        self.ip_line(&format!(
            "link add {name} type veth peer name {other_name} netns {peer}"
        ));
        self.ip_line(&format!("link set {name} up"));
        other.ip_line(&format!("link set {other_name} up"));
    }

    fn address(&self, interface: &str, address: &str) {
        self.ip_line(&format!("address add {address} dev {interface}"));
    }

    fn nft(&self, command: &str) -> String {
        let mut nft = self.command("nft");
        nft.arg(command);
        let output = output_within(nft, PATIENCE).unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn netns(label: &str) -> Netns {
    Netns::new(label).unwrap()
}

async fn interface(name: &str) -> Interface {
    let snapshot = snapshot().await.unwrap();
    let interfaces = classify(&snapshot, &RolePatterns::default());
    interfaces
        .into_values()
        .find(|interface| interface.name == name)
        .unwrap()
}

async fn changed(watcher: &mut Watcher) -> Changes {
    tokio::time::timeout(PATIENCE, watcher.changed())
        .await
        .expect("a change in time")
        .unwrap()
}

/// Takes changes until one of routes is among them and the interface has the expected role.
async fn routes_change_role(watcher: &mut Watcher, name: &str, role: Role) {
    let mut routes_changed = false;
    while !routes_changed || interface(name).await.role != role {
        let changes = changed(watcher).await;
        assert!(!changes.overrun, "{changes:?}");
        routes_changed |= changes.routes;
    }
}

#[test]
fn real_links_get_their_roles() {
    let (dut, other) = (netns("dut"), netns("other"));
    for name in ["plain", "routed", "gated", "port", "vport", "wide"] {
        dut.pair(name, &other, name);
    }
    dut.address("routed", "10.1.1.1/24");
    dut.address("gated", "10.1.2.1/24");
    dut.ip_line("route add 10.99.0.0/16 via 10.1.2.2 dev gated");
    dut.address("wide", "10.1.4.1/24");
    dut.ip_line("-6 route add 2000::/3 dev wide");

    dut.ip_line("link add inner type bridge");
    dut.ip_line("link set inner up");
    dut.address("inner", "10.1.3.1/24");
    dut.ip_line("link set port master inner");
    dut.ip_line("tuntap add vm mode tap");
    dut.ip_line("link set vm master inner");

    dut.ip_line("link add vx type vxlan id 7 dstport 4789 local 10.1.1.1");
    dut.ip_line("link add outer type bridge");
    dut.ip_line("link set outer up");
    dut.address("outer", "10.1.5.1/24");
    dut.ip_line("link set vx master outer");
    dut.ip_line("link set vport master outer");

    dut.ip_line("tuntap add tun7 mode tun");
    dut.ip_line("link set tun7 up");
    dut.ip_line("tuntap add tap7 mode tap");
    dut.ip_line("link add mv link plain type macvlan");
    dut.ip_line("link property add dev plain altname a-name-longer-than-fifteen");

    let (snapshot, roles) = dut.block_on(async {
        let snapshot = snapshot().await.unwrap();
        let roles = classify(&snapshot, &RolePatterns::default());
        (snapshot, roles)
    });
    let with_role = |role| -> BTreeSet<_> {
        let interfaces = roles.values().filter(|interface| interface.role == role);
        interfaces
            .map(|interface| interface.name.as_str())
            .collect()
    };
    let local = with_role(Role::Local);
    assert_eq!(
        local,
        BTreeSet::from(["lo", "routed", "port", "vport", "inner", "vm"])
    );
    assert_eq!(with_role(Role::Tunnel), BTreeSet::new());
    let uplinks = with_role(Role::Uplink);
    let expected = [
        "plain", "gated", "wide", "outer", "vx", "tun7", "tap7", "mv",
    ];
    // The kernel may add devices of its own to a namespace (sit0, gre0); all are uplinks.
    assert!(
        uplinks.is_superset(&BTreeSet::from(expected)),
        "{uplinks:?}"
    );

    let tunnels: Vec<_> = visible_tunnels(&snapshot)
        .iter()
        .map(|link| &link.name)
        .collect();
    assert_eq!(tunnels, ["tun7"]);
    let patterns = RolePatterns {
        tunnel: vec!["auto".parse().unwrap()],
        uplink: vec!["a-name-longer*".parse().unwrap(), "routed".parse().unwrap()],
        ..RolePatterns::default()
    };
    let named = classify(&snapshot, &patterns);
    assert_eq!(named[&dut.ifindex("tun7")].role, Role::Tunnel);
    assert_eq!(named[&dut.ifindex("tap7")].role, Role::Uplink);
    assert_eq!(named[&dut.ifindex("routed")].role, Role::Uplink);
    assert_eq!(
        named[&dut.ifindex("plain")].reason,
        "configured as an uplink"
    );
}

#[test]
fn routes_are_not_read_where_no_role_depends_on_them() {
    let dut = netns("dut");
    dut.ip_line("tuntap add tun7 mode tun");
    assert!(dut.block_on(snapshot()).unwrap().routes.is_none());
    dut.ip_line("link add name br0 type bridge");
    assert!(dut.block_on(snapshot()).unwrap().routes.is_some());
}

#[test]
fn the_watcher_reports_what_makes_a_pair_local_and_then_an_uplink() {
    let (dut, other) = (netns("dut"), netns("other"));
    dut.block_on(async {
        let mut watcher = Watcher::new().unwrap();
        dut.pair("pair", &other, "pair");
        let changes = changed(&mut watcher).await;
        assert!(changes.links && !changes.overrun, "{changes:?}");
        assert_eq!(interface("pair").await.role, Role::Uplink);

        dut.address("pair", "10.1.1.1/24");
        routes_change_role(&mut watcher, "pair", Role::Local).await;
        dut.ip_line("route add default via 10.1.1.2");
        routes_change_role(&mut watcher, "pair", Role::Uplink).await;
        dut.ip_line("route del default");
        routes_change_role(&mut watcher, "pair", Role::Local).await;
        dut.ip_line("link del pair");
        while snapshot()
            .await
            .unwrap()
            .links
            .values()
            .any(|link| link.name == "pair")
        {
            changed(&mut watcher).await;
        }
    });
}

#[test]
fn a_gateway_in_a_next_hop_object_is_found() {
    let (dut, other) = (netns("dut"), netns("other"));
    for (name, address) in [("one", "10.1.1.1/24"), ("two", "10.1.2.1/24")] {
        dut.pair(name, &other, name);
        dut.address(name, address);
    }
    // The kernel then lists the id only and not what it stands for.
    dut.inside(|| std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0").unwrap());
    dut.block_on(async {
        let mut watcher = Watcher::new().unwrap();
        assert_eq!(interface("one").await.role, Role::Local);
        dut.ip_line("nexthop add id 1 via 10.1.1.2 dev one");
        dut.ip_line("nexthop add id 2 dev two");
        dut.ip_line("nexthop add id 9 group 1");
        dut.ip_line("route add 10.99.0.0/16 nhid 9");
        dut.ip_line("route add 10.98.0.0/16 nhid 2");
        routes_change_role(&mut watcher, "one", Role::Uplink).await;
        assert_eq!(interface("two").await.role, Role::Local);
    });
}

#[test]
fn a_lost_event_is_reported_as_an_overrun() {
    let dut = netns("dut");
    let routes = |verb: &str| -> String {
        let line = |n: u32| format!("route {verb} 10.{}.{}.0/24 dev lo\n", n / 256, n % 256);
        (0..3000).map(line).collect()
    };
    dut.block_on(async {
        let mut small = Watcher::with_receive_buffer(4096).unwrap();
        let mut large = Watcher::new().unwrap();
        dut.ip_batch(&routes("add")).unwrap();
        let changes = changed(&mut small).await;
        assert!(changes.overrun, "{changes:?}");
        let changes = changed(&mut large).await;
        assert!(changes.routes && !changes.overrun, "control: {changes:?}");

        // It goes on working, and can lose events once more.
        dut.ip_line("route add 10.200.0.0/24 dev lo");
        let changes = changed(&mut small).await;
        assert!(changes.routes && !changes.overrun, "{changes:?}");
        dut.ip_batch(&routes("del")).unwrap();
        assert!(changed(&mut small).await.overrun);
    });
}

/// A client and a server with the device under test between them.
struct Path {
    dut: Netns,
    client: UdpSocket,
    servers: Vec<UdpSocket>,
    /// Where the device under test sends what is for the server.
    exit: &'static str,
    server_address: &'static str,
    client_netns: Netns,
    server_netns: Netns,
}

/// A port that no class has, to tell a packet that is dropped from a path that does not work.
const NEUTRAL: u16 = 9999;

impl Path {
    fn routed() -> Self {
        let path = Self::new(["10.1.0.2/24", "10.2.0.2/24"], "10.2.0.2");
        path.dut.address("c0", "10.1.0.1/24");
        path.dut.address("s0", "10.2.0.1/24");
        path.dut
            .inside(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        path.client_netns.ip_line("route add default via 10.1.0.1");
        path.server_netns.ip_line("route add default via 10.2.0.1");
        path
    }

    fn bridged() -> Self {
        let path = Self::new(["10.3.0.2/24", "10.3.0.3/24"], "10.3.0.3");
        path.dut.ip_line("link add name br0 type bridge");
        path.dut.ip_line("link set br0 up");
        path.dut.ip_line("link set c0 master br0");
        path.dut.ip_line("link set s0 master br0");
        // Where br_netfilter is loaded, bridged packets would pass the inet hooks as well.
        let call = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        path.dut.inside(|| match std::fs::write(call, "0") {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{call}: {error}"),
            _ => {}
        });
        path
    }

    fn new(addresses: [&str; 2], server_address: &'static str) -> Self {
        let (dut, client, server) = (netns("dut"), netns("client"), netns("server"));
        dut.pair("c0", &client, "eth0");
        dut.pair("s0", &server, "eth0");
        client.address("eth0", addresses[0]);
        server.address("eth0", addresses[1]);
        let bind = |port: u16| {
            let socket = UdpSocket::bind((server_address, port)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        Self {
            client: client.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap()),
            servers: server.inside(|| [53, 5353, NEUTRAL].map(bind).into()),
            dut,
            exit: "s0",
            server_address,
            client_netns: client,
            server_netns: server,
        }
    }

    fn server(&self, port: u16) -> &UdpSocket {
        let on_port = |socket: &&UdpSocket| socket.local_addr().unwrap().port() == port;
        self.servers.iter().find(on_port).unwrap()
    }

    /// Whether a datagram to a port arrives. One to a neutral port follows it and must arrive.
    fn passes(&self, port: u16) -> bool {
        let mut buffer = [0; 16];
        for port in [port, NEUTRAL] {
            self.client
                .send_to(b"probe", (self.server_address, port))
                .unwrap();
        }
        self.server(NEUTRAL)
            .recv(&mut buffer)
            .expect("the path works");
        let server = self.server(port);
        server.set_nonblocking(true).unwrap();
        match server.recv(&mut buffer) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn tcp_connects(&self, port: u16) -> bool {
        let address = SocketAddr::new(self.server_address.parse().unwrap(), port);
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300));
        // Nothing listens: an answer is a reset.
        let result = self.client_netns.inside(connect);
        result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }

    fn apply(&self, ruleset: &Ruleset) -> Applied {
        self.dut.block_on(netfilter::apply(ruleset)).unwrap()
    }

    fn permit(&self, ruleset: &mut Ruleset, interfaces: &[(u32, &str, Option<&str>)]) {
        let permitted = interfaces
            .iter()
            .map(|(ifindex, name, kind)| Permitted::new(*ifindex, name, *kind).unwrap());
        ruleset.permitted = permitted.collect();
        self.dut
            .block_on(netfilter::update_interfaces(ruleset))
            .unwrap();
    }

    fn check(&self, counts_of: impl Fn(&netfilter::State) -> u64) {
        assert!(
            self.passes(53) && self.passes(5353),
            "control: without the table it arrives"
        );
        assert!(
            self.tcp_connects(53),
            "control: without the table it arrives"
        );
        assert_eq!(
            self.dut
                .block_on(netfilter::read_back(&mut Listings::default()))
                .unwrap(),
            None
        );

        let mut ruleset = Ruleset::new(Action::Drop, Class::ALL.iter().copied(), &[]);
        assert_eq!(self.apply(&ruleset), Applied::Replaced);
        let state = || {
            self.dut
                .block_on(netfilter::read_back(&mut Listings::default()))
                .unwrap()
                .unwrap()
        };
        assert!(state().satisfies(&ruleset), "{:?}", state());
        assert_eq!(self.apply(&ruleset), Applied::Unchanged);
        assert!(!self.passes(53) && !self.passes(5353));
        assert!(!self.tcp_connects(53));
        let caught = counts_of(&state());
        assert!(caught >= 2, "{caught}");

        let exit = self.dut.ifindex(self.exit);
        let entry = self.dut.ifindex("c0");
        let veth = Some("veth");
        self.permit(&mut ruleset, &[(exit, "other0", veth)]);
        assert!(!self.passes(53), "the number alone is not enough");
        self.permit(&mut ruleset, &[(entry, self.exit, veth)]);
        assert!(!self.passes(53), "the name alone is not enough");
        for kind in [None, Some("tun"), Some("vet"), Some("-")] {
            self.permit(&mut ruleset, &[(exit, self.exit, kind)]);
            assert!(!self.passes(53), "both are not enough: {kind:?}");
        }
        self.permit(&mut ruleset, &[(entry, "c0", veth)]);
        assert!(!self.passes(53), "where it comes from does not matter");
        self.permit(
            &mut ruleset,
            &[
                (1, "lo", None),
                (exit, self.exit, veth),
                (entry, "c0", veth),
                (9999, "gone0", Some("wireguard")),
            ],
        );
        assert!(self.passes(53) && self.passes(5353));
        assert!(state().satisfies(&ruleset), "{:?}", state());
        self.permit(&mut ruleset, &[]);
        assert!(!self.passes(53));

        let before = counts_of(&state());
        ruleset.action = Action::Count;
        assert_eq!(self.apply(&ruleset), Applied::Replaced);
        assert!(self.passes(53));
        assert_eq!(counts_of(&state()), before + 1, "the counter goes on");
        assert_eq!(self.apply(&ruleset), Applied::Unchanged);

        self.dut.block_on(netfilter::remove()).unwrap();
        assert!(self.passes(53));
        assert_eq!(
            self.dut
                .block_on(netfilter::read_back(&mut Listings::default()))
                .unwrap(),
            None
        );
        assert_eq!(self.dut.nft("list ruleset"), "");
        self.dut.block_on(netfilter::remove()).unwrap();
    }
}

#[test]
fn forwarded_dns_leaves_by_permitted_interfaces_only() {
    Path::routed().check(|state| state.inet.as_ref().unwrap().counts[&Reason::Dns].packets);
}

/// Hardware has no kind, and there is none here: the loopback interface is what is left.
#[test]
fn what_has_no_kind_is_permitted_as_such() {
    let path = Path::routed();
    path.dut.ip_line("route add 10.5.0.0/24 dev lo");
    let mut ruleset = Ruleset::new(Action::Drop, [Class::Dns], &[]);
    path.apply(&ruleset);
    let mut is_caught = |interfaces: &[(u32, &str, Option<&str>)]| {
        path.permit(&mut ruleset, interfaces);
        let count = || {
            let state = path
                .dut
                .block_on(netfilter::read_back(&mut Listings::default()))
                .unwrap()
                .unwrap();
            state.inet.unwrap().counts[&Reason::Dns].packets
        };
        let before = count();
        path.client.send_to(b"probe", "10.5.0.9:53").unwrap();
        // Sent behind it, and dropped as well.
        assert!(!path.passes(53));
        match count() - before {
            1 => false,
            2 => true,
            caught => panic!("{caught}"),
        }
    };
    assert!(is_caught(&[]), "control: it is on its way by lo");
    assert!(is_caught(&[(1, "lo", Some("tun"))]));
    assert!(is_caught(&[(1, "lo0", None)]));
    assert!(!is_caught(&[(1, "lo", None)]));
}

#[test]
fn bridged_dns_leaves_by_permitted_interfaces_only() {
    Path::bridged().check(|state| state.bridge.as_ref().unwrap().counts[&Reason::Dns].packets);
}

#[test]
fn a_table_that_somebody_changed_is_noticed_and_replaced() {
    let dut = netns("dut");
    dut.block_on(async {
        let ruleset = Ruleset::new(Action::Drop, [Class::Dns, Class::Dot], &[5300]);
        netfilter::apply(&ruleset).await.unwrap();
        for damage in [
            "insert rule inet leakguard forward accept",
            "flush chain bridge leakguard forward",
            "flush chain inet leakguard let_out",
            "insert rule bridge leakguard let_out accept",
            "add element inet leakguard permitted { 1 . \"lo\" . \"tun\" }",
            "add element inet leakguard permitted_kindless { 1 . \"lo\" }",
            "delete element inet leakguard caught { 5300 }",
            "flush chain inet leakguard judge",
            "delete table bridge leakguard",
        ] {
            dut.nft(damage);
            let state = netfilter::read_back(&mut Listings::default())
                .await
                .unwrap()
                .unwrap();
            assert!(!state.satisfies(&ruleset), "{damage}");
            assert_eq!(
                netfilter::apply(&ruleset).await.unwrap(),
                Applied::Replaced,
                "{damage}"
            );
            assert_eq!(
                netfilter::apply(&ruleset).await.unwrap(),
                Applied::Unchanged,
                "{damage}"
            );
        }
    });
}
