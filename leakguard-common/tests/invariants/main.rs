//! What holds of every verdict, on generated packets and on what the fuzzers start from.

#![expect(clippy::unwrap_used, reason = "everything here is a test, helpers too")]

#[path = "../builder/mod.rs"]
mod builder;
mod case;
mod check;
mod disguise;
#[path = "../facts/mod.rs"]
mod facts;
#[path = "../differential/generate.rs"]
mod generate;
#[path = "../looks/mod.rs"]
mod looks;
#[path = "../differential/oracle.rs"]
mod oracle;

use std::fs;
use std::path::Path;

use leakguard_common::packet::LinkLayer;
use proptest::prelude::*;

use self::case::{Case, HEAD};
use self::check::{Checked, check};
use self::generate::generate;

/// The fuzzer's seeds, and what it has found.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let files = fs::read_dir(directory.join(target)).unwrap();
    let seeds: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            (path.display().to_string(), fs::read(path).unwrap())
        })
        .collect();
    assert!(seeds.len() > 10, "{target}: {}", seeds.len());
    seeds
}

#[test]
fn seeds_of_the_parser_are_read_as_etherparse_reads_them() {
    for (name, bytes) in seeds("packet") {
        for link in [LinkLayer::Ethernet, LinkLayer::Ip, LinkLayer::Unknown] {
            let checked = oracle::check(&bytes, link);
            assert!(checked.is_ok(), "{name}: {link:?}: {checked:?}");
        }
    }
}

#[test]
fn seeds_of_the_verdict_keep_what_holds_of_all() {
    let mut of_class = 0;
    for (name, input) in seeds("verdict") {
        let case = Case::decode(&input).unwrap_or_else(|| panic!("{name} is too short"));
        let checked = check(&case).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        of_class += usize::from(checked.is_of_class);
    }
    assert!(of_class > 0, "they all mean nothing");
}

#[test]
fn generated_packets_keep_what_holds_of_all() {
    let mut total = [0; 2];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 50_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let sum = std::cell::RefCell::new(&mut total);
    runner
        .run(&(any::<[u8; HEAD]>(), any::<u64>()), |(head, seed)| {
            let generated = generate(seed);
            let mut case = Case::decode(&[&head[..], &generated.bytes].concat()).unwrap();
            case.link = generated.link;
            let Checked {
                is_of_class,
                disguises,
            } = check(&case).map_err(TestCaseError::fail)?;
            let mut sum = sum.borrow_mut();
            sum[0] += usize::from(is_of_class);
            sum[1] += disguises;
            Ok(())
        })
        .unwrap();
    // Guards against packets that are so broken that nothing is compared.
    let [of_class, disguises] = total;
    assert!(of_class > 5_000 && disguises > 50_000, "{total:?}");
}
