//! What the program is linked with: crates, as cargo resolves them for the targets it is built for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{setup::toolchain::STATIC_TARGET, workspace};

/// The packages that end up in the program, and the target that each is built for: the kernel programs are in it too.
const ROOTS: [(&str, &str); 2] = [
    ("leakguard", STATIC_TARGET),
    ("leakguard-ebpf", "bpfel-unknown-none"),
];

/// A crate that is in the program.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
    /// As its author has written it.
    pub(super) licence: String,
    pub(super) repository: Option<String>,
    /// Where its source is.
    pub(super) directory: PathBuf,
    /// Whether it is one of this workspace.
    pub(super) is_ours: bool,
    /// Those that it is linked with, by what [`Crate::reference`] calls them.
    pub(super) needs: Vec<String>,
}

impl Crate {
    /// How lists of components call it.
    pub(super) fn reference(&self) -> String {
        reference(&self.name, &self.version)
    }
}

fn reference(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{version}")
}

/// All of them, the program's own first, then in order.
pub(super) fn crates() -> Result<Vec<Crate>> {
    let mut all: BTreeMap<String, Crate> = BTreeMap::new();
    let mut first = Vec::new();
    for (root, target) in ROOTS {
        let json = workspace::cargo("metadata")
            .args(["--format-version=1", "--locked"])
            .arg(format!("--filter-platform={target}"))
            .output()?;
        let metadata: Value =
            serde_json::from_str(&json).context("cannot parse cargo's metadata")?;
        let found = linked(&metadata, root).with_context(|| format!("no package `{root}`"))?;
        for krate in found {
            if krate.name == root && krate.is_ours {
                first.push(krate.reference());
            }
            all.entry(krate.reference()).or_insert(krate);
        }
    }
    let mut ordered: Vec<Crate> = first
        .iter()
        .filter_map(|reference| all.remove(reference))
        .collect();
    ordered.extend(all.into_values());
    Ok(ordered)
}

/// A package and what it is linked with: not what only builds or tests it.
fn linked(metadata: &Value, root: &str) -> Option<Vec<Crate>> {
    let packages = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let needs = |id: &str| -> Option<Vec<&str>> {
        let dependencies = list(&nodes.get(id)?["deps"]);
        let linked = dependencies.filter(|dependency| {
            let mut kinds = list(&dependency["dep_kinds"]);
            kinds.any(|kind| kind["kind"].is_null())
        });
        linked
            .map(|dependency| dependency["pkg"].as_str())
            .collect()
    };
    let root = packages
        .iter()
        .find(|(_, package)| package["name"] == root && package["source"].is_null());
    let mut open = vec![*root?.0];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(needs(id)?);
        }
    }
    let named = |id: &str| {
        let package = packages.get(id)?;
        Some(reference(
            package["name"].as_str()?,
            package["version"].as_str()?,
        ))
    };
    seen.into_iter()
        .map(|id| {
            let package = packages.get(id)?;
            let text = |key: &str| package[key].as_str().map(str::to_owned);
            let manifest = text("manifest_path")?;
            Some(Crate {
                name: text("name")?,
                version: text("version")?,
                licence: text("license").unwrap_or_default(),
                repository: text("repository"),
                directory: Path::new(&manifest).parent()?.to_owned(),
                is_ours: package["source"].is_null(),
                needs: needs(id)?.into_iter().map(named).collect::<Option<_>>()?,
            })
        })
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn by_id(values: &Value) -> HashMap<&str, &Value> {
    list(values)
        .filter_map(|value| Some((value["id"].as_str()?, value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_builds_or_tests_is_not_linked() {
        let names = ["agent", "near", "far", "builder", "tester"];
        let packages: Vec<Value> = names
            .into_iter()
            .map(|id| {
                json!({"id": id, "name": id, "version": "1.0.0", "source": null, "manifest_path": "/x/Cargo.toml"})
            })
            .collect();
        let dependency = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": packages,
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
        let found = linked(&metadata, "agent").unwrap();
        let names: Vec<_> = found.iter().map(|krate| krate.name.as_str()).collect();
        assert_eq!(names, ["agent", "far", "near"]);
        assert_eq!(found[0].needs, ["pkg:cargo/near@1.0.0"]);
        assert!(linked(&metadata, "none").is_none());
    }
}
