//! All contact with bpf(2): nothing outside this module knows aya.
//!
//! | module | owns |
//! |---|---|
//! | [`requirements`] | what must be there before anything is attached, and the remedy if it is not |
//! | [`netns`] | the identity of the managed network namespace |
//! | [`pins`] | the pin directory, its version and its lock |
//! | `loader` | aya's loader, without the kernel's types |
//! | `instance` | one load of the embedded object, in the variants that this kernel takes |
//! | [`object`] | the object on the pinned maps, to be attached |
//! | `pending` | what is still being loaded while the first program enforces |
//! | [`trial`] | the object beside what enforces, to be asked |
//! | [`exemptions`] | what an engaged kill switch lets out |
//! | [`recognition`] | what packets are known by besides their ports |
//! | `tables` | sets of prefixes |
//! | [`maps`] | typed access to the pinned maps |
//! | `clsact` | the filter that stands in for TCX on old kernels |
//! | `held` | links and maps that this process holds open, and their pins |
//! | `inherit` | what an earlier process has left: checked, completed |
//! | `overtake` | how often a foreign TC program may be overtaken |
//! | `versions` | the state of other versions: refused, or superseded |
//! | `rtnetlink` | what the filter needs of netlink |
//! | [`links`] | attach, replace and find links, and read back what the kernel has |
//! | [`enforcement`] | the whole of it: establish, follow the interfaces, release |
//! | [`rates`] | what got no event of its own |
//! | [`read_back`] | what enforces, without an agent's help |
//! | [`ring`] | the event ring as an asynchronous source |

mod btf;
mod clsact;
pub mod enforcement;
pub mod exemptions;
mod held;
mod inherit;
mod instance;
pub mod links;
pub mod maps;
pub mod netns;
pub mod object;
mod overtake;
mod pending;
pub mod pins;
mod programs;
pub mod rates;
pub mod read_back;
pub mod recognition;
pub mod redirection;
pub mod requirements;
pub mod ring;
mod rtnetlink;
mod syscall;
mod tables;
pub mod trial;
mod versions;

use std::io;
use std::path::PathBuf;

pub use enforcement::{Device, Enforcement};
pub use exemptions::Exemptions;
pub use recognition::Recognition;
pub use redirection::Redirection;

use crate::host::since_boot;

/// Why the kernel side could not be set up, changed or read.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A kernel feature or a privilege is missing.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// The feature or privilege.
        what: String,
        /// What to do about it.
        remedy: String,
        /// What the kernel said, if it was asked.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A system call failed for another reason.
    #[error("{call} failed for {subject}")]
    Call {
        /// The call or command of bpf(2).
        call: &'static str,
        /// What it was about.
        subject: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The object could not be loaded.
    #[error("the kernel refuses {program}")]
    Load {
        /// The program, or the object.
        program: String,
        /// aya's error, which holds the verifier's log.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map could not be read or written.
    #[error("the map {map} cannot be used")]
    Map {
        /// Its name.
        map: &'static str,
        /// aya's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something else is pinned where leakguard's state should be.
    #[error("{path} is not leakguard's {expected}; if nothing else uses it, remove the directory")]
    Foreign {
        /// The pin.
        path: PathBuf,
        /// What was expected there.
        expected: &'static str,
    },
    /// The pinned state enforces in another network namespace.
    #[error(
        "the state under {path} belongs to another network namespace; use another --bpffs directory, or lift \
         it with `leakguard release --bpffs {bpffs}`"
    )]
    OtherNamespace {
        /// The pin directory.
        path: PathBuf,
        /// The bpffs directory it was found through.
        bpffs: PathBuf,
    },
    /// A version that this one does not know has left its state.
    #[error(
        "the state under {path} is of another version of leakguard, which this one cannot take over; run that \
         version, or lift it with `leakguard release --bpffs {bpffs}`"
    )]
    OtherVersion {
        /// Its directory.
        path: PathBuf,
        /// The bpffs directory it was found through.
        bpffs: PathBuf,
    },
    /// Maps are not pinned, or not any more.
    #[error(
        "the state under {path} is incomplete or is being changed; `leakguard status` says more"
    )]
    Changed {
        /// The pin directory.
        path: PathBuf,
    },
    /// Another process works on the same state.
    #[error("another leakguard works on {path}; stop it first, or use its control socket")]
    Locked {
        /// The pin directory.
        path: PathBuf,
    },
}

/// The time since boot in nanoseconds, as programs are told it (`bpf_ktime_get_boot_ns`).
fn boot_time() -> Result<u64, KernelError> {
    since_boot()
        .and_then(|now| u64::try_from(now.as_nanos()).map_err(io::Error::other))
        .map_err(KernelError::call("clock_gettime", "CLOCK_BOOTTIME"))
}

impl KernelError {
    /// Whether this is exit code 4: something that the machine lacks.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// Whether the kernel would not work with what it was given (`EINVAL`).
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.kind() == io::ErrorKind::InvalidInput)
    }

    fn call(call: &'static str, subject: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let subject = subject.into();
        move |source| Self::Call {
            call,
            subject,
            source,
        }
    }

    fn map(map: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Map {
            map,
            source: source.into(),
        }
    }
}
