//! The ways out that docs/known-issues.md lists as open are open, and each next to one that is shut: when one of them is
//! shut too, its test fails and its row has to go.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod agentless;
mod bypass;
#[path = "../device/mod.rs"]
mod device;
mod encapsulated;
mod https;
mod kill_switch;
mod root;
mod wire;

use leakguard::lab::Topology;

const UPLINK: &str = Topology::UPLINK;

/// How many of the frames that have left end in this.
fn count(frames: &[Vec<u8>], payload: &[u8]) -> usize {
    frames
        .iter()
        .filter(|frame| frame.ends_with(payload))
        .count()
}
