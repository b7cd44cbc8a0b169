//! The layout of maps and records that kernel and user side agree on.
//!
//! Pinned state outlives the agent, so any change to a type, a map's size or a numeric value below needs a new
//! [`ABI_VERSION`], which is part of the pin path: an older agent's state is then never misread.

/// The version of everything in this module and in [`crate::counter`]; part of the pin directory's name.
pub const ABI_VERSION: u32 = 6 + NEXT;

/// 1 in the build that stands in for the next version, with another layout, in the tests of an upgrade.
const NEXT: u32 = cfg!(feature = "next-abi") as u32;

/// Map names as they stand in the object; short, because the kernel keeps 15 characters.
pub mod map {
    /// `DEVMAP_HASH`: interface numbers that may carry DNS out of the host.
    pub const TUNNELS: &str = "TUNNELS";
    /// `DEVMAP_HASH`: interface numbers whose packets do not leave the host.
    pub const LOCALS: &str = "LOCALS";
    /// `ARRAY` of one [`super::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// `ARRAY` of one [`super::Liveness`].
    pub const LIVENESS: &str = "LIVENESS";
    /// `HASH` from [`super::EndpointKey`] to [`super::Endpoint`].
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// `LPM_TRIE` of [`super::LanKey`]s.
    pub const LAN: &str = "LAN";
    /// `LPM_TRIE` of [`super::LanKey`]s.
    pub const DOH_ADDRESSES: &str = "DOH_ADDRESSES";
    /// `ARRAY` of one [`crate::sieve::Sieve`]: which destinations need not be looked for in [`DOH_ADDRESSES`].
    pub const DOH_SIEVE: &str = "DOH_SIEVE";
    /// `LPM_TRIE` of [`super::NameKey`]s.
    pub const DOH_NAMES: &str = "DOH_NAMES";
    /// `HASH` of the [`super::EndpointKey`]s of tunnels that do not encrypt.
    pub const CARRIERS: &str = "CARRIERS";
    /// `LRU_HASH` from [`super::FragmentKey`] to [`super::FirstFragment`].
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// `PERCPU_ARRAY` of `u64`, indexed by [`crate::counter::Series::index`].
    pub const PACKETS: &str = "PACKETS";
    /// `PERCPU_ARRAY` of `u64`, indexed by [`super::Outcome`].
    pub const OUTCOMES: &str = "OUTCOMES";
    /// `RINGBUF` of [`super::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// `SK_STORAGE` of [`super::Owner`].
    pub const OWNERS: &str = "OWNERS";
    /// `LRU_HASH` from [`super::RateKey`] to [`super::Rate`].
    pub const RATES: &str = "RATES";
    /// `SK_STORAGE` of [`super::Original`].
    pub const ORIGINALS: &str = "ORIGINALS";
    /// `LPM_TRIE` of the [`super::LanKey`]s that this host answers at, and of networks that do not leave it.
    pub const NEAR: &str = "NEAR";
    /// `HASH` of [`super::SparedKey`]s.
    pub const SPARED: &str = "SPARED";
    /// `RINGBUF` of [`super::Event`]: questions to local resolvers and in other namespaces, which pass.
    pub const ASKED: &str = "ASKED";
}

/// The most interfaces a role table holds; a host beyond that keeps the rest blocked.
pub const MAX_INTERFACES: u32 = 16_384;

/// How many endpoints of tunnels can be exempt; each takes two entries, one of them for later fragments.
pub const MAX_ENDPOINTS: u32 = 64;

/// How many prefixes of the LAN can be exempt.
pub const MAX_LAN: u32 = 256;

/// How many prefixes of DNS-over-HTTPS resolvers are known at most.
pub const MAX_DOH_ADDRESSES: u32 = 131_072;

/// How many names of DNS-over-HTTPS resolvers are known at most; each takes two entries, one for the names below it.
pub const MAX_DOH_NAMES: u32 = 4096;

