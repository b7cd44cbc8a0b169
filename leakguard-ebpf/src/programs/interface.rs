//! TC egress of an uplink: forwarded and bridged packets, and packet sockets.
//!
//! Attached means uplink: the program looks up no interface number, so that a device which was moved to another
//! namespace with the program still on it is not mistaken for whoever has its number here.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use leakguard_common::abi::{Hook, Role, Settings};
use leakguard_common::packet::{LinkLayer, Packet};

use super::context::Skb;
use super::gate::{self, Alone, Gate, Steps, alone, judge, judge_alone, judge_closely, steps};

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: the next program decides; anything else would end the chain for others.
const NEXT: i32 = -1;
/// `TCX_DROP` and `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// For devices whose frames start with an Ethernet header.
#[classifier]
pub(super) fn tc_ethernet(context: TcContext) -> i32 {
    judge::<Ethernet>(Skb::new(context.skb.skb))
}

/// For devices whose packets start with an IP header.
#[classifier]
pub(super) fn tc_ip(context: TcContext) -> i32 {
    judge::<Ip>(Skb::new(context.skb.skb))
}

/// For devices of a type that leakguard does not know: dropped if it is DNS either way.
#[classifier]
pub(super) fn tc_any(context: TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match judge::<Ethernet>(skb) {
        NEXT => judge::<Unknown>(skb),
        verdict => verdict,
    }
}

/// As [`tc_ethernet`], for kernels that refuse it: by headers alone.
#[classifier]
pub(super) fn tc_lean_ethernet(context: TcContext) -> i32 {
    judge_alone::<Ethernet>(Skb::new(context.skb.skb))
}

/// As [`tc_ip`], for kernels that refuse it.
#[classifier]
pub(super) fn tc_lean_ip(context: TcContext) -> i32 {
    judge_alone::<Ip>(Skb::new(context.skb.skb))
}

/// As [`tc_any`], for kernels that refuse it. Two short ways leave no room on the stack for the steps behind them (512 bytes).
#[classifier]
pub(super) fn tc_lean_any(context: TcContext) -> i32 {
    let skb = Skb::new(context.skb.skb);
    match judge_closely::<Ethernet>(skb) {
        NEXT => judge_closely::<Unknown>(skb),
        verdict => verdict,
    }
}

struct Ethernet;
struct Ip;
struct Unknown;

macro_rules! uplink {
    ($gate:ident, $($step:ident),+) => {
        impl Gate for $gate {
            const HOOK: Hook = Hook::Tc;
            const LINK: LinkLayer = LinkLayer::$gate;
            const PASS: i32 = NEXT;
            const DROP: i32 = DROP;

            #[inline(always)]
            fn role(_skb: Skb, _settings: &Settings) -> Option<Role> {
                Some(Role::Uplink)
            }

            // Packet sockets send where their process is; what comes in by an interface is sent by whoever is at hand.
            #[inline(always)]
            fn is_current(skb: Skb, _packet: &Packet) -> bool {
                skb.ingress_ifindex() == 0 && skb.is_of_packet_socket()
            }

            #[inline(always)]
            fn netns_cookie(_skb: Skb) -> u64 {
                0
            }
        }

        steps!($gate, $($step),+);
    };
}

uplink!(
    Ethernet,
    ethernet_headers,
    ethernet_inside,
    ethernet_payload,
    ethernet_conclude
);
uplink!(Ip, ip_headers, ip_inside, ip_payload, ip_conclude);
uplink!(
    Unknown,
    unknown_headers,
    unknown_inside,
    unknown_payload,
    unknown_conclude
);

alone!(Ethernet, ethernet_headers_alone, ethernet_conclude_alone);
alone!(Ip, ip_headers_alone, ip_conclude_alone);
alone!(Unknown, unknown_headers_alone, unknown_conclude_alone);
