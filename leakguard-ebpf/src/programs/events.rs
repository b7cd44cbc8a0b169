//! Reports a judged packet to user space; a full ring costs the report, never the verdict.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use leakguard_common::abi::{Event, Hook, Outcome};
use leakguard_common::packet::Packet;
use leakguard_common::verdict::Decision;

use super::context::Skb;
use super::counters::count_event;
use super::maps::EVENTS;

/// Writes an event, or counts that it was lost.
///
/// `sign` writes into the record what the hook knows of the sender: namespace, process, command. By way of the stack, it
/// would take room that a program does not have.
#[inline(always)]
pub(super) fn report(
    skb: Skb,
    hook: Hook,
    decision: &Decision,
    packet: &Packet,
    sign: impl FnOnce(&mut Event),
) {
    write(|event| describe(event, skb, hook, decision, packet, sign));
}

/// Reserves a record and has it filled, or counts that it was lost.
#[inline(always)]
pub(super) fn write(fill: impl FnOnce(*mut Event)) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count_event(Outcome::Lost);
        return;
    };
    fill(entry.as_mut_ptr());
    entry.submit(0);
    count_event(Outcome::Submitted);
}

/// Names the current task as the sender.
#[inline(always)]
pub(super) fn sign_current(event: &mut Event) {
    // SAFETY: no arguments.
    event.pid = unsafe { bpf_get_current_pid_tgid() >> 32 } as u32;
    // SAFETY: the buffer is 16 writable bytes, which the helper fills, or clears if it fails.
    unsafe { bpf_get_current_comm(event.comm.as_mut_ptr().cast(), 16) };
}

#[inline(always)]
fn describe(
    event: *mut Event,
    skb: Skb,
    hook: Hook,
    decision: &Decision,
    packet: &Packet,
    sign: impl FnOnce(&mut Event),
) {
    let socket_cookie = skb.socket_cookie();
    // SAFETY: `event` points to a reserved record of this type, which nobody else sees before it is submitted.
    unsafe {
        (*event).netns_cookie = 0;
        (*event).socket_cookie = socket_cookie;
        (*event).cgroup_id = skb.cgroup_id();
        (*event).ifindex = skb.ifindex();
        (*event).ingress_ifindex = skb.ingress_ifindex();
        (*event).length = skb.len();
        (*event).segments = skb.segments();
        (*event).pid = 0;
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
        (*event).comm = [0; 16];
        sign(&mut *event);
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