/// How many cgroups and processes redirection can spare.
pub const MAX_SPARED: u32 = 64;

/// How many addresses and networks near this host are known; what is beyond is redirected.
pub const MAX_NEAR: u32 = 8192;

/// How many tunnels that do not encrypt are known at most.
pub const MAX_CARRIERS: u32 = 1024;

/// How many first fragments are remembered.
pub const MAX_FRAGMENTS: u32 = 4096;

/// The size of the event ring in bytes, a power of two and a multiple of the page size.
pub const EVENT_RING_BYTES: u32 = 1 << (20 + NEXT);

/// The size of the ring of questions in bytes; full, it takes no more until it is read.
pub const ASKED_RING_BYTES: u32 = 1 << 19;

/// How many extra ports can be judged as `dns`.
pub const MAX_EXTRA_PORTS: usize = 16;

/// The loopback device's number, the same in every namespace (`LOOPBACK_IFINDEX` in `net/net_namespace.h`).
pub const LOOPBACK_IFINDEX: u32 = 1;

/// How many bytes of a socket the `egress_inode` program looks into for its namespace.
///
/// `skc_net` ends at byte 56 on every kernel seen (5.10 to 6.18); the loader refuses the program where it does not fit.
pub const SOCKET_HEAD: usize = 64;

/// Defines a fieldless `u8` enum with its names and its conversion from the wire.
macro_rules! wire_enum {
    (
        $(#[$outer:meta])*
        $name:ident { $($(#[$inner:meta])* $variant:ident = $value:literal => $text:literal),+ $(,)? }
    ) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$inner])* $variant = $value),+ }

        impl $name {
            /// Every value, in the order of the wire numbers, which start at 0 and leave no gap.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name used in events, metrics and configuration.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value for a number read from a map or a record.
            pub const fn from_wire(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$variant),)+ _ => None }
            }

            /// The value for a name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                formatter.write_str(self.name())
            }
        }
    };
}

mod attribution;
mod keys;
mod redirection;

pub use attribution::{MAX_RATES, Owner, Rate, RateKey};
pub use keys::{
    Endpoint, EndpointKey, FirstFragment, FragmentKey, LanKey, NAME_BYTES, NAME_LEN, NameKey,
};
pub use redirection::{Original, SPARED_LEVELS, SparedKey};

wire_enum! {
    /// A form of DNS, recognised by its destination port; what an operator can choose to block.
    Class {
        /// DNS on port 53, any transport, and the configured extra ports.
        Dns = 0 => "dns",
        /// DNS over TLS, 853/tcp.
        Dot = 1 => "dot",
        /// DNS over QUIC (and DTLS), 853/udp.
        Doq = 2 => "doq",
        /// Multicast DNS, 5353/udp.
        Mdns = 3 => "mdns",
        /// Link-local multicast name resolution, 5355.
        Llmnr = 4 => "llmnr",
        /// NetBIOS name service, 137.
        Netbios = 5 => "netbios",
        /// DNS over HTTPS, 443: recognised by the resolver's address or by the name that the client asks for.
        Doh = 6 => "doh",
    }
}

wire_enum! {
    /// Why a packet got its verdict; the first values are the [`Class`]es, with the same numbers.
    Reason {
        /// [`Class::Dns`].
        Dns = 0 => "dns",
        /// [`Class::Dot`].
        Dot = 1 => "dot",
        /// [`Class::Doq`].
        Doq = 2 => "doq",
        /// [`Class::Mdns`].
        Mdns = 3 => "mdns",
        /// [`Class::Llmnr`].
        Llmnr = 4 => "llmnr",
        /// [`Class::Netbios`].
        Netbios = 5 => "netbios",
        /// [`Class::Doh`].
        Doh = 6 => "doh",
        /// Nothing that leakguard judges.
        Other = 7 => "other",
        /// A fragment without ports: made by a raw socket, the rest of a dropped one, or of nothing that is known.
        Fragment = 8 => "fragment",
        /// Bytes that cannot be judged.
        Malformed = 9 => "malformed",
        /// IPv6, which is kept off uplinks.
        Ipv6 = 10 => "ipv6",
        /// Anything off the tunnel, while the kill switch is engaged.
        KillSwitch = 11 => "kill_switch",
        /// A question to a port that is not judged; reported, never dropped.
        DnsShaped = 12 => "dns_shaped",
        /// A socket option that would lead packets past the queueing layer ([`crate::hardening`]).
        RawBypass = 13 => "raw_bypass",
    }
}

