//! `cgroup_skb/egress`: packets of local sockets, at the interface they leave by.

use core::ffi::c_void;

use aya_ebpf::Global;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_probe_read_kernel,
};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use leakguard_common::abi::{Event, Hook, LOOPBACK_IFINDEX, Role, SOCKET_HEAD, Settings};
use leakguard_common::packet::{LinkLayer, Packet, protocol};

use super::context::Skb;
use super::gate::{self, Gate, judge, steps};
use super::maps::{LOCALS, TUNNELS};

/// Offset of `skc_net` in `struct sock_common`; from the kernel's BTF.
#[unsafe(no_mangle)]
static SKC_NET_OFFSET: Global<u32> = Global::new(0);

/// Offset of `ns.inum` in `struct net`; from the kernel's BTF.
#[unsafe(no_mangle)]
static NET_INUM_OFFSET: Global<u32> = Global::new(0);

/// For kernels where `cgroup_skb` may ask for the namespace's cookie and for the current task (6.18 may, 6.12
/// may not).
#[cgroup_skb(egress)]
pub(super) fn egress_cookie(context: SkBuffContext) -> i32 {
    judge::<ByCookie>(Skb::new(context.skb.skb))
}

/// For older kernels: the namespace's inode, read from the socket (5.10 and later).
#[cgroup_skb(egress)]
pub(super) fn egress_inode(context: SkBuffContext) -> i32 {
    judge::<ByInode>(Skb::new(context.skb.skb))
}

/// How a variant recognises the managed namespace, and what it can say of the sender.
trait Identity {
    /// Whether the sending socket lives in the managed namespace; true when in doubt.
    fn is_managed(skb: Skb, settings: &Settings) -> bool;

    /// Writes what it knows of the sender into an event.
    fn sign(packet: &Packet, settings: &Settings, event: &mut Event);
}

struct ByCookie;

impl Identity for ByCookie {
    #[inline(always)]
    fn is_managed(skb: Skb, settings: &Settings) -> bool {
        // SAFETY: the helper takes the program's own context.
        let cookie = unsafe { bpf_get_netns_cookie(skb.as_ptr().cast()) };
        settings.netns_cookie == 0 || settings.netns_cookie == cookie
    }

    #[inline(always)]
    fn sign(packet: &Packet, settings: &Settings, event: &mut Event) {
        event.netns_cookie = settings.netns_cookie;
        // TCP also sends from softirq, on whichever task's CPU that happens to be.
        if packet.protocol != protocol::TCP {
            // SAFETY: no arguments.
            event.pid = unsafe { bpf_get_current_pid_tgid() >> 32 } as u32;
            // SAFETY: the buffer is 16 writable bytes, which the helper fills, or clears if it fails.
            unsafe { bpf_get_current_comm(event.comm.as_mut_ptr().cast(), 16) };
        }
    }
}

struct ByInode;

impl ByInode {
    /// The inode of the socket's namespace, if it can be read.
    #[inline(always)]
    fn inode(skb: Skb) -> Option<u32> {
        // SAFETY: a context field; the verifier checks the access.
        let socket = unsafe { (*skb.as_ptr()).__bindgen_anon_2.sk };
        if socket.is_null() {
            return None;
        }
        // The verifier refuses arithmetic on a socket pointer, so the head is copied and looked into.
        let mut head = [0_u64; SOCKET_HEAD / 8];
        // SAFETY: `head` is SOCKET_HEAD writable bytes; the helper fails on a source that cannot be read.
        let result = unsafe {
            bpf_probe_read_kernel(head.as_mut_ptr().cast(), SOCKET_HEAD as u32, socket.cast())
        };
        if result != 0 {
            return None;
        }
        let net = *head.get(SKC_NET_OFFSET.load() as usize / 8)?;
        let inum = net.wrapping_add(u64::from(NET_INUM_OFFSET.load())) as *const c_void;
        let mut inode = 0_u32;
        // SAFETY: `inode` is 4 writable bytes; the helper fails on a source that cannot be read.
        let result = unsafe { bpf_probe_read_kernel((&raw mut inode).cast(), 4, inum) };
        (result == 0).then_some(inode)
    }
}

impl Identity for ByInode {
    #[inline(always)]
    fn is_managed(skb: Skb, settings: &Settings) -> bool {
        match Self::inode(skb) {
            Some(inode) => settings.netns_inode == 0 || settings.netns_inode == inode,
            None => true,
        }
    }

    #[inline(always)]
    fn sign(_packet: &Packet, settings: &Settings, event: &mut Event) {
        event.netns_cookie = settings.netns_cookie;
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

            #[inline(always)]
            fn sign(packet: &Packet, settings: &Settings, event: &mut Event) {
                <$gate as Identity>::sign(packet, settings, event);
            }

            steps!($gate, $($step),+);
        }
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
