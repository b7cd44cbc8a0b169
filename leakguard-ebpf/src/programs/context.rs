//! One view of `__sk_buff` for both program types.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_get_socket_uid, bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id,
    bpf_skb_cgroup_id, bpf_skb_load_bytes,
};
use leakguard_common::abi::{Event, Settings};
use leakguard_common::packet::{LinkLayer, PacketBytes, Truncated};
use leakguard_common::plain::{Rest, is_other_ipv4, is_other_ipv6};
use leakguard_common::server_name::{DATA_OFFSET, HELLO_HEAD, is_hello_head, tcp_header_len};
use leakguard_common::sieve::Place;

use super::maps::DOH_SIEVE;

/// A packet in a hook, read only.
#[derive(Clone, Copy)]
pub(super) struct Skb {
    skb: *mut __sk_buff,
}

impl Skb {
    /// Wraps the context of a program that runs now.
    #[inline(always)]
    pub(super) fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    #[inline(always)]
    pub(super) fn as_ptr(self) -> *mut __sk_buff {
        self.skb
    }

    #[inline(always)]
    fn context(self) -> *mut c_void {
        self.skb.cast()
    }

    /// The exit interface's number, in the namespace of the sender.
    #[inline(always)]
    pub(super) fn ifindex(self) -> u32 {
        // SAFETY: the kernel hands a valid context, and the verifier checks each field access.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    pub(super) fn ingress_ifindex(self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb).ingress_ifindex }
    }

    #[inline(always)]
    pub(super) fn len(self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb).len }
    }

    /// How many packets will leave: GSO segments are cut after both hooks.
    #[inline(always)]
    pub(super) fn segments(self) -> u32 {
        // SAFETY: as in `ifindex`.
        let segments = unsafe { (*self.skb).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    /// 0 if the packet has no socket.
    #[inline(always)]
    pub(super) fn socket_cookie(self) -> u64 {
        // SAFETY: the helper takes the program's own context.
        unsafe { bpf_get_socket_cookie(self.context()) }
    }

    /// 0 if the packet has no socket.
    #[inline(always)]
    pub(super) fn cgroup_id(self) -> u64 {
        // SAFETY: the helper takes the program's own context.
        unsafe { bpf_skb_cgroup_id(self.skb) }
    }

    /// The packet's socket, if it has one that is not of a connection that is only half open.
    #[inline(always)]
    pub(super) fn socket(self) -> Option<*mut bpf_sock> {
        // SAFETY: as in `ifindex`.
        let socket = unsafe { (*self.skb).__bindgen_anon_2.sk };
        if socket.is_null() {
            return None;
        }
        // SAFETY: the helper takes a socket that is not null.
        let socket = unsafe { bpf_sk_fullsock(socket) };
        if socket.is_null() { None } else { Some(socket) }
    }

    /// Whether the packet comes from a packet socket.
    #[inline(always)]
    pub(super) fn is_of_packet_socket(self) -> bool {
        /// `include/linux/socket.h`
        const AF_PACKET: u32 = 17;

        match self.socket() {
            // SAFETY: not null; the verifier checks the access.
            Some(socket) => unsafe { (*socket).family == AF_PACKET },
            None => false,
        }
    }

    /// The packet's mark: its socket's, unless somebody with `CAP_NET_ADMIN` has set another.
    #[inline(always)]
    pub(super) fn mark(self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb).mark }
    }

    /// The cgroup that the sending socket is in or below, at a depth; 0 if there is none.
    #[inline(always)]
    pub(super) fn ancestor_cgroup_id(self, level: u32) -> u64 {
        // SAFETY: the helper takes the program's own context.
        unsafe { bpf_skb_ancestor_cgroup_id(self.skb, level.cast_signed()) }
    }

    /// The socket's owner, or [`Event::NO_UID`].
    #[inline(always)]
    pub(super) fn uid(self, has_socket: bool) -> u32 {
        if has_socket {
            // SAFETY: the helper takes the program's own context.
            unsafe { bpf_get_socket_uid(self.skb) }
        } else {
            Event::NO_UID
        }
    }

    /// Whether the packet may leave by every interface by its first bytes alone; `false` where those do not say, or are
    /// not in the linear part.
    #[inline(always)]
    pub(super) fn is_plainly_other(
        self,
        link: LinkLayer,
        settings: &Settings,
        engaged: bool,
    ) -> bool {
        match link {
            // More than the one byte: LLVM compares that with the end so that the verifier learns nothing of it.
            LinkLayer::Ip | LinkLayer::Unknown => match self.direct::<20>(0) {
                Some([first, ..]) if first >> 4 == 4 => self.is_plain_ipv4(0, settings, engaged),
                Some(_) => self.is_plain_ipv6(0, settings, engaged),
                None => false,
            },
            LinkLayer::Ethernet => match self.direct(12) {
                Some([0x08, 0x00]) => self.is_plain_ipv4(14, settings, engaged),
                Some([0x86, 0xdd]) => self.is_plain_ipv6(14, settings, engaged),
                _ => false,
            },
        }
    }

    #[inline(always)]
    fn is_plain_ipv4(self, network: usize, settings: &Settings, engaged: bool) -> bool {
        match self.direct(network) {
            Some(head) => is_other_ipv4(head, settings, engaged, &self.behind(network, 20)),
            None => false,
        }
    }

    #[inline(always)]
    fn is_plain_ipv6(self, network: usize, settings: &Settings, engaged: bool) -> bool {
        match self.direct(network) {
            Some(head) => is_other_ipv6(head, settings, engaged, &self.behind(network, 40)),
            None => false,
        }
    }

    #[inline(always)]
    fn behind(self, network: usize, header: usize) -> Linear {
        Linear {
            skb: self,
            network,
            transport: network + header,
        }
    }

    /// `N` bytes from an offset on, where they are in the linear part of the packet.
    #[inline(always)]
    fn direct<'packet, const N: usize>(self, offset: usize) -> Option<&'packet [u8; N]> {
        // SAFETY: as in `ifindex`.
        let (data, end) = unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) };
        let start = data + offset;
        if start + N > end {
            return None;
        }
        // SAFETY: these bytes lie within the packet, which the verifier checks by the comparison above; nobody
        // writes to it while the program runs.
        Some(unsafe { &*(start as *const [u8; N]) })
    }

    /// Copies up to `N` bytes from `offset` on; says how many.
    ///
    /// `scratch` is memory that the verifier does not follow (a reserved record), and the length takes its way
    /// through it on purpose: were it computed from `offset` in registers, the verifier would have to tell every
    /// path through the parser apart, and walk more than a million instructions.
    ///
    /// It is the number of the last byte that takes that way. Verifiers before 6.8 learn nothing from a comparison
    /// with 0, but they do know that one more than something is not 0; in 64 bits, because they forget it when a
    /// sum is cut to 16.
    #[inline(always)]
    pub(super) fn copy<const N: usize>(
        self,
        offset: u32,
        into: *mut [u8; N],
        scratch: *mut u64,
    ) -> u16 {
        let rest = self.len().saturating_sub(offset);
        let rest = if rest > N as u32 { N as u32 } else { rest };
        // SAFETY: `scratch` is writable, as the caller promises and the verifier checks.
        let last = unsafe {
            scratch.write_volatile(u64::from(rest).wrapping_sub(1));
            scratch.read_volatile()
        };
        if last >= N as u64 {
            return 0;
        }
        // SAFETY: `into` points to N writable bytes and `last` is less than N; the verifier checks both.
        let result =
            unsafe { bpf_skb_load_bytes(self.context(), offset, into.cast(), (last + 1) as u32) };
        if result != 0 {
            return 0;
        }
        // SAFETY: as above. From memory once more: what registers knew of the length is to be forgotten.
        unsafe { (scratch.read_volatile() as u16).wrapping_add(1) }
    }
}

