//! A packet, where it is judged and what is known there, out of any bytes.
//!
//! Shared with the fuzzer: its inputs are the bytes.

use leakguard_common::abi::{
    Class, ClassSet, EndpointKey, FragmentKey, Hook, LanKey, NameKey, Role, Settings, Verdict,
};
use leakguard_common::packet::{LinkLayer, Packet, PacketBytes, ParseError, Truncated, parse};
use leakguard_common::plain::Rest;
use leakguard_common::restriction::is_engaged;
use leakguard_common::server_name::is_hello;
use leakguard_common::sieve::Place;
use leakguard_common::verdict::{Decision, Facts, decide};

use crate::looks::judge;

/// How many bytes stand before the packet.
pub(crate) const HEAD: usize = 8;

/// What a hook looks up.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is the answer to one question"
)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    pub(crate) role: Option<Role>,
    pub(crate) engaged: bool,
    pub(crate) forwarded: bool,
    pub(crate) lan: bool,
    pub(crate) endpoint: bool,
    pub(crate) doh: bool,
    pub(crate) carrier: bool,
    pub(crate) first_fragment: Option<Verdict>,
}

impl Facts for Fixed {
    fn role(&self) -> Option<Role> {
        self.role
    }

    fn is_engaged(&self) -> bool {
        self.engaged
    }

    fn is_forwarded(&self) -> bool {
        self.forwarded
    }

    fn is_lan(&self, _destination: &LanKey) -> bool {
        self.lan
    }

    fn may_use_endpoint(&self, _destination: &EndpointKey) -> bool {
        self.endpoint
    }

    fn is_doh_address(&self, _destination: &LanKey) -> bool {
        self.doh
    }

    fn is_doh_name(&self, _name: &NameKey) -> bool {
        self.doh
    }

    fn is_carrier(&self, _destination: EndpointKey) -> bool {
        self.carrier
    }

    fn first_fragment(&self, _datagram: &FragmentKey) -> Option<Verdict> {
        self.first_fragment
    }
}

impl PacketBytes for Case {
    fn read<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> Result<(), Truncated> {
        self.bytes.read(offset, into)
    }
}

impl Rest for Case {
    fn may_be_resolver(&self, _destination: Place) -> bool {
        self.facts.doh
    }

    fn may_be_hello(&self) -> bool {
        let mut packet = Packet::UNKNOWN;
        parse(&*self.bytes, self.link, &mut packet).is_ok() && is_hello(&*self.bytes, &packet)
    }
}

/// Everything that a verdict follows from.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) link: LinkLayer,
    pub(crate) hook: Hook,
    pub(crate) settings: Settings,
    pub(crate) facts: Fixed,
    pub(crate) bytes: Vec<u8>,
}

impl Case {
    /// Takes the first [`HEAD`] bytes for all but the packet; every value of them means something.
    pub(crate) fn decode(input: &[u8]) -> Option<Self> {
        const FORWARDED: u8 = 1;
        const LAN: u8 = 2;
        const ENDPOINT: u8 = 4;
        const TUNNEL_IS_UP: u8 = 8;
        const OBSERVE: u8 = 16;
        const AT_TC: u8 = 32;
        const DOH: u8 = 64;
        const CARRIER: u8 = 128;

        let (head, bytes) = input.split_first_chunk::<HEAD>()?;
        let [
            link,
            flags,
            role,
            modes,
            exempt_low,
            exempt_high,
            port_low,
            port_high,
        ] = *head;
        let is = |flag: u8| flags & flag != 0;
        let exempt = u16::from_le_bytes([exempt_low, exempt_high]);
        let port = u16::from_le_bytes([port_low, port_high]);
        let mut settings = Settings {
            mode: if is(OBSERVE) {
                Settings::OBSERVE
            } else {
                Settings::ENFORCE
            },
            exempt: Class::ALL
                .iter()
                .copied()
                .filter(|class| exempt & 1 << *class as u16 != 0)
                .collect::<ClassSet>(),
            extra_port_count: u32::from(port != 0),
            // One value more than there are modes: what is unknown has to be the strictest.
            kill_switch: u32::from(modes & 3),
            ipv6: u32::from(modes >> 2 & 3),
            exemptions: u32::from(modes >> 4 & 3),
            options: u32::from(modes >> 6),
            ..Settings::default()
        };
        settings.extra_ports[0] = port;
        Some(Self {
            link: match link % 3 {
                0 => LinkLayer::Ethernet,
                1 => LinkLayer::Ip,
                _ => LinkLayer::Unknown,
            },
            hook: if is(AT_TC) { Hook::Tc } else { Hook::CgroupSkb },
            settings,
            facts: Fixed {
                role: match role % 4 {
                    0 => Some(Role::Uplink),
                    1 => Some(Role::Tunnel),
                    2 => Some(Role::Local),
                    _ => None,
                },
                engaged: is_engaged(&settings, || is(TUNNEL_IS_UP)),
                forwarded: is(FORWARDED),
                lan: is(LAN),
                endpoint: is(ENDPOINT),
                doh: is(DOH),
                carrier: is(CARRIER),
                first_fragment: match role >> 2 & 3 {
                    0 => Some(Verdict::Drop),
                    1 => Some(Verdict::Pass),
                    _ => None,
                },
            },
            bytes: bytes.to_vec(),
        })
    }

    /// What the parser makes of it.
    pub(crate) fn parse(&self) -> (Result<(), ParseError>, Packet) {
        let mut packet = Packet::UNKNOWN;
        let parsed = parse(&self.bytes[..], self.link, &mut packet);
        (parsed, packet)
    }

    /// What its headers alone make of it.
    pub(crate) fn decide_by_headers(&self) -> Decision {
        let (parsed, packet) = self.parse();
        decide(parsed, &packet, self.hook, &self.settings, &self.facts)
    }

    /// What becomes of it.
    pub(crate) fn decide(&self) -> Decision {
        judge(
            &self.bytes,
            self.link,
            self.hook,
            &self.settings,
            &self.facts,
        )
        .0
    }

    /// The same, with something changed.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }
}
