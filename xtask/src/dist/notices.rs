//! The licences of what a static program is linked with: they want to be passed on with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

use crate::dist::linked::crates;

/// The C library of a static program; Debian's package says whose it is.
const LIBC: (&str, &str) = ("musl, the C library", "/usr/share/doc/musl/copyright");

/// How files of licences begin.
const NAMES: [&str; 6] = [
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];

const HEAD: &str = "leakguard is linked statically. This file has the licences of what is in it: of each crate that it is built \
    of, and of the C library. Those of the Rust standard library are in rust-library.html. Each text stands once, below the \
    names of all that it belongs to.\n";

/// All texts, each with the names of what it belongs to.
pub(super) fn text() -> Result<String> {
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut add = |name: String, text: &str| {
        texts
            .entry(text.trim_end().to_owned())
            .or_default()
            .insert(name);
    };
    let mut without = Vec::new();
    // Those of the workspace are what `copyright` is about.
    for krate in crates()?.into_iter().filter(|krate| !krate.is_ours) {
        let title = format!("{} {} ({})", krate.name, krate.version, krate.licence);
        let files = licences(&krate.directory)?;
        for text in &files {
            add(title.clone(), text);
        }
        if files.is_empty() {
            without.push(title);
        }
    }
    let libc = fs::read_to_string(LIBC.1).with_context(|| format!("cannot read {}", LIBC.1))?;
    add(LIBC.0.to_owned(), &libc);
    ensure!(texts.len() > 1, "no crate has a licence");

    let mut ordered: Vec<_> = texts.into_iter().collect();
    ordered.sort_by(|(_, a), (_, b)| a.cmp(b));
    let mut all = HEAD.to_owned();
    if !without.is_empty() {
        write!(
            all,
            "\nWithout a text of their own, only the name of the licence:\n"
        )?;
        for title in without {
            writeln!(all, "  {title}")?;
        }
    }
    for (text, names) in ordered {
        write!(all, "\n{}\n", "=".repeat(80))?;
        for name in names {
            writeln!(all, "{name}")?;
        }
        write!(all, "{}\n{text}\n", "-".repeat(80))?;
    }
    Ok(all)
}

/// The texts of the licences that are in a directory.
fn licences(directory: &Path) -> Result<Vec<String>> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().to_uppercase();
            NAMES.iter().any(|start| name.starts_with(start)) && entry.path().is_file()
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| {
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
        })
        .collect()
}
