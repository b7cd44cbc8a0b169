//! Judges any packet under any settings, and the same datagram sent in other ways: what holds of every verdict holds.

#![no_main]

#[path = "../../leakguard-common/tests/invariants/case.rs"]
mod case;
#[path = "../../leakguard-common/tests/invariants/check.rs"]
mod check;
#[path = "../../leakguard-common/tests/invariants/disguise.rs"]
mod disguise;
#[path = "../../leakguard-common/tests/looks/mod.rs"]
mod looks;

use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some(case) = case::Case::decode(input) else {
        return Corpus::Reject;
    };
    if let Err(wrong) = check::check(&case) {
        panic!("{wrong}");
    }
    Corpus::Keep
});
