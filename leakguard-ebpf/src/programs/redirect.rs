//! Calls that name a destination: those to port 53 reach the tunnel's resolver, and the caller sees whom it has asked.
//!
//! An IPv6 socket may name an IPv4 address that is mapped into IPv6. `connect` then runs the hook of the socket's family,
//! `sendmsg` that of the address (`udpv6_sendmsg`, 6.18), and what is told back passes that of the socket's family again. So
//! what is kept has the family of the address.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_SK_STORAGE_GET_F_CREATE, BPF_TCP_ESTABLISHED, bpf_sock, bpf_sock_addr,
};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_uid_gid,
    bpf_get_socket_cookie, bpf_set_retval, bpf_sk_storage_delete, bpf_sk_storage_get,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use leakguard_common::abi::{
    Carrier, Event, Family, Hook, LanKey, Original, Outcome, Owner, Protocol, RateKey, Reason,
    Role, SPARED_LEVELS, Settings, SparedKey,
};
use leakguard_common::counter::Series;
use leakguard_common::packet::protocol;
use leakguard_common::redirect::{Call, Course, PORT, Surroundings, concerns, course, widen};

use super::counters::{count_outcome, count_packets};
use super::events::write;
use super::facts::prefix;
use super::maps::{LIVENESS, NEAR, ORIGINALS, SETTINGS, SPARED, TUNNELS};
use super::netns::{cookie, is_managed_by_cookie};
use super::owners;
use super::rates::{Told, admit};
use super::sender::{current_pid, name_current};

const PASS: i32 = 1;
const REFUSE: i32 = 0;

/// What a refused call fails with: programs give up at once on it, where some wait after EPERM.
const NETWORK_UNREACHABLE: i32 = -101;

/// The family of IPv6 sockets (`linux/socket.h`).
const AF_INET6: u32 = 10;

/// Not 0 where programs at these hooks may choose the error (6.1 and later); EPERM otherwise.
#[unsafe(no_mangle)]
static CAN_SET_RETVAL: Global<u32> = Global::new(0);

/// Where a socket is connected: records who does, which the packets of a TCP connection all come from.
#[cgroup_sock_addr(connect4)]
pub(super) fn connect4(context: SockAddrContext) -> i32 {
    let address = SocketAddress::new(context.sock_addr);
    owners::record(address.socket().cast());
    address.go::<V4>()
}

/// As [`connect4`].
#[cgroup_sock_addr(connect6)]
pub(super) fn connect6(context: SockAddrContext) -> i32 {
    let address = SocketAddress::new(context.sock_addr);
    owners::record(address.socket().cast());
    address.go::<V6>()
}

/// Where a datagram is sent to an address.
#[cgroup_sock_addr(sendmsg4)]
pub(super) fn sendmsg4(context: SockAddrContext) -> i32 {
    SocketAddress::new(context.sock_addr).go::<V4>()
}

/// As [`sendmsg4`].
#[cgroup_sock_addr(sendmsg6)]
pub(super) fn sendmsg6(context: SockAddrContext) -> i32 {
    SocketAddress::new(context.sock_addr).go::<V6>()
}

/// Where a process is told who has sent a datagram.
#[cgroup_sock_addr(recvmsg4)]
pub(super) fn recvmsg4(context: SockAddrContext) -> i32 {
    SocketAddress::new(context.sock_addr).restore::<V4>()
}

/// As [`recvmsg4`].
#[cgroup_sock_addr(recvmsg6)]
pub(super) fn recvmsg6(context: SockAddrContext) -> i32 {
    SocketAddress::new(context.sock_addr).restore::<V6>()
}

/// Where a process asks whom a socket is connected to.
#[cgroup_sock_addr(getpeername4)]
pub(super) fn getpeername4(context: SockAddrContext) -> i32 {
    SocketAddress::new(context.sock_addr).restore::<V4>()
}

/// As [`getpeername4`].
#[cgroup_sock_addr(getpeername6)]
pub(super) fn getpeername6(context: SockAddrContext) -> i32 {
    SocketAddress::new(context.sock_addr).restore::<V6>()
}

/// How a hook's address is read and written.
trait Form {
    fn read(address: SocketAddress) -> (Family, [u8; 16]);
    fn write(address: SocketAddress, family: Family, wanted: &[u8; 16]);
}

struct V4;
struct V6;

/// What comes before an IPv4 address that is mapped into IPv6, in words of the network's order.
const MAPPED: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

impl Form for V4 {
    #[inline(always)]
    fn read(address: SocketAddress) -> (Family, [u8; 16]) {
        // SAFETY: a context field; the verifier checks the access.
        let word = unsafe { (*address.context).user_ip4 };
        (Family::Ipv4, widen(word.to_ne_bytes()))
    }

    #[inline(always)]
    fn write(address: SocketAddress, _family: Family, wanted: &[u8; 16]) {
        // SAFETY: a context field that these programs may write.
        unsafe { (*address.context).user_ip4 = first_word(wanted) };
    }
}

