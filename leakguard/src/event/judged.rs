//! A packet as the kernel reported it, with what was found out since; rendered by whoever needs it, in the form that he
//! needs.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use jiff::Timestamp;
use leakguard_common::abi::{Carrier, Event as Record, Family, Hook, Reason, Role, Verdict};
use leakguard_common::packet::has_ports;

use super::attribution::Sender;
use super::decode::{option, protocol_name};
use super::parts::{Parts, push_number};
use super::query::read_question;
use super::{Client, Event};

/// A packet that was judged, and who is behind it.
#[derive(Debug)]
pub struct Judged {
    pub(super) seq: u64,
    /// In nanoseconds since 1970.
    pub(super) time: u64,
    pub(super) names: Names,
    pub(super) numbers: Numbers,
    pub(super) copied: Box<[u8]>,
    pub(super) interface: Option<Arc<str>>,
    pub(super) sender: Arc<Sender>,
    pub(super) client: Option<Box<Client>>,
    pub(super) suppressed: u64,
}

/// What is kept of a record as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    ifindex: u32,
    length: u32,
    segments: u32,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

impl Numbers {
    pub(super) fn of(record: &Record) -> Self {
        Self {
            ifindex: record.ifindex,
            length: record.length,
            segments: record.segments,
            source_port: record.source_port,
            destination_port: record.destination_port,
            protocol: record.protocol,
            source: record.source,
            destination: record.destination,
        }
    }
}

/// What the kernel copied of the packet, from its transport header on; `None` if the record does not hold that much.
pub(super) fn copied(record: &Record) -> Option<&[u8]> {
    record.bytes.get(..usize::from(record.bytes_len))
}

/// What the numbers of a record stand for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    pub(super) family: Family,
    pub(super) verdict: Verdict,
    pub(super) reason: Reason,
    pub(super) hook: Hook,
    pub(super) role: Role,
    pub(super) carrier: Carrier,
}

impl Names {
    /// `None` if one of them is not of this version.
    pub(super) fn of(record: &Record) -> Option<Self> {
        Some(Self {
            family: Family::from_wire(record.family)?,
            verdict: Verdict::from_wire(record.verdict)?,
            reason: Reason::from_wire(record.reason)?,
            hook: Hook::from_wire(record.hook)?,
            role: Role::from_wire(record.role)?,
            carrier: Carrier::from_wire(record.carrier)?,
        })
    }

    /// What may hold a question: a call names a destination before there is one, and others are encrypted.
    pub(super) fn may_ask(self) -> bool {
        self.reason != Reason::Doh && self.hook != Hook::SockAddr
    }
}

/// Where a thread writes what a packet's parts are; used again and again.
#[derive(Default)]
struct Scratch {
    clock: Clock,
    source: String,
    destination: String,
    target: String,
    name: String,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Judged {
    /// Its number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// What the kernel copied of the packet, from its transport header on.
    pub fn copied(&self) -> &[u8] {
        &self.copied
    }

    /// The event, with everything that it says.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method is for one lifetime, and any is asked for"
    )]
    pub fn event(&self) -> Event {
        SCRATCH.with_borrow_mut(|scratch| self.parts(scratch, |parts| parts.to_event()))
    }

    /// Appends the event as a JSON object.
    pub fn write_json(&self, json: &mut String) {
        SCRATCH.with_borrow_mut(|scratch| {
            self.parts(scratch, |parts| {
                parts.write_json(self.sender.members(), json);
            });
        });
    }

    /// Appends the line for people.
    pub fn write_text(&self, text: &mut String) {
        SCRATCH.with_borrow_mut(|scratch| self.parts(scratch, |parts| parts.write_text(text)));
    }

    fn parts<T>(&self, scratch: &mut Scratch, used: impl FnOnce(&Parts<'_>) -> T) -> T {
        let Scratch {
            clock,
            source,
            destination,
            target,
            name,
        } = scratch;
        let Self {
            seq,
            time,
            names,
            numbers: ref record,
            ref copied,
            ref interface,
            ref sender,
            ref client,
            suppressed,
        } = *self;
        let Names { family, hook, .. } = names;
        let write = |text: &mut String, address, port| {
            text.clear();
            push_endpoint(text, family, address, port, record.protocol);
        };
        write(source, record.source, record.source_port);
        write(destination, record.destination, record.destination_port);
        let redirected = match <[u8; 16]>::try_from(&**copied) {
            Ok(address) if hook == Hook::SockAddr => {
                write(target, address, record.destination_port);
                true
            }
            _ => false,
        };
        let kind = names
            .may_ask()
            .then(|| read_question(record.protocol, copied, name));
        let option = (hook == Hook::Setsockopt).then(|| option(copied)).flatten();
        let protocol = protocol_name(record.protocol);
        let parts = Parts {
            seq,
            time: clock.text(time),
            verdict: names.verdict.name(),
            reason: names.reason.name(),
            hook: hook.name(),
            ifindex: record.ifindex,
            interface: interface.as_deref(),
            role: names.role.name(),
            netns: "host",
            family: family.name(),
            protocol: &protocol,
            source,
            destination,
            encapsulation: match names.carrier {
                Carrier::None => None,
                carrier => Some(carrier.name()),
            },
            length: record.length,
            query: match &kind {
                Some(Some(kind)) => Some((name, kind)),
                _ => None,
            },
            redirected_to: redirected.then_some(target),
            option: option.as_deref(),
            packets: record.segments,
            process: sender.process.as_ref(),
            cgroup: sender.cgroup.as_deref(),
            unit: sender.unit.as_deref(),
            container: sender.container.as_ref(),
            client: client.as_deref(),
            suppressed,
        };
        used(&parts)
    }
}

