//! `leakguard verify` against leaks that were planted, and on a host that has none.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and what was counted is for people to read"
)]

mod agent;
mod by_hand;
mod planted;
mod runs;
mod sound;
mod tunnel;
