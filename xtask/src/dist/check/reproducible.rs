//! Whether the same files give the same packages.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    dist::{Packages, Release, archive, stage::Tree},
    process::Cmd,
    report::{line, say},
    test::libtest::Tally,
    workspace,
};

/// Packs everything again, after the files have got other times, and compares; a release of another time has to differ.
pub(super) fn check(release: &Release, tree: &Tree, packages: &Packages) -> Result<Tally> {
    say("dist", "packing again");
    let first = sums(packages)?;
    let kept = release.fresh("check/first")?;
    for file in packages.files() {
        let place = kept.join(file.file_name().unwrap_or_default());
        fs::copy(file, &place).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Cmd::new("find", workspace::CARGO_LIMIT)
        .arg(&tree.root)
        .args([
            "-exec",
            "touch",
            "--no-dereference",
            "--date=2001-01-01",
            "{}",
            "+",
        ])
        .output()?;
    let second = sums(&Packages::make(release, tree)?)?;
    let mut tally = compare(&first, &second);

    let later = Release {
        version: release.version.clone(),
        epoch: release.epoch + 1,
        directory: release.fresh("check/later")?,
    };
    let archive = archive::release(&later, tree, &later.directory)?;
    let differs = !first.contains(&archive::sha256(&archive)?);
    if !differs {
        line("    another time gives the same archive: equal checksums prove nothing");
    }
    tally += super::step(differs);
    Ok(tally)
}

fn sums(packages: &Packages) -> Result<String> {
    fs::read_to_string(&packages.sums)
        .with_context(|| format!("cannot read {}", packages.sums.display()))
}

/// Each line is a checksum and a file's name.
fn compare(first: &str, second: &str) -> Tally {
    let mut tally = Tally::default();
    for (first, second) in first.lines().zip(second.lines()) {
        let same = first == second;
        if !same {
            let name = Path::new(first.split_whitespace().last().unwrap_or_default());
            line(format_args!("    {} is not the same again", name.display()));
        }
        tally += super::step(same);
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_differs_is_counted() {
        let tally = compare("1  a\n2  b\n", "1  a\n3  b\n");
        assert_eq!((tally.passed, tally.failed), (1, 1));
    }
}
