//! What would become of a packet, and why: asked of the kernel programs themselves, without sending anything.
//!
//! | module | owns |
//! |---|---|
//! | [`tuple`] | a packet by protocol, source and destination |
//! | [`capture`] | packets out of pcap and pcapng files |
//! | [`frame`] | a packet in the forms that the hooks see, whatever it was captured behind |
//! | [`judge`] | the programs beside what enforces, and the ways out of this host |
//! | [`report`] | what is told of a packet, and of all of them |

pub mod capture;
pub mod frame;
mod hook;
pub mod judge;
mod look;
pub mod report;
pub mod tuple;
mod why;

use std::path::PathBuf;

use crate::guard::GuardError;
use crate::interfaces::NetlinkError;
use crate::kernel::KernelError;

pub use capture::{Capture, CaptureError, Captured};
pub use frame::{Frame, LinkType};
pub use judge::{Basis, Journey, Judge};
pub use report::{Explanation, Summary};
pub use tuple::{Tuple, TupleError};

/// Why packets could not be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The kernel side, or what is enforced, could not be read.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// What is enforced is not whole.
    #[error("what is enforced cannot be asked: {why}")]
    Incomplete {
        /// What is missing, with the remedy.
        why: String,
    },
    /// What is enforced is of another namespace.
    #[error(
        "what is enforced under {} is for another network namespace; run this in that one, for example by \
         `nsenter --net=/run/netns/NAME leakguard explain`",
        bpffs.display()
    )]
    Elsewhere {
        /// The bpffs directory it was found through.
        bpffs: PathBuf,
    },
}

impl From<KernelError> for ExplainError {
    fn from(error: KernelError) -> Self {
        Self::Guard(error.into())
    }
}

impl From<NetlinkError> for ExplainError {
    fn from(error: NetlinkError) -> Self {
        Self::Guard(error.into())
    }
}
