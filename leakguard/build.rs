//! Builds the kernel programs and leaves the object at `OUT_DIR/leakguard`, for
//! `include_bytes_aligned!`.
//!
//! They are compiled by the toolchain that `rust-toolchain.toml` pins, a stable one:
//! `RUSTC_BOOTSTRAP` lets it build `core` for the BPF target. It is set here, where no other crate
//! sees it.

#[path = "../xtask/src/setup/bpf_linker/locate.rs"]
mod bpf_linker;

use std::{env, fs};

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain};

fn main() {
    if let Err(error) = build() {
        println!("cargo::error={error:#}");
    }
}

fn build() -> Result<()> {
    let toolchain = pinned_toolchain()?;
    use_bpf_linker()?;
    // SAFETY: nothing else runs in this process yet.
    unsafe {
        env::set_var("RUSTC_BOOTSTRAP", "1");
        // Its progress would come out as warnings, at every build.
        env::set_var("CARGO_TERM_QUIET", "true");
    }

    // The profile is not among what cargo watches for the object.
    println!("cargo::rerun-if-changed=../Cargo.toml");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    let mut features = Vec::new();
    if env::var_os("CARGO_FEATURE_NEXT_ABI").is_some() {
        features.push("next-abi");
    }
    aya_build::build_ebpf(
        [Package {
            name: "leakguard-ebpf",
            root_dir: "../leakguard-ebpf",
            features: &features,
            ..Package::default()
        }],
        Toolchain::Custom(&toolchain),
    )
    .context("cannot build the kernel programs")
}

/// The channel in `rust-toolchain.toml`: `cargo +nightly` must not choose another one for the
/// kernel programs.
fn pinned_toolchain() -> Result<String> {
    const FILE: &str = "../rust-toolchain.toml";
    println!("cargo::rerun-if-changed={FILE}");
    let text = fs::read_to_string(FILE).with_context(|| format!("cannot read {FILE}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .with_context(|| format!("{FILE} names no channel"))
}

/// Tells the nested cargo which linker to use.
fn use_bpf_linker() -> Result<()> {
    const LINKER: &str = "CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER";
    println!("cargo::rerun-if-env-changed={LINKER}");
    if env::var_os(LINKER).is_some() {
        return Ok(());
    }
    let path = bpf_linker::find().ok_or_else(|| {
        let own = bpf_linker::own_root().map_or_else(String::new, |root| {
            format!(" nor in {}", root.join("bin").display())
        });
        anyhow!(
            "no working bpf-linker {} on PATH{own}; run `cargo xtask setup`",
            bpf_linker::VERSION
        )
    })?;
    println!("cargo::rerun-if-changed={}", path.display());
    // SAFETY: nothing else runs in this process yet.
    unsafe { env::set_var(LINKER, &path) };
    Ok(())
}