/// Writes times: many events are of the same second.
#[derive(Default)]
struct Clock {
    /// The second that the text begins with.
    second: Option<u64>,
    /// How much of the text that is.
    whole: usize,
    text: String,
}

impl Clock {
    /// A time as RFC 3339 has it, in UTC, to the nanosecond.
    fn text(&mut self, time: u64) -> &str {
        const NANOS: u64 = 1_000_000_000;

        let (second, mut nanos) = (time / NANOS, time % NANOS);
        if self.second != Some(second) {
            let whole = i64::try_from(second).ok().map(Timestamp::from_second);
            let whole = whole.and_then(Result::ok).unwrap_or_default().to_string();
            whole
                .strip_suffix('Z')
                .unwrap_or(&whole)
                .clone_into(&mut self.text);
            self.whole = self.text.len();
            self.second = Some(second);
        }
        self.text.truncate(self.whole);
        if nanos > 0 {
            // A digit more in front keeps the noughts there; those at the end are left out.
            let mut digits = 9;
            while nanos.is_multiple_of(10) {
                nanos /= 10;
                digits -= 1;
            }
            let front = self.text.len();
            push_number(&mut self.text, 10_u64.pow(digits) + nanos);
            self.text.replace_range(front..=front, ".");
        }
        self.text.push('Z');
        &self.text
    }
}

/// Appends an address, with the port where there is one.
pub(super) fn push_endpoint(
    text: &mut String,
    family: Family,
    address: [u8; 16],
    port: u16,
    protocol: u8,
) {
    let [a, b, c, d, ..] = address;
    let port = Some(port).filter(|&port| has_ports(protocol) && port != 0);
    match family {
        Family::Ipv4 => {
            for (number, octet) in Ipv4Addr::new(a, b, c, d).octets().into_iter().enumerate() {
                if number > 0 {
                    text.push('.');
                }
                push_number(text, octet.into());
            }
        }
        Family::Ipv6 => {
            let brackets = port.map_or(["", ""], |_| ["[", "]"]);
            let address = Ipv6Addr::from(address);
            // Writing to a string does not fail.
            let _infallible = write!(text, "{}{address}{}", brackets[0], brackets[1]);
        }
        Family::Unknown => {
            text.push_str("unknown");
            return;
        }
    }
    if let Some(port) = port {
        text.push(':');
        push_number(text, port.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_everywhere_else() {
        let mut clock = Clock::default();
        for time in [
            0,
            1,
            10,
            999_999_999,
            1_000_000_000,
            1_790_000_000_120_000_000,
            1_790_000_000_000_000_010,
            1_790_000_000_123_456_789,
            1_790_000_001_000_000_000,
            u64::try_from(i64::MAX).unwrap(),
        ] {
            let expected = Timestamp::from_nanosecond(time.into()).unwrap();
            assert_eq!(clock.text(time), expected.to_string());
        }
    }
}
