//! Where a test can have the process die: after each change that outlasts it.

/// Says that a change was made. In a debug build, `LEAKGUARD_RESOLVER_DIE=N` kills the process after the Nth.
#[cfg(debug_assertions)]
pub(super) fn changed() {
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::signal::{Signal, raise};

    static CHANGES: AtomicU32 = AtomicU32::new(0);

    let number = CHANGES.fetch_add(1, Ordering::Relaxed) + 1;
    let last = std::env::var("LEAKGUARD_RESOLVER_DIE").ok();
    if last.and_then(|last| last.parse().ok()) == Some(number)
        && let Err(error) = raise(Signal::SIGKILL)
    {
        log::error!("cannot die: {error}");
    }
}

/// Says that a change was made.
#[cfg(not(debug_assertions))]
pub(super) fn changed() {}
