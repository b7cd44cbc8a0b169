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

/// Counts what became of packets that are worth an event.
#[inline(always)]
pub(super) fn count_outcome(outcome: Outcome, packets: u64) {
    add(&OUTCOMES, outcome as u32, packets);
}

#[inline(always)]
fn add(counters: &PerCpuArray<u64>, index: u32, amount: u64) {
    let Some(counter) = counters.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: the pointer comes from a per-CPU array of u64, which the kernel aligns to 8 bytes and keeps for the
    // program's whole run. Atomic, because a softirq on the same CPU may run the same program in between.
    unsafe { add_to(counter, amount) };
}

/// Adds to a number that other programs may add to at the same time.
///
/// # Safety
///
/// It must be in a map's value, and aligned.
#[inline(always)]
pub(super) unsafe fn add_to(number: *mut u64, amount: u64) {
    // `AtomicU64` has no read-modify-write on a target without compare-and-swap; the intrinsic becomes the BPF
    // instruction that every kernel has.
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(number, amount) };
}