impl Form for V6 {
    #[inline(always)]
    fn read(address: SocketAddress) -> (Family, [u8; 16]) {
        // Word by word, because the kernel takes no other accesses. SAFETY: context fields.
        let [a, b, c, d] = unsafe {
            let words = &raw const (*address.context).user_ip6;
            let word = |index: usize| words.cast::<u32>().add(index).read_volatile();
            [word(0), word(1), word(2), word(3)]
        };
        if [a, b, c] == MAPPED {
            return (Family::Ipv4, widen(d.to_ne_bytes()));
        }
        (Family::Ipv6, bytes([a, b, c, d]))
    }

    #[inline(always)]
    fn write(address: SocketAddress, family: Family, wanted: &[u8; 16]) {
        let words = match family {
            Family::Ipv4 => [MAPPED[0], MAPPED[1], MAPPED[2], first_word(wanted)],
            Family::Ipv6 | Family::Unknown => words(wanted),
        };
        // SAFETY: context fields that these programs may write, word by word.
        unsafe {
            let places = (&raw mut (*address.context).user_ip6).cast::<u32>();
            places.write_volatile(words[0]);
            places.add(1).write_volatile(words[1]);
            places.add(2).write_volatile(words[2]);
            places.add(3).write_volatile(words[3]);
        }
    }
}

/// The context of a hook.
#[derive(Clone, Copy)]
struct SocketAddress {
    context: *mut bpf_sock_addr,
}

impl SocketAddress {
    #[inline(always)]
    fn new(context: *mut bpf_sock_addr) -> Self {
        Self { context }
    }

    #[inline(always)]
    fn socket(self) -> *mut bpf_sock {
        // SAFETY: a context field; the verifier checks the access.
        unsafe { (*self.context).__bindgen_anon_1.sk }
    }

    #[inline(always)]
    fn port(self) -> u16 {
        // SAFETY: a context field, of which the low half is in use.
        u16::from_be(unsafe { (*self.context).user_port } as u16)
    }

    #[inline(always)]
    fn protocol(self) -> u8 {
        // SAFETY: a context field.
        unsafe { (*self.context).protocol as u8 }
    }

    /// Lets a call go on, elsewhere if it must, or fail.
    #[inline(always)]
    fn go<F: Form>(self) -> i32 {
        let Some(settings) = SETTINGS.get(0) else {
            return PASS;
        };
        let port = self.port();
        if !concerns(port, settings) || !matches!(self.protocol(), protocol::UDP | protocol::TCP) {
            return PASS;
        }
        let socket = self.socket();
        if socket.is_null() {
            return PASS;
        }
        let (family, address) = F::read(self);
        // SAFETY: not null, and the verifier checks the access.
        let bound_ifindex = unsafe { (*socket).bound_dev_if };
        let call = Call {
            family,
            address,
            port,
            bound_ifindex,
        };
        let course = course(
            &call,
            settings,
            &Around {
                call: self,
                settings,
            },
        );
        match course {
            Course::Leave => {
                // Whom the socket asked before is not whom it asks now.
                if !names_its_peer(socket, family, &address) {
                    // SAFETY: the map's own address, and a socket that the verifier checks.
                    let _absent = unsafe { bpf_sk_storage_delete(originals(), socket.cast()) };
                }
                return PASS;
            }
            Course::To(target) => {
                // SAFETY: null, or a value of this type that lives as long as the socket.
                let original =
                    unsafe { original(socket, BPF_SK_STORAGE_GET_F_CREATE.into()).as_mut() };
                // Without it, answers come from whom they come from, which many programs take.
                if let Some(original) = original {
                    *original = Original {
                        address,
                        target,
                        family: family as u32,
                    };
                }
                F::write(self, family, &target);
            }
            Course::Refuse => {}
        }
        self.tell(&call, &course, settings);
        if matches!(course, Course::Refuse) {
            if CAN_SET_RETVAL.load() != 0 {
                // SAFETY: plain arguments.
                unsafe { bpf_set_retval(NETWORK_UNREACHABLE) };
            }
            return REFUSE;
        }
        PASS
    }

    /// Puts the address that the process knows in the place of the one that was reached.
    #[inline(always)]
    fn restore<F: Form>(self) -> i32 {
        let socket = self.socket();
        if self.port() != PORT || socket.is_null() {
            return PASS;
        }
        // SAFETY: null, or a value of this type that lives as long as the socket.
        let Some(original) = (unsafe { original(socket, 0).as_ref() }) else {
            return PASS;
        };
        let (family, address) = F::read(self);
        if original.family == family as u32 && original.target == address {
            F::write(self, family, &original.address);
        }
        PASS
    }