impl From<Class> for Reason {
    fn from(class: Class) -> Self {
        match class {
            Class::Dns => Self::Dns,
            Class::Dot => Self::Dot,
            Class::Doq => Self::Doq,
            Class::Mdns => Self::Mdns,
            Class::Llmnr => Self::Llmnr,
            Class::Netbios => Self::Netbios,
            Class::Doh => Self::Doh,
        }
    }
}

wire_enum! {
    /// What happens to a packet.
    Verdict {
        /// It goes on.
        Pass = 0 => "pass",
        /// It is dropped.
        Drop = 1 => "drop",
        /// It goes on because leakguard only observes; in enforce mode it would be dropped.
        WouldDrop = 2 => "would_drop",
        /// A call goes to the tunnel's resolver ([`crate::redirect`]).
        Redirect = 3 => "redirect",
    }
}

wire_enum! {
    /// Where in the kernel a packet was judged.
    Hook {
        /// `cgroup_skb/egress`: packets of local sockets, at their exit interface.
        CgroupSkb = 0 => "cgroup_skb",
        /// TC egress of an uplink: forwarded and bridged packets, packet sockets.
        Tc = 1 => "tc",
        /// `cgroup/setsockopt`: options that a process sets; no packets.
        Setsockopt = 2 => "setsockopt",
        /// `cgroup/connect4` and the like: calls that name a destination; no packets.
        SockAddr = 3 => "sock_addr",
    }
}

wire_enum! {
    /// What an interface is to the managed network namespace.
    Role {
        /// May carry DNS.
        Tunnel = 0 => "tunnel",
        /// Its packets cannot leave the host by it.
        Local = 1 => "local",
        /// Everything else, and everything unknown.
        Uplink = 2 => "uplink",
    }
}

wire_enum! {
    /// The IP version of a packet.
    Family {
        /// IPv4.
        Ipv4 = 0 => "ipv4",
        /// IPv6.
        Ipv6 = 1 => "ipv6",
        /// The packet broke off before its version was known.
        Unknown = 2 => "unknown",
    }
}

wire_enum! {
    /// The transport of a packet, as far as counters tell them apart.
    Protocol {
        /// UDP.
        Udp = 0 => "udp",
        /// TCP.
        Tcp = 1 => "tcp",
        /// Anything else.
        Other = 2 => "other",
    }
}

wire_enum! {
    /// What a judged packet was found in.
    Carrier {
        /// In nothing: it is the outermost.
        None = 0 => "none",
        /// IP in IP: IPIP, 6in4, IP6IP6 and the like.
        Ip = 1 => "ip",
        /// Generic routing encapsulation.
        Gre = 2 => "gre",
        /// VXLAN.
        Vxlan = 3 => "vxlan",
        /// Geneve.
        Geneve = 4 => "geneve",
    }
}

wire_enum! {
    /// What became of the packets that are worth an event; indexes [`map::OUTCOMES`], which counts packets.
    Outcome {
        /// They are told of in the ring.
        Submitted = 0 => "submitted",
        /// The ring was full.
        Lost = 1 => "lost",
        /// Others of the same sender, destination and reason had been told of enough.
        Suppressed = 2 => "suppressed",
    }
}

