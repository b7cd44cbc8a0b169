//! `cgroup_skb/egress`: packets of local sockets, at the interface they leave by.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use leakguard_common::abi::{Hook, LOOPBACK_IFINDEX, Role, Settings};
use leakguard_common::packet::{LinkLayer, Packet, protocol};

use super::context::Skb;
use super::gate::{self, Alone, Gate, Steps, alone, judge, judge_alone, steps};
use super::maps::{LOCALS, TUNNELS};
use super::netns;

/// For kernels where `cgroup_skb` may ask for the namespace's cookie and for the current task (6.18 may, 6.12
/// may not).
#[cgroup_skb(egress)]
pub(super) fn egress_cookie(context: SkBuffContext) -> i32 {
    judge::<ByCookie>(Skb::new(context.skb.skb))
}

/// For older kernels: the namespace's inode, read from the socket.
#[cgroup_skb(egress)]
pub(super) fn egress_inode(context: SkBuffContext) -> i32 {
    judge::<ByInode>(Skb::new(context.skb.skb))
}

/// For kernels that refuse both of those: by headers alone.
#[cgroup_skb(egress)]
pub(super) fn egress_lean(context: SkBuffContext) -> i32 {
    judge_alone::<ByInode>(Skb::new(context.skb.skb))
}

/// How a variant recognises the managed namespace, and what it can say of the sender.
trait Identity {
    /// Whether the sending socket lives in the managed namespace; true when in doubt.
    fn is_managed(skb: Skb, settings: &Settings) -> bool;

    /// The cookie of its namespace; 0 if this kernel does not say.
    fn netns_cookie(skb: Skb) -> u64;
}

struct ByCookie;

impl Identity for ByCookie {
    #[inline(always)]
    fn is_managed(skb: Skb, settings: &Settings) -> bool {
        netns::is_managed_by_cookie(skb.as_ptr().cast(), settings)
    }

    #[inline(always)]
    fn netns_cookie(skb: Skb) -> u64 {
        netns::cookie(skb.as_ptr().cast())
    }
}

struct ByInode;

impl Identity for ByInode {
    #[inline(always)]
    fn is_managed(skb: Skb, settings: &Settings) -> bool {
        // SAFETY: a context field; the verifier checks the access.
        let socket = unsafe { (*skb.as_ptr()).__bindgen_anon_2.sk };
        netns::is_managed_by_inode(socket, settings)
    }

    #[inline(always)]
    fn netns_cookie(_skb: Skb) -> u64 {
        0
    }
}

macro_rules! egress {
    ($gate:ident, $($step:ident),+) => {
        impl Gate for $gate {
            const HOOK: Hook = Hook::CgroupSkb;
            const LINK: LinkLayer = LinkLayer::Ip;
            const PASS: i32 = 1;
            const DROP: i32 = 0;

            #[inline(always)]
            fn role(skb: Skb, settings: &Settings) -> Option<Role> {
                $gate::is_managed(skb, settings).then(|| role(skb.ifindex()))
            }

            // TCP also sends from softirq, on whichever task's CPU that happens to be.
            #[inline(always)]
            fn is_current(_skb: Skb, packet: &Packet) -> bool {
                packet.protocol != protocol::TCP
            }

            #[inline(always)]
            fn netns_cookie(skb: Skb) -> u64 {
                <$gate as Identity>::netns_cookie(skb)
            }
        }

        steps!($gate, $($step),+);
    };
}

egress!(
    ByCookie,
    cookie_headers,
    cookie_inside,
    cookie_payload,
    cookie_conclude
);
egress!(
    ByInode,
    inode_headers,
    inode_inside,
    inode_payload,
    inode_conclude
);

alone!(ByInode, lean_headers, lean_conclude);

/// The role of an interface of the managed namespace; unknown ones are uplinks.
#[inline(always)]
fn role(ifindex: u32) -> Role {
    if ifindex == LOOPBACK_IFINDEX || LOCALS.get(ifindex).is_some() {
        Role::Local
    } else if TUNNELS.get(ifindex).is_some() {
        Role::Tunnel
    } else {
        Role::Uplink
    }
}