    #[inline(always)]
    fn tell(self, call: &Call, course: &Course, settings: &Settings) {
        let Some(verdict) = course.verdict() else {
            return;
        };
        let role = match course {
            Course::To(_) => Role::Tunnel,
            Course::Leave | Course::Refuse => Role::Uplink,
        };
        let protocol = self.protocol();
        count_packets(
            &Series {
                hook: Hook::SockAddr,
                role,
                reason: Reason::Dns,
                verdict,
                family: call.family,
                protocol: Protocol::of(protocol),
            },
            1,
        );
        let pid = current_pid();
        let key = RateKey::new(
            pid,
            &[0; 16],
            &call.address,
            0,
            [
                Reason::Dns as u8,
                verdict as u8,
                Hook::SockAddr as u8,
                call.family as u8,
            ],
        );
        let Some(told) = admit(&key, settings, 1) else {
            count_outcome(Outcome::Suppressed, 1);
            return;
        };
        let context = self.context.cast();
        write(1, |event| {
            describe(event, call, course, told);
            // SAFETY: as in `describe`; the helpers take the program's own context.
            unsafe {
                (*event).netns_cookie = cookie(context);
                (*event).socket_cookie = bpf_get_socket_cookie(context);
                (*event).pid = pid;
                (*event).protocol = protocol;
                (*event).verdict = verdict as u8;
                (*event).role = role as u8;
                name_current(&mut (*event).comm);
            }
        });
    }
}

/// What a call is looked up in.
struct Around<'settings> {
    call: SocketAddress,
    settings: &'settings Settings,
}

impl Surroundings for Around<'_> {
    #[inline(always)]
    fn is_managed(&self) -> bool {
        is_managed_by_cookie(self.call.context.cast(), self.settings)
    }

    #[inline(always)]
    fn is_near(&self, address: &LanKey) -> bool {
        NEAR.get(prefix(address)).is_some()
    }

    #[inline(always)]
    fn is_spared(&self) -> bool {
        if self.settings.redirect & Settings::SPARE == 0 {
            return false;
        }
        let mut name = [0; 16];
        name_current(&mut name);
        is_listed(SparedKey::process(name))
            || (1..=SPARED_LEVELS).any(|level| {
                // SAFETY: a plain argument; 0 for a level below the process's own.
                let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
                id != 0 && is_listed(SparedKey::cgroup(id))
            })
    }

    #[inline(always)]
    fn tunnel_is_up(&self) -> bool {
        LIVENESS
            .get(0)
            .is_some_and(|liveness| liveness.held(|tunnel| TUNNELS.get(tunnel).is_some()))
    }
}

#[inline(always)]
fn is_listed(key: SparedKey) -> bool {
    // SAFETY: the value is not read.
    unsafe { SPARED.get(key) }.is_some()
}

/// Whether it is the kernel that names the address: an IPv6 socket that is connected to a mapped one runs the hook of
/// `sendmsg` with whom it has reached, although the process has named nobody (`udpv6_sendmsg`).
#[inline(always)]
fn names_its_peer(socket: *mut bpf_sock, family: Family, address: &[u8; 16]) -> bool {
    // SAFETY: not null, as the caller has seen, and the verifier checks the accesses.
    let (domain, state) = unsafe { ((*socket).family, (*socket).state) };
    if family != Family::Ipv4 || domain != AF_INET6 || state != BPF_TCP_ESTABLISHED {
        return false;
    }
    // SAFETY: null, or a value of this type that lives as long as the socket.
    unsafe { original(socket, 0).as_ref() }
        .is_some_and(|original| original.family == family as u32 && original.target == *address)
}

#[inline(always)]
fn original(socket: *mut bpf_sock, flags: u64) -> *mut Original {
    // SAFETY: the map's own address, and a socket that the verifier checks.
    unsafe { bpf_sk_storage_get(originals(), socket.cast(), ptr::null_mut(), flags) }.cast()
}

#[inline(always)]
fn originals() -> *mut c_void {
    ptr::from_ref(&ORIGINALS).cast_mut().cast()
}

#[inline(always)]
fn describe(event: *mut Event, call: &Call, course: &Course, told: Told) {
    // SAFETY: `event` points to a reserved record of this type, which nobody else sees before it is submitted.
    unsafe {
        (*event).boot_time = bpf_ktime_get_boot_ns();
        (*event).cgroup_id = bpf_get_current_cgroup_id();
        (*event).ifindex = 0;
        (*event).ingress_ifindex = 0;
        (*event).length = 0;
        (*event).segments = 1;
        (*event).uid = bpf_get_current_uid_gid() as u32;
        (*event).source_port = 0;
        (*event).destination_port = call.port;
        (*event).family = call.family as u8;
        (*event).reason = Reason::Dns as u8;
        (*event).hook = Hook::SockAddr as u8;
        (*event).carrier = Carrier::None as u8;
        (*event).padding = [0; 3];
        (*event).owner = Owner::NOBODY;
        (*event).rate_created = told.created;
        (*event).suppressed = told.suppressed;
        (*event).source = [0; 16];
        (*event).destination = call.address;
        (*event).bytes_len = 0;
        if let Course::To(target) = course {
            (*event).bytes_len = target.len() as u16;
            (&raw mut (*event).bytes).cast::<[u8; 16]>().write(*target);
        }
    }
}

/// The first four bytes, as the context has them.
#[inline(always)]
fn first_word(address: &[u8; 16]) -> u32 {
    words(address)[0]
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    // SAFETY: as many bytes, and any of them are numbers.
    unsafe { core::mem::transmute(*address) }
}

#[inline(always)]
fn bytes(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: as many bytes.
    unsafe { core::mem::transmute(words) }
}
