//! The workspace: where it is, what cargo knows about it, how cargo is called in it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use crate::process::Cmd;

/// Downloads and compilation of everything on a slow machine; a hang is longer.
pub(crate) const CARGO_LIMIT: Duration = Duration::from_mins(45);

/// The workspace's root directory.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// `cargo <subcommand>` in the workspace's root, with the toolchain that built this program (rustup
/// hands it down).
pub(crate) fn cargo(subcommand: &str) -> Cmd {
    program("cargo").arg(subcommand)
}

/// A program that works on the workspace as cargo does.
pub(crate) fn program(program: impl Into<OsString>) -> Cmd {
    Cmd::new(program, CARGO_LIMIT)
        .dir(root())
        // A connection that stands still is given up, and tried twice again.
        .env("CARGO_HTTP_TIMEOUT", "30")
        .env("CARGO_NET_RETRY", "2")
}

/// What `cargo metadata` says about the workspace's own packages.
#[derive(Debug)]
pub(crate) struct Metadata(Value);

impl Metadata {
    pub(crate) fn load() -> Result<Self> {
        let json = cargo("metadata")
            .args(["--format-version=1", "--no-deps"])
            .output()?;
        let value = serde_json::from_str(&json).context("cannot parse cargo's metadata")?;
        Ok(Self(value))
    }

    /// Cargo's target directory.
    pub(crate) fn target_dir(&self) -> Result<PathBuf> {
        self.0["target_directory"]
            .as_str()
            .map(PathBuf::from)
            .ok_or_else(|| anyhow!("cargo's metadata names no target directory"))
    }

    /// The workspace's own packages.
    pub(crate) fn packages(&self) -> Result<Vec<Package>> {
        self.0["packages"]
            .as_array()
            .into_iter()
            .flatten()
            .map(Package::from_json)
            .collect::<Option<Vec<_>>>()
            .filter(|packages| !packages.is_empty())
            .ok_or_else(|| anyhow!("cargo's metadata has an unknown form"))
    }
}

/// A package of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) dir: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    /// Names of the integration tests (`tests/*.rs`).
    pub(crate) test_targets: Vec<String>,
}

impl Package {
    fn from_json(value: &Value) -> Option<Self> {
        let manifest = Path::new(value["manifest_path"].as_str()?);
        Some(Self {
            name: value["name"].as_str()?.to_owned(),
            version: value["version"].as_str()?.to_owned(),
            dir: manifest.parent()?.to_owned(),
            dependencies: value["dependencies"]
                .as_array()?
                .iter()
                .map(Dependency::from_json)
                .collect::<Option<_>>()?,
            test_targets: value["targets"]
                .as_array()?
                .iter()
                .filter(|target| target["kind"][0] == "test")
                .map(|target| target["name"].as_str().map(str::to_owned))
                .collect::<Option<_>>()?,
        })
    }
}

/// A line of a package's dependency tables.
#[derive(Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: DependencyKind,
    pub(crate) optional: bool,
    /// The `cfg(...)` it is limited to.
    pub(crate) target: Option<String>,
    /// Whether it is a package of this workspace.
    pub(crate) local: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DependencyKind {
    Normal,
    Build,
    Dev,
}

impl Dependency {
    fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            name: value["name"].as_str()?.to_owned(),
            kind: match value["kind"].as_str() {
                None => DependencyKind::Normal,
                Some("build") => DependencyKind::Build,
                Some("dev") => DependencyKind::Dev,
                Some(_) => return None,
            },
            optional: value["optional"].as_bool()?,
            target: value["target"].as_str().map(str::to_owned),
            local: value["path"].is_string(),
        })
    }
}
