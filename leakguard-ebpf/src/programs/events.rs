//! Reports a judged packet to user space; a full ring costs the report, never the verdict.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use leakguard_common::abi::{ASKED_RING_BYTES, Event, Hook, Outcome, RateKey, Settings};
use leakguard_common::packet::Packet;
use leakguard_common::verdict::Decision;

use super::context::Skb;
use super::counters::count_outcome;
use super::maps::{ASKED, EVENTS};
use super::rates::{Told, admit};
use super::sender::Sender;

/// A packet that a hook tells of.
pub(super) struct Report<'packet> {
    pub(super) skb: Skb,
    pub(super) hook: Hook,
    pub(super) decision: &'packet Decision,
    pub(super) packet: &'packet Packet,
    pub(super) sender: Sender,
    /// Of the sender's namespace; 0 if it is not known.
    pub(super) netns_cookie: u64,
}

impl Report<'_> {
    /// Writes an event, unless there were enough of the same, or counts that it was lost.
    #[inline(always)]
    pub(super) fn tell(&self, settings: &Settings) {
        let segments = u64::from(self.skb.segments());
        match admit(&self.key(), settings, segments) {
            Some(told) => write(segments, |event| self.describe(event, told)),
            None => count_outcome(Outcome::Suppressed, segments),
        }
    }

    /// Writes an event, however many there were of the same, or counts that it was lost.
    #[inline(always)]
    pub(super) fn tell_anyway(&self) {
        write(u64::from(self.skb.segments()), |event| {
            self.describe(event, Told::UNLIMITED);
        });
    }

    /// Writes a question that passes where user space can look it up. It is woken only before it would be too late.
    #[inline(always)]
    pub(super) fn note(&self) {
        // One that finds no room is a question that nobody can be asked about.
        let Some(mut entry) = ASKED.reserve::<Event>(0) else {
            return;
        };
        self.describe(entry.as_mut_ptr(), Told::UNLIMITED);
        let is_filling =
            ASKED.query(u64::from(BPF_RB_AVAIL_DATA)) > u64::from(ASKED_RING_BYTES / 2);
        entry.submit(u64::from(if is_filling {
            BPF_RB_FORCE_WAKEUP
        } else {
            BPF_RB_NO_WAKEUP
        }));
    }

    #[inline(always)]
    fn key(&self) -> RateKey {
        RateKey::new(
            self.sender.known(),
            &self.packet.source,
            &self.packet.destination,
            self.skb.ingress_ifindex(),
            [
                self.decision.reason as u8,
                self.decision.verdict as u8,
                self.hook as u8,
                self.packet.family as u8,
            ],
        )
    }

    #[inline(always)]
    fn describe(&self, event: *mut Event, told: Told) {
        let Self {
            skb,
            hook,
            decision,
            packet,
            sender,
            netns_cookie,
        } = *self;
        let socket_cookie = skb.socket_cookie();
        // SAFETY: `event` points to a reserved record of this type, which nobody else sees before it is submitted.
        unsafe {
            (*event).netns_cookie = netns_cookie;
            (*event).socket_cookie = socket_cookie;
            (*event).cgroup_id = skb.cgroup_id();
            (*event).ifindex = skb.ifindex();
            (*event).ingress_ifindex = skb.ingress_ifindex();
            (*event).length = skb.len();
            (*event).segments = skb.segments();
            (*event).uid = skb.uid(socket_cookie != 0);
            (*event).source_port = packet.source_port;
            (*event).destination_port = packet.destination_port;
            (*event).protocol = packet.protocol;
            (*event).family = packet.family as u8;
            (*event).verdict = decision.verdict as u8;
            (*event).reason = decision.reason as u8;
            (*event).hook = hook as u8;
            (*event).role = decision.role as u8;
            (*event).carrier = packet.carrier as u8;
            (*event).padding = [0; 3];
            (*event).rate_created = told.created;
            (*event).suppressed = told.suppressed;
            sender.sign(&mut *event);
            (*event).source = packet.source;
            (*event).destination = packet.destination;
            // The place of the time is free until the time is taken.
            (*event).bytes_len = skb.copy(
                packet.transport,
                &raw mut (*event).bytes,
                &raw mut (*event).boot_time,
            );
            (*event).boot_time = bpf_ktime_get_boot_ns();
        }
    }
}

/// Reserves a record of so many packets and has it filled, or counts that it was lost.
#[inline(always)]
pub(super) fn write(packets: u64, fill: impl FnOnce(*mut Event)) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count_outcome(Outcome::Lost, packets);
        return;
    };
    fill(entry.as_mut_ptr());
    entry.submit(0);
    count_outcome(Outcome::Submitted, packets);
}
