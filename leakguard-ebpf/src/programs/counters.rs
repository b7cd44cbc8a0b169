//! Counters that stay exact.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::maps::PerCpuArray;
use leakguard_common::abi::Outcome;
use leakguard_common::counter::Series;

use super::maps::{OUTCOMES, PACKETS};

/// Counts packets of one series.
#[inline(always)]
pub(super) fn count_packets(series: &Series, packets: u64) {
    add(&PACKETS, series.index(), packets);
}

/// Counts an event that was written or lost.
#[inline(always)]
pub(super) fn count_event(outcome: Outcome) {
    add(&OUTCOMES, outcome as u32, 1);
}

#[inline(always)]
fn add(counters: &PerCpuArray<u64>, index: u32, amount: u64) {
    let Some(counter) = counters.get_ptr_mut(index) else {
        return;
    };
    // `AtomicU64` has no read-modify-write on a target without compare-and-swap; the intrinsic becomes the BPF
    // instruction that every kernel has.
    // SAFETY: the pointer comes from a per-CPU array of u64, which the kernel aligns to 8 bytes and keeps for the
    // program's whole run. Atomic, because a softirq on the same CPU may run the same program in between.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, amount) };
}
