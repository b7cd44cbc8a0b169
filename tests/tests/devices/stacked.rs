//! Devices over the uplink, or beside it: DNS that leaves by one is dropped there, once.

use leakguard::lab::{Directions, Netns, Observer, Topology, address, wait_until};
use leakguard_tests::{Bench, PacketSocket, Place, Transport, interface, isp};

use crate::{FAMILIES, N, among, created, dropped, payloads};

const ETHERTYPE_IPV4: u16 = 0x0800;
const LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// A device of the host, and how its other end is made at the ISP.
struct Stacked {
    /// What it is called in what is printed.
    name: &'static str,
    /// Where packets leave by.
    exit: &'static str,
    /// The ISP's end of it; none where packets lead nowhere.
    far: Option<&'static str>,
    /// Command lines of `ip`.
    host: String,
    isp: String,
}

/// A VLAN of the uplink.
fn vlan() -> Stacked {
    Stacked {
        name: "vlan",
        exit: "vlan5",
        far: Some("vlan5"),
        host: "link add link eth0 name vlan5 type vlan id 5\n".to_owned(),
        isp: "link add link host0 name vlan5 type vlan id 5\n".to_owned(),
    }
}

/// A VLAN of another one.
fn vlan_in_vlan() -> Stacked {
    let lines = |port: &str| {
        format!(
            "link add link {port} name outer7 type vlan proto 802.1ad id 7\n\
             link set outer7 up\n\
             link add link outer7 name inner8 type vlan id 8\n"
        )
    };
    Stacked {
        name: "vlan in vlan",
        exit: "inner8",
        far: Some("inner8"),
        host: lines("eth0"),
        isp: lines("host0"),
    }
}

/// A tunnel of Ethernet frames between the host and the ISP.
fn overlay(kind: &'static str, exit: &'static str, options: &str) -> Stacked {
    let [near, far] = ["192.168.77.10", "192.168.77.1"];
    let ends = |local: &str, remote: &str| {
        // Geneve finds its local address itself.
        let local = if kind == "geneve" {
            String::new()
        } else {
            format!("local {local}")
        };
        format!("link add {exit} type {kind} {options} {local} remote {remote}\n")
    };
    Stacked {
        name: kind,
        exit,
        far: Some(exit),
        host: ends(near, far),
        isp: ends(far, near),
    }
}

/// Encryption of the link, with keys that both ends know.
fn macsec(bench: &Bench) -> Stacked {
    let topology = &bench.topology;
    let near = hardware_address(topology.host(), Topology::UPLINK);
    let far = hardware_address(topology.isp(), Topology::OBSERVED);
    let [first, second] = [1, 2].map(|number| format!("{number:032x}"));
    let end = |port: &str, peer: &str, own_key: &str, peer_key: &str| {
        format!(
            "link add link {port} name macsec0 type macsec encrypt on\n\
             macsec add macsec0 tx sa 0 pn 1 on key 01 {own_key}\n\
             macsec add macsec0 rx port 1 address {peer}\n\
             macsec add macsec0 rx port 1 address {peer} sa 0 pn 1 on key 02 {peer_key}\n"
        )
    };
    Stacked {
        name: "macsec",
        exit: "macsec0",
        far: Some("macsec0"),
        host: end("eth0", &far, &first, &second),
        isp: end("host0", &near, &second, &first),
    }
}

/// A cable of its own to the ISP, by way of a bond or out of a VRF.
fn cable(bench: &Bench, name: &'static str, port: &'static str, device: &str) -> String {
    format!(
        "link add {port} type veth peer name far-{name} netns {}\n\
         {device}\
         link set {port} up\n",
        bench.topology.isp().name()
    )
}

fn all(bench: &Bench) -> Vec<Stacked> {
    vec![
        vlan(),
        vlan_in_vlan(),
        overlay("vxlan", "vxlan0", "id 42 dstport 4789"),
        overlay("geneve", "geneve0", "id 43"),
        overlay("gretap", "tap7", ""),
        macsec(bench),
        // On the VLAN: on the uplink, MACsec is before it.
        Stacked {
            name: "ipvlan",
            exit: "ipvlan0",
            far: Some("vlan5"),
            host: "link add link vlan5 name ipvlan0 type ipvlan mode l2\n".to_owned(),
            isp: String::new(),
        },
        Stacked {
            name: "bond",
            exit: "bond5",
            far: Some("far-bond"),
            host: cable(
                bench,
                "bond",
                "bond5p",
                "link add bond5 type bond mode active-backup miimon 100\n\
                 link set bond5p master bond5\n",
            ),
            isp: String::new(),
        },
        Stacked {
            name: "vrf",
            exit: "vrf5p",
            far: Some("far-vrf"),
            host: cable(
                bench,
                "vrf",
                "vrf5p",
                "link add vrf5 type vrf table 55\n\
                 link set vrf5 up\n\
                 link set vrf5p master vrf5\n",
            ),
            isp: String::new(),
        },
        Stacked {
            name: "dummy",
            exit: "dummy5",
            far: None,
            host: "link add dummy5 type dummy\n".to_owned(),
            isp: String::new(),
        },
    ]
}