/// The linear part of a packet, from its network header on.
struct Linear {
    skb: Skb,
    network: usize,
    /// Where the transport is if it follows at once.
    transport: usize,
}

impl PacketBytes for Linear {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> Result<(), Truncated> {
        let bytes = self.skb.direct(self.network + offset as usize);
        *into = *bytes.ok_or(Truncated)?;
        Ok(())
    }
}

impl Rest for Linear {
    #[inline(always)]
    fn may_be_resolver(&self, destination: Place) -> bool {
        DOH_SIEVE
            .get(0)
            .is_none_or(|sieve| sieve.may_hold(destination))
    }

    #[inline(always)]
    fn may_be_hello(&self) -> bool {
        let Some([data_offset]) = self.skb.direct(self.transport + DATA_OFFSET as usize) else {
            return true;
        };
        let payload = self.transport as u32 + tcp_header_len(*data_offset);
        let mut head = [0; HELLO_HEAD];
        // Asked first, because most segments that a host acknowledges with are empty.
        payload + HELLO_HEAD as u32 <= self.skb.len()
            && self.skb.read(payload, &mut head).is_ok()
            && is_hello_head(&head)
    }
}

impl PacketBytes for Skb {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> Result<(), Truncated> {
        // The helper, not direct access: it also reads what is not in the linear part, where a TX_RING frame has
        // everything but its first 14 bytes.
        // SAFETY: `into` is N writable bytes.
        let result = unsafe {
            bpf_skb_load_bytes(self.context(), offset, into.as_mut_ptr().cast(), N as u32)
        };
        if result == 0 { Ok(()) } else { Err(Truncated) }
    }
}
