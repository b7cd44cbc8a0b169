//! The licences of what a static program is linked with: they want to be passed on with it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{setup::toolchain::STATIC_TARGET, workspace};

/// The packages that end up in the program, and the target that each is built for: the kernel programs are in it too.
const ROOTS: [(&str, &str); 2] = [
    ("leakguard", STATIC_TARGET),
    ("leakguard-ebpf", "bpfel-unknown-none"),
];

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
    for krate in crates()? {
        let files = licences(&krate.directory)?;
        for text in &files {
            add(krate.title.clone(), text);
        }
        if files.is_empty() {
            without.push(krate.title);
        }
    }
    let libc = fs::read_to_string(LIBC.1).with_context(|| format!("cannot read {}", LIBC.1))?;
    add(LIBC.0.to_owned(), &libc);
    ensure!(texts.len() > 1, "no crate has a licence");

    let mut ordered: Vec<_> = texts.into_iter().collect();
    ordered.sort_by(|(_, a), (_, b)| a.cmp(b));
    let mut all = HEAD.to_owned();
    if !without.is_empty() {
        without.sort();
        without.dedup();
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

/// A crate, with its version and the name of its licence.
struct Crate {
    title: String,
    directory: String,
}

/// The crates of others that end up in the program.
fn crates() -> Result<Vec<Crate>> {
    let mut crates = BTreeMap::new();
    for (root, target) in ROOTS {
        let json = workspace::cargo("metadata")
            .args(["--format-version=1", "--locked"])
            .arg(format!("--filter-platform={target}"))
            .output()?;
        let metadata: Value =
            serde_json::from_str(&json).context("cannot parse cargo's metadata")?;
        for package in linked(&metadata, root).with_context(|| format!("no package `{root}`"))? {
            // Those of the workspace are what `copyright` is about.
            if package["source"].is_null() {
                continue;
            }
            let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
            let manifest = text("manifest_path");
            let directory = Path::new(&manifest).parent().unwrap_or(Path::new("/"));
            let title = format!("{} {} ({})", text("name"), text("version"), text("license"));
            crates.insert(title, directory.display().to_string());
        }
    }
    Ok(crates
        .into_iter()
        .map(|(title, directory)| Crate { title, directory })
        .collect())
}

/// A package and what it is linked with: not what only builds or tests it.
fn linked<'a>(metadata: &'a Value, root: &str) -> Option<Vec<&'a Value>> {
    let list = |value: &'a Value| value.as_array().into_iter().flatten();
    let by_id = |values: &'a Value| -> HashMap<&str, &Value> {
        list(values)
            .filter_map(|value| Some((value["id"].as_str()?, value)))
            .collect()
    };
    let packages = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let is_linked = |dependency: &Value| {
        let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
        kinds.any(|kind| kind["kind"].is_null())
    };
    let root = packages
        .iter()
        .find(|(_, package)| package["name"] == root && package["source"].is_null());
    let mut open = vec![*root?.0];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = nodes.get(id)?;
        open.extend(
            list(&node["deps"])
                .filter(|dependency| is_linked(dependency))
                .filter_map(|dependency| dependency["pkg"].as_str()),
        );
    }
    seen.into_iter()
        .map(|id| packages.get(id).copied())
        .collect()
}

/// The texts of the licences that are in a directory.
fn licences(directory: &str) -> Result<Vec<String>> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("cannot list {directory}"))?
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_builds_or_tests_is_not_linked() {
        let package = |id: &str| json!({"id": id, "name": id, "source": null});
        let dependency = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": ["agent", "near", "far", "builder", "tester"].map(package),
            "resolve": {"nodes": [
                {"id": "agent", "deps": [
                    dependency("near", Value::Null),
                    dependency("builder", json!("build")),
                    dependency("tester", json!("dev")),
                ]},
                {"id": "near", "deps": [dependency("far", Value::Null)]},
                {"id": "far", "deps": []},
            ]},
        });
        let names: Vec<_> = linked(&metadata, "agent")
            .unwrap()
            .iter()
            .map(|package| package["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["agent", "far", "near"]);
        assert!(linked(&metadata, "none").is_none());
    }
}
