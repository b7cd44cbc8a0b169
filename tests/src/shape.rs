//! What holds for a container, however it is connected.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a helper that fails has to fail its test, and what was counted is for people to read"
)]

use std::net::IpAddr;
use std::time::Duration;

use leakguard::lab::{Observer, Query, WHO_NAME, address, await_route};

use super::{Origin, Transport, Volley, isp};

/// Probes of each kind.
const N: usize = 10;

/// DNS, DNS over TLS and DNS over QUIC.
const DNS: [(Transport, u16); 4] = [
    (Transport::Udp, 53),
    (Transport::Tcp, 53),
    (Transport::Udp, 853),
    (Transport::Tcp, 853),
];

/// What is nobody's DNS.
const OTHERS: [(Transport, u16); 4] = [
    (Transport::Udp, 443),
    (Transport::Tcp, 443),
    (Transport::Udp, 8080),
    (Transport::Tcp, 8080),
];

/// A container, and which families it has.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'lab> {
    /// What it is called in what is printed.
    pub name: &'lab str,
    /// The container.
    pub origin: Origin<'lab>,
    /// 0 for IPv4, 1 for IPv6.
    pub families: &'lab [usize],
}

impl Shape<'_> {
    /// The control: all of its DNS, and all else, is seen outside.
    #[track_caller]
    pub fn leaks(&self, observer: &mut Observer, when: &str) {
        self.expect(observer, when, N);
    }

    /// None of its DNS is seen outside, and all else is.
    #[track_caller]
    pub fn is_kept_in(&self, observer: &mut Observer, when: &str) {
        self.expect(observer, when, 0);
    }

    #[track_caller]
    fn expect(&self, observer: &mut Observer, when: &str, dns: usize) {
        let Self { name, families, .. } = self;
        let mut sums = [(0, 0); 2];
        for &family in *families {
            // With every neighbour known, nothing waits for one while the fence goes ahead.
            await_route(self.origin.netns, isp(family, 0).ip()).unwrap();
            for (sum, kinds, expected) in [(0, DNS, dns), (1, OTHERS, N)] {
                for (transport, port) in kinds {
                    let target = isp(family, port);
                    let volley = Volley::send(self.origin, transport, target, N);
                    let frames =
                        observer
                            .drain_past_fence(self.origin.netns)
                            .unwrap_or_else(|error| {
                                panic!("{name}, {when}: {transport:?} to {target}: {error}")
                            });
                    assert_eq!(observer.lost().unwrap(), 0, "the capture is complete");
                    let seen = volley.seen_translated(&frames);
                    assert_eq!(seen, expected, "{name}, {when}: {transport:?} to {target}");
                    sums[sum].0 += seen;
                    sums[sum].1 += N;
                }
            }
        }
        let [(dns, dns_sent), (others, others_sent)] = sums;
        println!(
            "{name}, {when}: seen outside {dns} of {dns_sent} DNS, {others} of {others_sent} others"
        );
    }

    /// It resolves through the tunnel, over UDP and TCP.
    #[track_caller]
    pub fn resolves_through_the_tunnel(&self) {
        let resolvers: [IpAddr; 2] = [
            address::TUNNEL_RESOLVER_V4.into(),
            address::TUNNEL_RESOLVER_V6.into(),
        ];
        for &family in self.families {
            self.hears(resolvers[family], "vpn");
        }
    }

    /// A server answers it with `who`, over UDP and TCP.
    #[track_caller]
    pub fn hears(&self, server: IpAddr, who: &str) {
        let query = Query::new(server, WHO_NAME, "TXT");
        for query in [query.clone(), query.over_tcp()] {
            let lookup = query.run(self.origin.netns, self.origin.cgroup).unwrap();
            let line = query.command_line();
            assert!(lookup.is(who), "{}: {line}: {lookup:?}", self.name);
        }
    }

    /// No server there answers it, over UDP or TCP.
    #[track_caller]
    pub fn is_refused(&self, server: IpAddr) {
        let query = Query::new(server, WHO_NAME, "TXT").timeout(Duration::from_secs(1));
        for query in [query.clone(), query.over_tcp()] {
            let lookup = query.run(self.origin.netns, self.origin.cgroup).unwrap();
            let line = query.command_line();
            let none: [&str; 0] = [];
            assert_eq!(lookup.answers, none, "{}: {line}: {lookup:?}", self.name);
        }
    }
}
