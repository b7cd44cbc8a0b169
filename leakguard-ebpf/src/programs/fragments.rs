//! What became of first fragments, for the later ones that follow them.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use leakguard_common::abi::{Carrier, FirstFragment, FragmentKey, Settings, Verdict};
use leakguard_common::packet::{Fragment, Packet};
use leakguard_common::verdict::Decision;

use super::maps::FRAGMENTS;

/// Remembers what is done with a first fragment.
///
/// One that passes is remembered where later ones need it. Else it only clears the memory of an earlier datagram with the
/// same number. A table that takes no more costs the memory, never the verdict.
#[inline(always)]
pub(super) fn remember(packet: &Packet, decision: &Decision, settings: &Settings) {
    if !matches!(packet.fragment, Fragment::First) || !matches!(packet.carrier, Carrier::None) {
        return;
    }
    let key = FragmentKey::of(packet);
    let is_dropped = matches!(decision.verdict, Verdict::Drop);
    if is_dropped || settings.options & Settings::STRICT_FRAGMENTS != 0 {
        let verdict = if is_dropped {
            Verdict::Drop
        } else {
            Verdict::Pass
        };
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        let first = FirstFragment {
            until: now.saturating_add(FirstFragment::LIFETIME),
            verdict: verdict as u32,
            padding: 0,
        };
        let _full = FRAGMENTS.insert(key, first, 0);
    } else {
        let _unknown = FRAGMENTS.remove(key);
    }
}

/// What was done with the first fragment of a datagram.
#[inline(always)]
pub(super) fn recall(datagram: &FragmentKey) -> Option<Verdict> {
    // SAFETY: an entry that is replaced meanwhile says what the old or the new one says.
    let first = unsafe { FRAGMENTS.get(datagram) }?;
    // SAFETY: no arguments.
    if unsafe { bpf_ktime_get_boot_ns() } >= first.until {
        return None;
    }
    Some(if first.verdict == Verdict::Drop as u32 {
        Verdict::Drop
    } else {
        Verdict::Pass
    })
}
