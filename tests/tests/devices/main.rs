//! What the kernel makes out of other devices, its own WireGuard and its `IPsec`, on kernels that have them:
//! `cargo xtask vm-test --suite devices`.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails"
)]

mod ipsec;
mod stacked;
mod wireguard;

use leakguard_tests::Bench;
use serde_json::Value;

/// Probes of each kind.
const N: usize = 10;
/// IPv4 and IPv6.
const FAMILIES: [usize; 2] = [0, 1];

/// What the machine's own kernel need not have; where it is missing, that fails and says where it is not.
#[track_caller]
fn created<T, E: std::fmt::Debug>(what: &str, result: Result<T, E>) -> T {
    match result {
        Ok(made) => made,
        Err(error) => {
            panic!("if the kernel lacks {what}: `cargo xtask vm-test --suite devices`: {error:?}")
        }
    }
}

/// Every packet that was dropped, whatever dropped it.
fn dropped(bench: &mut Bench) -> u64 {
    let status = bench.agent().status_json().unwrap();
    let second_net = ["routed", "bridged"].map(|what| &status["netfilter"][what]);
    let second_net: u64 = second_net.into_iter().filter_map(Value::as_u64).sum();
    leakguard_tests::packets(&status, &[("verdict", "drop")]) + second_net
}

/// How many of these payloads end one of the frames, behind whatever headers.
fn among(frames: &[Vec<u8>], payloads: &[Vec<u8>]) -> usize {
    let is_seen = |payload: &&Vec<u8>| frames.iter().any(|frame| frame.ends_with(payload));
    payloads.iter().filter(is_seen).count()
}

/// Payloads that nothing else has.
fn payloads(what: &str) -> Vec<Vec<u8>> {
    let payload = |number| format!("devices {what} {number:03}").into_bytes();
    (0..N).map(payload).collect()
}
