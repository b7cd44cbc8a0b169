//! `IPsec` by policy, without a device: what it encrypts leaves by the uplink.

use leakguard::lab::{Directions, Frame, Netns, Observer, address};
use leakguard_tests::{Bench, Place, isp};

use crate::{N, among, created, dropped, payloads};

const ESP: u8 = 50;
/// Of both directions and both ends: a key of 16 bytes and the salt.
const KEY: &str = "0x000102030405060708090a0b0c0d0e0f10111213";

/// How the gateway is reached: from the host to the VPN server.
fn state(netns: &Netns) {
    let [near, far] = [address::HOST_V4, address::VPN_SERVER_V4].map(|end| end.to_string());
    let mut words = vec!["xfrm", "state", "add", "src", &near, "dst", &far];
    words.extend([
        "proto", "esp", "spi", "0x100", "reqid", "1", "mode", "tunnel",
    ]);
    words.extend(["aead", "rfc4106(gcm(aes))", KEY, "128"]);
    created("IPsec", netns.ip(&words));
}

/// What comes from this address for the ISP's resolver is to be encrypted, or comes encrypted.
fn policy(netns: &Netns, from: &str, direction: &str) {
    let [near, far] = [address::HOST_V4, address::VPN_SERVER_V4].map(|end| end.to_string());
    let to = address::ISP_RESOLVER_V4.to_string();
    let mut words = vec!["xfrm", "policy", "add", "src", from, "dst", &to];
    words.extend(["dir", direction, "tmpl", "src", &near, "dst", &far]);
    words.extend(["proto", "esp", "reqid", "1", "mode", "tunnel"]);
    created("IPsec", netns.ip(&words));
}

/// Sends questions to the ISP's resolver; what their payloads were.
fn ask(bench: &Bench, place: Place, what: &str) -> Vec<Vec<u8>> {
    let payloads = payloads(&format!("{what} {place:?}"));
    let target = isp(0, 53);
    let socket = bench.origin(place).udp(target.ip());
    for payload in &payloads {
        // Where it is dropped, the sender is told.
        drop(socket.send_to(payload, target));
    }
    payloads
}

#[test]
fn what_a_policy_encrypts_passes_and_what_none_does_is_dropped() {
    let mut bench = Bench::new();
    let places = [
        (Place::Host, address::HOST_V4.to_string()),
        (Place::Client, address::CLIENT_V4.to_string()),
    ];
    for (place, _) in &places {
        let payloads = ask(&bench, *place, "open");
        assert_eq!(among(&bench.frames(*place), &payloads), N, "control");
    }
    bench.protect(&[]);
    for (place, _) in &places {
        let before = dropped(&mut bench);
        let payloads = ask(&bench, *place, "dropped");
        assert_eq!(among(&bench.frames(*place), &payloads), 0, "{place:?}");
        assert_eq!(dropped(&mut bench) - before, N as u64, "each once");
    }

    let (host, vpn) = (bench.topology.host(), bench.topology.vpn());
    for netns in [host, vpn] {
        state(netns);
    }
    for (_, from) in &places {
        policy(host, from, "out");
        policy(vpn, from, "fwd");
    }
    // The gateway decrypts, and sends it on to the resolver.
    let mut behind = Observer::new(bench.topology.isp(), "vpn0", Directions::Incoming).unwrap();
    for (place, _) in &places {
        let payloads = ask(&bench, *place, "by policy");
        // The marks that show that all has come through are encrypted, too.
        let decrypted = behind.drain_past_fence(bench.netns(*place)).unwrap();
        assert_eq!(among(&decrypted, &payloads), N, "{place:?}");
        let outside = bench.observer.drain().unwrap();
        assert_eq!(among(&outside, &payloads), 0, "{place:?}");
        let wrapped = outside.iter().filter_map(|bytes| Frame::parse(bytes));
        let wrapped = wrapped.filter(|frame| frame.protocol == ESP);
        assert!(wrapped.count() >= N, "{place:?}: in ESP");
    }
    assert_eq!(bench.observer.lost().unwrap(), 0);
}
