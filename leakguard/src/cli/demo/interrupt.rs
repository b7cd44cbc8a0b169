use std::sync::atomic::{AtomicBool, Ordering};
use std::{error, fmt};

use nix::libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static CAUGHT: AtomicBool = AtomicBool::new(false);

/// The user has asked the demo to end, or has stopped listening.
#[derive(Debug)]
pub(super) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl error::Error for Interrupted {}

/// Makes the signals that ask for the end set a flag, so that the guards can take the lab down.
pub(super) fn catch() -> nix::Result<()> {
    extern "C" fn note(_: c_int) {
        CAUGHT.store(true, Ordering::Relaxed);
    }
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    // A reader that has seen enough (`demo | head`) must not skip the guards either: the next line
    // fails instead.
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring a signal installs no handler.
    unsafe { sigaction(Signal::SIGPIPE, &ignore) }?;
    Ok(())
}

pub(super) fn is_set() -> bool {
    CAUGHT.load(Ordering::Relaxed)
}

/// An error once a signal has come.
pub(super) fn check() -> Result<(), Interrupted> {
    if is_set() { Err(Interrupted) } else { Ok(()) }
}
