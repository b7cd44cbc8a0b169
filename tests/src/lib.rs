//! What the privileged tests share, besides `leakguard::lab`.

#![expect(
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a helper that fails has to fail its test"
)]

mod bench;
mod memory;
mod origin;
mod scene;
mod status;
mod storm;
mod tun;
mod volley;
mod way;

use std::path::PathBuf;

pub use bench::{Bench, Place, isp};
pub use memory::MemoryLimit;
pub use origin::{Origin, connect};
pub use scene::{Scene, soaks};
pub use status::{interface, packets, second_net};
pub use storm::{KINDS, Storm, Stormed, Tally, escaped};
pub use tun::Tun;
pub use volley::{Transport, Volley};
pub use way::Carrier;

/// The agent under test; `cargo xtask test` builds it and names it in `LEAKGUARD_BIN`.
///
/// # Panics
///
/// If it is not named: a test must not pick up some other build.
pub fn agent_binary() -> PathBuf {
    match std::env::var_os("LEAKGUARD_BIN") {
        Some(path) => path.into(),
        None => panic!("LEAKGUARD_BIN is not set: run the tests with `cargo xtask test`"),
    }
}
