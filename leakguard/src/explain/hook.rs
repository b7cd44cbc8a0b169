//! One packet past one hook.

use leakguard_common::abi::{Reason, Verdict};
use leakguard_common::packet::LinkLayer;

use super::Frame;
use super::look::Look;
use super::report::HookRuling;
use crate::event::read;
use crate::kernel::KernelError;
use crate::kernel::trial::{Asked, Ruling, STRIPPED, Trial, Way};

/// The most that the kernel runs a program over is what fits into a page with the room before and behind it
/// (`bpf_test_init` in `net/bpf/test_run.c`); this fits with every such room. What lies behind is payload.
pub(super) const MOST: usize = 3072;

/// The least is an Ethernet header.
const LEAST: usize = 14;

/// An Ethernet and an IPv6 header, or the same of IPv4, are enough for every kernel.
const ALWAYS: usize = 14 + 40;

/// What came of asking.
pub(super) enum Answer {
    /// Such a packet never gets there.
    Unseen,
    /// The kernel does not run a program over so short a packet.
    TooShort,
    /// What it says.
    Says {
        ruling: HookRuling,
        /// Whether the packet goes on to the next hook.
        passes: bool,
    },
}

/// Asks a program about a packet; `look` learns what it has written of it.
pub(super) fn ask(
    trial: &mut Trial,
    asked: Asked,
    frame: &Frame,
    way: &Way,
    look: &mut Look,
) -> Result<Answer, KernelError> {
    let Some(packet) = form(asked, frame) else {
        return Ok(Answer::Unseen);
    };
    if packet.len() < LEAST {
        return Ok(Answer::TooShort);
    }
    match trial.ask(asked, &packet[..packet.len().min(MOST)], way) {
        Ok(ruling) => Ok(Answer::Says {
            ruling: said(asked, &ruling, look),
            passes: ruling.passes,
        }),
        Err(error) if error.is_refusal() && packet.len() < ALWAYS => Ok(Answer::TooShort),
        Err(error) => Err(error),
    }
}

/// A packet as a program sees it; `None` if it never does.
fn form(asked: Asked, frame: &Frame) -> Option<Vec<u8>> {
    match asked {
        Asked::Cgroup => {
            let packet = frame.ip()?;
            // What comes first is stripped.
            let made = Frame::around(packet).ok()?;
            debug_assert_eq!(made.ethernet().len(), STRIPPED + packet.len());
            Some(made.ethernet().to_vec())
        }
        Asked::Tc(LinkLayer::Ethernet) => Some(frame.ethernet().to_vec()),
        Asked::Tc(LinkLayer::Ip) => frame.ip().map(<[u8]>::to_vec),
        // Such a program takes either.
        Asked::Tc(LinkLayer::Unknown) => {
            Some(frame.ip().unwrap_or_else(|| frame.ethernet()).to_vec())
        }
    }
}

/// What a program has said, with what it has written of the packet.
fn said(asked: Asked, ruling: &Ruling, look: &mut Look) -> HookRuling {
    let hook = asked.hook().name();
    let record = ruling.record.as_deref().and_then(read);
    if let Some(record) = &record {
        look.correct(record);
    }
    let written = record.and_then(|record| {
        Some((
            Verdict::from_wire(record.verdict)?,
            Reason::from_wire(record.reason)?,
        ))
    });
    let (verdict, reason) = match (ruling.passes, written) {
        (_, Some(written)) => written,
        (true, None) => (Verdict::Pass, ruling.permitted.unwrap_or(Reason::Other)),
        (false, None) => (Verdict::Drop, Reason::Other),
    };
    HookRuling {
        hook,
        verdict: verdict.name(),
        reason: reason.name(),
    }
}
