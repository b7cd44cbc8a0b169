//! Reports a judged packet to user space; a full ring costs the report, never the verdict.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use leakguard_common::abi::{Event, Hook, Outcome};
use leakguard_common::packet::Packet;
use leakguard_common::verdict::Decision;

use super::context::Skb;
use super::counters::count_event;
use super::maps::EVENTS;

/// What a hook knows of the sender beyond the packet.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    pub(super) netns_cookie: u64,
    pub(super) pid: u32,
    pub(super) comm: [u8; 16],
}

impl Sender {
    pub(super) const UNKNOWN: Self = Self {
        netns_cookie: 0,
        pid: 0,
        comm: [0; 16],
    };
}

/// Writes an event, or counts that it was lost.
#[inline(always)]
pub(super) fn report(skb: Skb, hook: Hook, decision: &Decision, packet: &Packet, sender: &Sender) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count_event(Outcome::Lost);
        return;
    };
    let event = entry.as_mut_ptr();
    let socket_cookie = skb.socket_cookie();
    // SAFETY: `event` points to a reserved record of this type, which nobody else sees before it is submitted.
    unsafe {
        (*event).netns_cookie = sender.netns_cookie;
        (*event).socket_cookie = socket_cookie;
        (*event).cgroup_id = skb.cgroup_id();
        (*event).ifindex = skb.ifindex();
        (*event).ingress_ifindex = skb.ingress_ifindex();
        (*event).length = skb.len();
        (*event).segments = skb.segments();
        (*event).pid = sender.pid;
        (*event).uid = skb.uid(socket_cookie != 0);
        (*event).source_port = packet.source_port;
        (*event).destination_port = packet.destination_port;
        (*event).protocol = packet.protocol;
        (*event).family = packet.family as u8;
        (*event).verdict = decision.verdict as u8;
        (*event).reason = decision.reason as u8;
        (*event).hook = hook as u8;
        (*event).role = decision.role as u8;
        (*event).comm = sender.comm;
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
    entry.submit(0);
    count_event(Outcome::Submitted);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        &skb,
        "reason {} at hook {}: verdict {} on interface {}",
        decision.reason as u8,
        hook as u8,
        decision.verdict as u8,
        skb.ifindex()
    );
}