fn hardware_address(netns: &Netns, device: &str) -> String {
    let shown = netns.ip(&["-o", "link", "show", device]).unwrap();
    let mut words = shown.split_whitespace();
    words.find(|word| *word == "link/ether").unwrap();
    words.next().unwrap().to_owned()
}

fn await_carrier(netns: &Netns, device: &str) {
    wait_until(&format!("{device} has a carrier"), LIMIT, || {
        let shown = netns.ip(&["-o", "link", "show", device])?;
        Ok(shown.contains("LOWER_UP"))
    })
    .unwrap();
}

impl Stacked {
    /// Makes both ends, with addresses.
    fn make(&self, bench: &Bench, number: usize) {
        let Self {
            name, exit, far, ..
        } = self;
        let (host, isp) = (bench.topology.host(), bench.topology.isp());
        created(name, host.ip_batch(&self.host));
        created(name, isp.ip_batch(&self.isp));
        let address = |device: &str, last: u8| {
            format!(
                "link set {device} up\n\
                 addr add 10.90.{number}.{last}/24 dev {device}\n\
                 addr add fd90:{number}::{last}/64 dev {device} nodad\n"
            )
        };
        host.ip_batch(&address(exit, 1)).unwrap();
        let Some(far) = far else { return };
        isp.ip_batch(&address(far, 2)).unwrap();
        await_carrier(host, exit);
        // Nothing waits for a neighbour while the fence goes ahead; and out of a VRF nobody could be asked.
        let neighbour = hardware_address(isp, far);
        host.ip_batch(&format!(
            "neigh replace 10.90.{number}.2 lladdr {neighbour} dev {exit} nud permanent\n\
             neigh replace fd90:{number}::2 lladdr {neighbour} dev {exit} nud permanent\n"
        ))
        .unwrap();
    }

    /// Leads everything for the ISP's resolver out by it, and looks at the other end from now on.
    fn lead(&self, bench: &mut Bench, number: usize) {
        let Self { exit, far, .. } = self;
        let (host, isp) = (bench.topology.host(), bench.topology.isp());
        host.ip_batch(&format!(
            "route replace {}/32 via 10.90.{number}.2 dev {exit}\n\
             route replace {}/128 via fd90:{number}::2 dev {exit}\n",
            address::ISP_RESOLVER_V4,
            address::ISP_RESOLVER_V6,
        ))
        .unwrap();
        let observer = match far {
            Some(far) => Observer::new(isp, far, Directions::Incoming),
            // What it has swallowed is seen on the way into it only.
            None => Observer::new(host, exit, Directions::Both),
        };
        bench.observer = observer.unwrap();
    }

    /// How many of the probes that the kernel is given for this device leave by it, of local and forwarded datagrams in
    /// both families, and of frames; each in the order in which it was sent.
    fn seen(&self, bench: &mut Bench) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        for place in [Place::Host, Place::Client] {
            for family in FAMILIES {
                let seen = bench.seen(place, Transport::Udp, isp(family, 53), N);
                found.push((format!("{place:?}, family {family}"), seen));
            }
        }
        let payloads = payloads(self.name);
        let socket = PacketSocket::raw(bench.origin(Place::Host), self.exit);
        for payload in &payloads {
            let mut frame = Vec::new();
            etherparse::PacketBuilder::ethernet2([2; 6], [0xff; 6])
                .ipv4(
                    address::HOST_V4.octets(),
                    address::ISP_RESOLVER_V4.octets(),
                    64,
                )
                .udp(40_000, 53)
                .write(&mut frame, payload)
                .unwrap();
            // Where it is dropped, the sender is told.
            let _refused = socket.send(ETHERTYPE_IPV4, &frame);
        }
        let frames = bench.frames(Place::Host);
        found.push(("frames".to_owned(), among(&frames, &payloads)));
        found
    }
}

#[test]
fn dns_over_every_kind_of_device_is_dropped_there_and_counted_once() {
    let mut bench = Bench::new();
    let devices = all(&bench);
    for (number, device) in devices.iter().enumerate() {
        device.make(&bench, number);
    }
    for (number, device) in devices.iter().enumerate() {
        device.lead(&mut bench, number);
        for (what, seen) in device.seen(&mut bench) {
            assert_eq!(seen, N, "control: {}: {what}", device.name);
        }
    }

    bench.protect(&[]);
    for (number, device) in devices.iter().enumerate() {
        device.lead(&mut bench, number);
        wait_until("the way out is an uplink", LIMIT, || {
            let status = bench.agent().status_json()?;
            let exit = interface(&status, device.exit).unwrap();
            Ok(exit["role"] == "uplink" && exit["tc"] != "absent")
        })
        .unwrap();
        let before = dropped(&mut bench);
        let seen = device.seen(&mut bench);
        let sent = N * seen.len();
        for (what, seen) in seen {
            assert_eq!(seen, 0, "{}: {what}", device.name);
        }
        let counted = dropped(&mut bench) - before;
        println!("measured: {}: {counted} of {sent} counted", device.name);
        assert_eq!(counted, sent as u64, "{}: each once", device.name);
    }
}
