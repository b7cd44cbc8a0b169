//! What the privileged tests share, besides `leakguard::lab`.
#![expect(
    clippy::panic,
    reason = "all of this is test code: a panic is how a test fails"
)]

use std::path::PathBuf;

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
