//! The standard library's source: the eBPF crate builds `core` from it.

use std::{path::PathBuf, time::Duration};

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

/// Whether the pinned toolchain has it.
pub(crate) fn is_present() -> Result<bool> {
    Ok(core_source()?.is_file())
}

/// Fetches it with rustup.
pub(crate) fn install() -> Result<()> {
    let source = core_source()?;
    if find_program("rustup").is_none() {
        bail!(
            "{} is missing and there is no rustup to fetch it; install rustup (https://rustup.rs) or \
             your distribution's Rust source package",
            source.display()
        );
    }
    say("setup", "rust-src is missing: fetching it with rustup");
    Cmd::new("rustup", DOWNLOAD_LIMIT)
        .args(["component", "add", "rust-src"])
        .dir(workspace::root())
        .env_remove(OVERRIDE)
        .run()
        .context("cannot add rust-src to the toolchain")?;
    ensure!(
        source.is_file(),
        "rustup added rust-src, but {} does not exist",
        source.display()
    );
    Ok(())
}

fn core_source() -> Result<PathBuf> {
    let sysroot = Cmd::new("rustc", QUERY_LIMIT)
        .args(["--print", "sysroot"])
        .dir(workspace::root())
        .env_remove(OVERRIDE)
        .output()?;
    Ok(PathBuf::from(sysroot.trim_end()).join("lib/rustlib/src/rust/library/core/src/lib.rs"))
}
