//! What the programs may cost, by what does not depend on the machine: `tests/budgets.toml` says how much, and why.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::collections::BTreeMap;

use leakguard::kernel::object::{CgroupVariant, Loaded, Object};
use leakguard::kernel::pins::Pins;
use leakguard::lab::{Bpffs, Netns};
use leakguard_tests::{Budgets, ProgramBudget};

/// Every program in every variant that this kernel takes.
fn loaded() -> Vec<Loaded> {
    let netns = Netns::new("budgets").unwrap();
    let mut found = BTreeMap::new();
    for variant in CgroupVariant::ALL {
        let bpffs = Bpffs::new().unwrap();
        let pins = Pins::at(bpffs.path());
        let load = || {
            pins.create().unwrap();
            Object::load_variants(&pins, &[variant]).map(|object| object.loaded().to_vec())
        };
        // A kernel may lack what one of the variants asks for.
        for program in netns.run_in(load).unwrap().unwrap_or_default() {
            found.insert(program.name, program);
        }
    }
    assert!(!found.is_empty(), "a variant loads");
    found.into_values().collect()
}

#[test]
fn every_program_stays_within_its_budget() {
    let mut budgets = Budgets::read().programs;
    println!("| program | verified | at most | machine code | at most |");
    println!("|---|---|---|---|---|");
    let programs = loaded();
    for program in &programs {
        let Loaded {
            name,
            verified_instructions,
            jited_bytes,
        } = program;
        let budget = budgets.remove(*name);
        let Some(ProgramBudget {
            verified,
            jited,
            reason,
        }) = budget
        else {
            panic!("{name} has no budget");
        };
        assert!(!reason.is_empty(), "{name}");
        let walked = verified_instructions.unwrap();
        println!("| {name} | {walked} | {verified} | {jited_bytes} | {jited} |");
        assert!(walked <= verified, "{name}: {walked} instructions verified");
        assert!(*jited_bytes <= jited, "{name}: {jited_bytes} bytes");
    }
    // Those that are left are for what this kernel lacks.
    if CgroupVariant::ALL.iter().all(|variant| {
        programs
            .iter()
            .any(|program| program.name == variant.program())
    }) {
        assert!(budgets.is_empty(), "no such programs: {budgets:?}");
    }
}