impl Protocol {
    /// The counter label for an IP protocol number.
    pub const fn of(number: u8) -> Self {
        match number {
            crate::packet::protocol::TCP => Self::Tcp,
            crate::packet::protocol::UDP => Self::Udp,
            _ => Self::Other,
        }
    }
}

/// A set of [`Class`]es.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct ClassSet(u32);

impl ClassSet {
    /// Adds a class.
    #[must_use]
    pub const fn with(self, class: Class) -> Self {
        Self(self.0 | 1 << class as u32)
    }

    /// Whether a class is in the set.
    pub const fn contains(self, class: Class) -> bool {
        self.0 & (1 << class as u32) != 0
    }
}

impl FromIterator<Class> for ClassSet {
    fn from_iter<I: IntoIterator<Item = Class>>(classes: I) -> Self {
        classes.into_iter().fold(Self::default(), Self::with)
    }
}

/// What the programs are told; all zeroes means: enforce, every class, every namespace, no kill switch.
///
/// That way a map that was created but not yet written keeps DNS in; nothing is attached before it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// The managed namespace's cookie (`SO_NETNS_COOKIE`); 0 while unknown.
    pub netns_cookie: u64,
    /// The managed namespace's inode on nsfs; 0 while unknown.
    pub netns_inode: u32,
    /// [`Settings::ENFORCE`] or [`Settings::OBSERVE`].
    pub mode: u32,
    /// Classes that are let out everywhere.
    pub exempt: ClassSet,
    /// How many of `extra_ports` are in use.
    pub extra_port_count: u32,
    /// Destination ports judged as [`Class::Dns`], in host byte order.
    pub extra_ports: [u16; MAX_EXTRA_PORTS],
    /// [`Settings::KILL_SWITCH_OFF`], [`Settings::TUNNEL_DOWN`] or [`Settings::ALWAYS`].
    pub kill_switch: u32,
    /// [`Settings::DNS_ONLY`] or [`Settings::BLOCK_OFF_TUNNEL`].
    pub ipv6: u32,
    /// What an uplink may carry besides endpoints and LAN: [`Settings::DHCP`], [`Settings::NDP`].
    pub exemptions: u32,
    /// What is done besides: [`Settings::STRICT_FRAGMENTS`], [`Settings::REPORT_SHAPES`].
    pub options: u32,
    /// [`Settings::DENY_NEW`], [`Settings::STRICT`] or [`Settings::LEAVE_ALONE`].
    pub packet_sockets: u32,
    /// Events per second, sender, destination and reason; 0 for no limit.
    pub rate_per_key: u32,
    /// Which calls are redirected: [`Settings::REDIRECT_V4`], [`Settings::REDIRECT_V6`], [`Settings::SPARE`].
    pub redirect: u32,
    /// The tunnel's resolver for calls to IPv4 addresses.
    pub redirect_v4: [u8; 4],
    /// The tunnel's resolver for calls to IPv6 addresses.
    pub redirect_v6: [u8; 16],
}

impl Settings {
    /// Drop what must not leave.
    pub const ENFORCE: u32 = 0;
    /// Count and report it, but let it pass.
    pub const OBSERVE: u32 = 1;

    /// Uplinks carry what is not DNS.
    pub const KILL_SWITCH_OFF: u32 = 0;
    /// Uplinks carry nothing but what is exempt, unless an agent vouches that a tunnel is up.
    pub const TUNNEL_DOWN: u32 = 1;
    /// Uplinks carry nothing but what is exempt.
    pub const ALWAYS: u32 = 2;

    /// IPv6 is treated as IPv4 is.
    pub const DNS_ONLY: u32 = 0;
    /// Uplinks carry no IPv6 but what is exempt.
    pub const BLOCK_OFF_TUNNEL: u32 = 1;

    /// DHCP of this host.
    pub const DHCP: u32 = 1;
    /// IPv6 neighbour discovery.
    pub const NDP: u32 = 2;

