//! How many events are made of the same: enough to know, not so many that they push out others.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use leakguard_common::abi::{Rate, RateKey, Settings};

use super::counters::add_to;
use super::maps::RATES;

/// Not 0 where each packet is to be told of, as for `leakguard explain`.
#[unsafe(no_mangle)]
static EVERY_EVENT: Global<u32> = Global::new(0);

/// What an event says of its rate.
#[derive(Clone, Copy)]
pub(super) struct Told {
    /// [`Rate::created`].
    pub(super) created: u64,
    /// [`Rate::suppressed`].
    pub(super) suppressed: u64,
}

impl Told {
    /// Of what has no limit.
    pub(super) const UNLIMITED: Self = Self {
        created: 0,
        suppressed: 0,
    };
}

/// Whether a packet gets an event; if not, its segments are noted for the next one.
#[inline(always)]
pub(super) fn admit(key: &RateKey, settings: &Settings, segments: u64) -> Option<Told> {
    if settings.rate_per_key == 0 || EVERY_EVENT.load() != 0 {
        return Some(Told::UNLIMITED);
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    // A table that takes no more costs the limit, not the event.
    let Some(rate) = rate(key, now) else {
        return Some(Told::UNLIMITED);
    };
    // SAFETY: the entry stays readable while the program runs; others that write to it at the same time begin the same
    // second, or add.
    unsafe {
        if (*rate).is_over(now) {
            (*rate).window = now;
            (*rate).told = 0;
        }
        if (*rate).told >= u64::from(settings.rate_per_key) {
            add_to(&raw mut (*rate).suppressed, segments);
            return None;
        }
        add_to(&raw mut (*rate).told, 1);
        Some(Told {
            created: (*rate).created,
            suppressed: (*rate).suppressed,
        })
    }
}

#[inline(always)]
fn rate(key: &RateKey, now: u64) -> Option<*mut Rate> {
    if let Some(rate) = RATES.get_ptr_mut(key) {
        return Some(rate);
    }
    let first = Rate {
        created: now,
        window: now,
        ..Rate::default()
    };
    // Another processor may have been first.
    let _exists = RATES.insert(key, first, u64::from(BPF_NOEXIST));
    RATES.get_ptr_mut(key)
}
