//! Parses and judges any bytes in every link layer, and compares the result with etherparse's.

#![no_main]

#[path = "../../leakguard-common/tests/facts/mod.rs"]
mod facts;
#[path = "../../leakguard-common/tests/differential/oracle.rs"]
mod oracle;

use leakguard_common::packet::LinkLayer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for link in [LinkLayer::Ethernet, LinkLayer::Ip, LinkLayer::Unknown] {
        if let Err(wrong) = oracle::check(bytes, link) {
            panic!("{link:?}: {wrong}");
        }
    }
});