    /// Later fragments leave only behind their first one.
    pub const STRICT_FRAGMENTS: u32 = 1;
    /// Packets that look like DNS questions are reported, whatever their port.
    pub const REPORT_SHAPES: u32 = 2;

    /// There is a resolver for IPv4.
    pub const REDIRECT_V4: u32 = 1;
    /// There is a resolver for IPv6.
    pub const REDIRECT_V6: u32 = 2;
    /// Somebody is spared.
    pub const SPARE: u32 = 4;

    /// Options that lead packets past TC are refused.
    pub const DENY_NEW: u32 = 0;
    /// They are refused, and netfilter judges what leaves by uplinks.
    pub const STRICT: u32 = 1;
    /// They are let through.
    pub const LEAVE_ALONE: u32 = 2;
}

/// What an agent vouches for; all zeroes: for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Liveness {
    /// How long it does: `CLOCK_BOOTTIME` in nanoseconds, which goes on while the machine sleeps.
    pub until: u64,
    /// The tunnel that is up; 0 for none.
    pub tunnel: u32,
    /// 0; keeps the size a multiple of the alignment.
    pub padding: u32,
}

impl Liveness {
    /// Whether a tunnel is up: somebody says so, not too long ago, and it has not gone since.
    #[inline(always)]
    pub fn holds(&self, now: impl FnOnce() -> u64, is_tunnel: impl FnOnce(u32) -> bool) -> bool {
        self.tunnel != 0 && now() < self.until && is_tunnel(self.tunnel)
    }

    /// Whether a tunnel was up when somebody looked last, and has not gone since.
    #[inline(always)]
    pub fn held(&self, is_tunnel: impl FnOnce(u32) -> bool) -> bool {
        self.tunnel != 0 && is_tunnel(self.tunnel)
    }
}

/// How many bytes from the transport header on an event carries.
///
/// A TCP header with all options (60), the length prefix (2), a DNS header (12) and one question of the greatest
/// length (255 + 4) fit.
pub const EVENT_BYTES: usize = 336;

/// One sampled packet, as it stands in the ring buffer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Event {
    /// When it was judged: `CLOCK_BOOTTIME` in nanoseconds.
    pub boot_time: u64,
    /// The cookie of the sending socket's namespace; 0 if unknown.
    pub netns_cookie: u64,
    /// The sending socket's cookie; 0 if there is none.
    pub socket_cookie: u64,
    /// The cgroup2 id of the sending socket; 0 if there is none.
    pub cgroup_id: u64,
    /// The exit interface.
    pub ifindex: u32,
    /// The interface the packet came in by; 0 for a local sender.
    pub ingress_ifindex: u32,
    /// Bytes of the whole packet, from the link layer on at TC, from the IP header on at a cgroup.
    pub length: u32,
    /// Packets that this one stands for (GSO segments), at least 1.
    pub segments: u32,
    /// The sender's process id, where the current task is the sender; else 0.
    pub pid: u32,
    /// The user id of the sending socket; [`Event::NO_UID`] if there is none.
    pub uid: u32,
    /// In host byte order; 0 without ports.
    pub source_port: u16,
    /// In host byte order; 0 without ports.
    pub destination_port: u16,
    /// How many of `bytes` are valid.
    pub bytes_len: u16,
    /// The IP protocol number.
    pub protocol: u8,
    /// A [`Family`].
    pub family: u8,
    /// A [`Verdict`].
    pub verdict: u8,
    /// A [`Reason`].
    pub reason: u8,
    /// A [`Hook`].
    pub hook: u8,
    /// A [`Role`].
    pub role: u8,
    /// A [`Carrier`]; addresses, ports and bytes are those of the packet in it.
    pub carrier: u8,
    /// 0; keeps the size a multiple of the alignment.
    pub padding: [u8; 3],
    /// The sending process's command name where `pid` is set, NUL-padded.
    pub comm: [u8; 16],
    /// Who is known to have used the socket; [`Owner::NOBODY`] if nobody is.
    pub owner: Owner,
    /// [`Rate::created`].
    pub rate_created: u64,
    /// [`Rate::suppressed`].
    pub suppressed: u64,
    /// IPv4 addresses stand in the first four bytes.
    pub source: [u8; 16],
    /// IPv4 addresses stand in the first four bytes.
    pub destination: [u8; 16],
    /// The packet from its transport header on; at [`Hook::Setsockopt`] a [`crate::hardening::SocketOption`],
    /// at [`Hook::SockAddr`] the address that took the destination's place, if one did.
    pub bytes: [u8; EVENT_BYTES],
}

