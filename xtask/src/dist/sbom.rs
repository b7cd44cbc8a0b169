//! What the program is built of, for those who look for known vulnerabilities: a list in `CycloneDX`'s form, 1.5.
//!
//! Made here, of what cargo says. cargo-cyclonedx is 180 crates to build, writes next to every `Cargo.toml` of the repository,
//! and does not know that the kernel programs are in the program.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    dist::{
        Release, archive,
        linked::{Crate, crates},
    },
    workspace::root,
};

/// Writes the list into `directory`.
pub(super) fn write(release: &Release, directory: &Path) -> Result<PathBuf> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let list = list(&crates()?, &checksums(&lock), &release.timestamp()?)?;
    let file = directory.join(format!("{}.cdx.json", archive::name(release)));
    let text = serde_json::to_string_pretty(&list).context("cannot write JSON")?;
    fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn list(crates: &[Crate], checksums: &HashMap<(&str, &str), &str>, time: &str) -> Result<Value> {
    let (program, others) = crates.split_first().context("nothing is linked")?;
    let mut components = Vec::new();
    for krate in others {
        let mut component = component(krate, "library");
        match checksums.get(&(krate.name.as_str(), krate.version.as_str())) {
            Some(sum) => component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]),
            None => ensure!(krate.is_ours, "{} is not in Cargo.lock", krate.reference()),
        }
        components.push(component);
    }
    let needs = |krate: &Crate| {
        let mut needs = krate.needs.clone();
        if krate.name == program.name {
            // Embedded, not linked: cargo knows nothing of that.
            needs.extend(others.iter().take(1).map(Crate::reference));
        }
        needs.sort();
        needs.dedup();
        json!({"ref": krate.reference(), "dependsOn": needs})
    };
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": time, "component": component(program, "application")},
        "components": components,
        "dependencies": crates.iter().map(needs).collect::<Vec<_>>(),
    }))
}

fn component(krate: &Crate, kind: &str) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": krate.reference(),
        "name": krate.name,
        "version": krate.version,
        "purl": krate.reference(),
    });
    if !krate.licence.is_empty() {
        // The old form of an alternative.
        let expression = krate.licence.replace('/', " OR ");
        component["licenses"] = json!([{"expression": expression}]);
    }
    if let Some(url) = &krate.repository {
        component["externalReferences"] = json!([{"type": "vcs", "url": url}]);
    }
    component
}

/// The checksums of `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> HashMap<(&str, &str), &str> {
    let value = |entry: &'_ str, key: &str| -> Option<(usize, usize)> {
        let start = entry.find(&format!("\n{key} = \""))? + key.len() + 5;
        Some((start, start + entry[start..].find('"')?))
    };
    lock.split("[[package]]")
        .filter_map(|entry| {
            let [name, version, sum] = ["name", "version", "checksum"].map(|key| value(entry, key));
            let text = |(start, end): (usize, usize)| &entry[start..end];
            Some(((text(name?), text(version?)), text(sum?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn krate(name: &str, is_ours: bool, needs: &[&str]) -> Crate {
        Crate {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: "MIT/Apache-2.0".to_owned(),
            repository: None,
            directory: "/x".into(),
            is_ours,
            needs: needs.iter().map(|&need| need.to_owned()).collect(),
        }
    }

    #[test]
    fn everything_is_listed_with_its_checksum() {
        let lock = "version = 4\n\n[[package]]\nname = \"far\"\nversion = \"1.0.0\"\nsource = \"x\"\nchecksum = \"abc\"\n";
        let crates = [
            krate("agent", true, &["pkg:cargo/far@1.0.0"]),
            krate("kernel", true, &[]),
            krate("far", false, &[]),
        ];
        let made = list(&crates, &checksums(lock), "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(made["components"][1]["hashes"][0]["content"], "abc");
        assert_eq!(
            made["components"][1]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(
            made["dependencies"][0]["dependsOn"],
            json!(["pkg:cargo/far@1.0.0", "pkg:cargo/kernel@1.0.0"])
        );
        let unknown = [krate("agent", true, &[]), krate("other", false, &[])];
        assert!(list(&unknown, &checksums(lock), "").is_err());
    }
}
