//! Programs of the crate registry, built into a directory of this project: each of one version, whatever else is installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{process::Cmd, report::say, setup::tools_dir, workspace};

/// Makes the Debian package out of files, `Cargo.toml` and maintainer scripts.
pub(crate) const CARGO_DEB: Program = Program {
    name: "cargo-deb",
    version: "3.8.0",
};

/// A program that is a crate of the same name.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    version: &'static str,
}

impl Program {
    /// The program; built if it is missing, which takes a minute or two.
    pub(crate) fn ensure(&self) -> Result<PathBuf> {
        let Self { name, version } = self;
        let root = tools_dir()?.join(format!("{name}-{version}"));
        let program = root.join("bin").join(name);
        if program.is_file() {
            return Ok(program);
        }
        say(
            "setup",
            format_args!(
                "{name} {version} is missing: building it in {}",
                root.display()
            ),
        );
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        install(name, version, &root)
            .run()
            .with_context(|| format!("cannot build {name}"))?;
        ensure!(
            program.is_file(),
            "{name} was built, but {} does not exist",
            program.display()
        );
        Ok(program)
    }
}

/// `cargo install` of a program into a directory of its own.
pub(super) fn install(name: &str, version: &str, root: &Path) -> Cmd {
    workspace::cargo("install")
        .args([name, "--version", version, "--locked", "--quiet"])
        // A copy that is there does not run, or it would have been found.
        .args(["--force", "--no-track", "--root"])
        .arg(root)
        // What is meant for this workspace is not meant for the tool.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
}
