//! Parts of the pinned toolchain that rustup fetches: the standard library's source, from which the eBPF crate builds `core`,
//! and the standard library for static programs.

use std::{env::consts, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    process::{Cmd, find_program},
    report::say,
    workspace,
};

const QUERY_LIMIT: Duration = Duration::from_mins(1);
const DOWNLOAD_LIMIT: Duration = Duration::from_mins(5);

/// What `cargo +nightly xtask` sets; the kernel programs are always built with the pinned
/// toolchain.
const OVERRIDE: &str = "RUSTUP_TOOLCHAIN";

/// A part, and how one sees that it is there.
#[derive(Debug)]
pub(crate) struct Part {
    name: &'static str,
    /// The words of rustup that fetch it.
    words: [&'static str; 3],
    /// Something of it, below the toolchain's directory.
    proof: &'static str,
}

/// The standard library's source.
pub(crate) const RUST_SRC: Part = Part {
    name: "rust-src",
    words: ["component", "add", "rust-src"],
    proof: "lib/rustlib/src/rust/library/core/src/lib.rs",
};

/// The target of programs that need no C library of the machine they run on.
pub(crate) const STATIC_TARGET: &str = match consts::ARCH.as_bytes() {
    b"aarch64" => "aarch64-unknown-linux-musl",
    _ => "x86_64-unknown-linux-musl",
};

/// The standard library for that.
pub(crate) const STATIC_STD: Part = Part {
    name: "the standard library for static programs",
    words: ["target", "add", STATIC_TARGET],
    proof: match consts::ARCH.as_bytes() {
        b"aarch64" => "lib/rustlib/aarch64-unknown-linux-musl/lib/self-contained/libc.a",
        _ => "lib/rustlib/x86_64-unknown-linux-musl/lib/self-contained/libc.a",
    },
};

impl Part {
    /// Whether the pinned toolchain has it.
    pub(crate) fn is_present(&self) -> Result<bool> {
        Ok(self.proof()?.is_file())
    }

    /// Fetches it with rustup if it is missing.
    pub(crate) fn ensure(&self) -> Result<()> {
        let proof = self.proof()?;
        if proof.is_file() {
            return Ok(());
        }
        let name = self.name;
        if find_program("rustup").is_none() {
            bail!(
                "{} is missing and there is no rustup to fetch it; install rustup (https://rustup.rs) or \
                 your distribution's package of {name}",
                proof.display()
            );
        }
        say(
            "setup",
            format_args!("{name} is missing: fetching it with rustup"),
        );
        Cmd::new("rustup", DOWNLOAD_LIMIT)
            .args(self.words)
            .dir(workspace::root())
            .env_remove(OVERRIDE)
            .run()
            .with_context(|| format!("cannot add {name} to the toolchain"))?;
        ensure!(
            proof.is_file(),
            "rustup added {name}, but {} does not exist",
            proof.display()
        );
        Ok(())
    }

    fn proof(&self) -> Result<PathBuf> {
        Ok(sysroot()?.join(self.proof))
    }
}

/// The pinned toolchain's directory.
pub(crate) fn sysroot() -> Result<PathBuf> {
    let sysroot = Cmd::new("rustc", QUERY_LIMIT)
        .args(["--print", "sysroot"])
        .dir(workspace::root())
        .env_remove(OVERRIDE)
        .output()?;
    Ok(PathBuf::from(sysroot.trim_end()))
}
