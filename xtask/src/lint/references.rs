//! Documents that name tests: the tests exist, and nothing that is promised or admitted is without one unless it says why.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{
    lint::tidy::rust_files,
    report::line,
    workspace::{Metadata, root},
};

/// Documents that name tests, and whether each of its bullets has to.
const DOCUMENTS: [(&str, bool); 2] = [("docs/known-issues.md", true), ("docs/security.md", false)];

/// Where a file is that is named without a directory of its own.
const DEFAULT: &str = "tests/tests";

pub(super) fn check(metadata: &Metadata) -> Result<()> {
    let mut sources = Vec::new();
    for package in metadata.packages()? {
        sources.extend(rust_files(&package.dir)?);
    }
    let has_test = |file: &str, name: &str| {
        let places = [root().join(DEFAULT).join(file), root().join(file)];
        let declaration = format!("fn {name}()");
        let mut files = sources.iter().filter(|path| places.contains(path));
        files.any(|path| declares(path, &declaration))
    };
    let mut findings = 0;
    for (document, bullets) in DOCUMENTS {
        let text = fs::read_to_string(root().join(document))
            .with_context(|| format!("cannot read {document}"))?;
        for finding in findings_in(&text, bullets, has_test) {
            line(format_args!("{document}: {finding}"));
            findings += 1;
        }
    }
    if findings > 0 {
        bail!("documents name tests that do not exist, or none where one has to be named");
    }
    Ok(())
}

fn declares(path: &Path, declaration: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.contains(declaration))
}

/// What is wrong in a document.
fn findings_in(text: &str, bullets: bool, has_test: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for (file, name) in references(text) {
        if !has_test(file, name) {
            findings.push(format!("there is no test {file}::{name}"));
        }
    }
    // A row is a line; a bullet goes on as far as it is indented.
    let mut named = false;
    for text in text.replace("\n  ", " ").lines() {
        let is_row = text.starts_with('|');
        if is_row && text.ends_with("| test |") {
            named = true;
        } else if !is_row {
            named = false;
        }
        let place = if is_row && named {
            text.trim_end_matches('|').rsplit('|').next()
        } else if bullets && text.starts_with("- ") {
            text.rsplit('(').next()
        } else {
            continue;
        };
        let place = place.unwrap_or_default();
        let says_why = place.trim_start().starts_with("no test: ");
        let is_rule = place.contains("---") || place.trim() == "test";
        if !says_why && !is_rule && references(place).next().is_none() {
            let start: String = text.chars().take(60).collect();
            findings.push(format!("no test is named, nor why there is none: {start}"));
        }
    }
    findings
}

/// The tests that a text names, as file and function: `file.rs::name` between backticks.
fn references(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`')
        .filter(|word| word.contains(".rs::"))
        .filter_map(|word| word.split_once("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        findings_in(text, true, |file, name| (file, name) == ("a/b.rs", "there"))
    }

    #[test]
    fn the_documents_name_tests_that_exist() {
        check(&Metadata::load().unwrap()).unwrap();
    }

    #[test]
    fn a_test_that_is_gone_is_found() {
        assert_eq!(found("See `a/b.rs::there`, `a/b.rs`, `x::y`.\n"), [""; 0]);
        assert_eq!(
            found("See `a/b.rs::gone`.\n"),
            ["there is no test a/b.rs::gone"]
        );
    }

    #[test]
    fn rows_and_bullets_name_a_test_or_say_why_not() {
        let head = "| what | test |\n|---|---|\n";
        let good = "| one (of it) | `a/b.rs::there` |\n| two | no test: hardware |\n";
        assert_eq!(found(&format!("{head}{good}")), [""; 0]);
        assert_eq!(found(&format!("{head}| three | |\n")).len(), 1);
        assert_eq!(
            found("| of another | table |\n|---|---|\n| a | b |\n"),
            [""; 0]
        );
        let good = "- one\n  (test: `a/b.rs::there`)\n- two (x)\n  (no test: hardware)\n";
        assert_eq!(found(good), [""; 0]);
        assert_eq!(found("- one\n  (of\n  two)\n- two\n").len(), 2);
    }
}
