//! `cargo xtask dist --check`: what was made is installed, run, upgraded and removed.

mod debian;
mod image;
mod lint;
mod reproducible;
mod sbom;

use crate::{
    dist::{Packages, Release, stage::Tree},
    report,
    test::libtest::Tally,
};

/// The tests, the quick ones first.
pub(super) const NAMES: [&str; 6] = [
    "reproducible",
    "sbom",
    "lintian",
    "image",
    "debian",
    "piuparts",
];

/// Runs the tests that are wanted, and counts what went as it should.
pub(super) fn tally(
    release: &Release,
    tree: &Tree,
    packages: &Packages,
    wanted: impl Fn(&str) -> bool,
) -> Tally {
    let mut total = Tally::default();
    for name in NAMES.into_iter().filter(|name| wanted(name)) {
        let outcome = match name {
            "reproducible" => reproducible::check(release, tree, packages),
            "sbom" => sbom::check(packages),
            "lintian" => lint::lintian(packages),
            "image" => image::check(release, packages),
            "debian" => debian::check(release, packages),
            _ => lint::piuparts(release, packages),
        };
        total += outcome.unwrap_or_else(|error| {
            report::error(&error);
            Tally::FAILED
        });
    }
    total
}

/// One step's outcome.
fn step(passed: bool) -> Tally {
    if passed {
        Tally {
            passed: 1,
            failed: 0,
        }
    } else {
        Tally::FAILED
    }
}