impl Event {
    /// The `uid` of a packet without a socket (`overflowuid` is a real value, so this is not it).
    pub const NO_UID: u32 = u32::MAX;

    /// The process that sent the packet or owns its socket; 0 if neither is known.
    pub fn sender(&self) -> u32 {
        if self.pid == 0 {
            self.owner.pid
        } else {
            self.pid
        }
    }

    /// The record as it stands in the ring.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: a record has no padding that is not a field (its size is asserted below), so all of its bytes are
        // initialised.
        unsafe { core::slice::from_raw_parts((&raw const *self).cast::<u8>(), size_of::<Self>()) }
    }
}

const _: () = {
    assert!(size_of::<Settings>() == 104);
    assert!(size_of::<Liveness>() == 16);
    assert!(size_of::<EndpointKey>() == 28);
    assert!(size_of::<LanKey>() == 24);
    assert!(size_of::<Endpoint>() == 16);
    assert!(size_of::<Event>() == 32 + 24 + 12 + 4 + 48 + 40 + 16 + EVENT_BYTES);
    assert!(size_of::<NameKey>() == 4 + NAME_BYTES && NAME_LEN as usize == NAME_BYTES);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<FirstFragment>() == 16);
    assert!(size_of::<Event>().is_multiple_of(8));
};

// SAFETY: repr(C), fixed-width integers and arrays of them, and no padding (the sizes are asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for Settings {}

// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Liveness {}

// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for EndpointKey {}

// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Endpoint {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks what every enum of the wire promises.
    macro_rules! check {
        ($($name:ident),+) => {
            $(
                for (number, &value) in $name::ALL.iter().enumerate() {
                    assert_eq!(value as usize, number, "{value}");
                    assert_eq!($name::from_wire(value as u8), Some(value));
                    assert_eq!($name::from_name(value.name()), Some(value));
                }
                for number in $name::ALL.len()..=usize::from(u8::MAX) {
                    assert_eq!($name::from_wire(number.to_le_bytes()[0]), None);
                }
                assert_eq!($name::from_name(""), None);
            )+
        };
    }

    #[test]
    fn enums_and_their_numbers_and_names_correspond() {
        check!(
            Class, Reason, Verdict, Hook, Role, Family, Protocol, Carrier, Outcome
        );
    }

    #[test]
    fn a_reason_has_the_number_and_the_name_of_its_class() {
        for &class in Class::ALL {
            let reason = Reason::from(class);
            assert_eq!(reason as u8, class as u8);
            assert_eq!(reason.name(), class.name());
        }
    }

    #[test]
    fn a_set_has_what_was_added() {
        for subset in 0..1_u32 << Class::ALL.len() {
            let chosen = |class: Class| subset & (1 << class as u32) != 0;
            let set: ClassSet = Class::ALL
                .iter()
                .copied()
                .filter(|&class| chosen(class))
                .collect();
            for &class in Class::ALL {
                assert_eq!(set.contains(class), chosen(class));
            }
            assert_eq!(set, ClassSet(subset));
        }
    }

    #[test]
    fn transports_are_told_apart() {
        for number in 0..=u8::MAX {
            let expected = match number {
                6 => Protocol::Tcp,
                17 => Protocol::Udp,
                _ => Protocol::Other,
            };
            assert_eq!(Protocol::of(number), expected);
        }
    }
}
