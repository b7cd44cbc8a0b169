//! `bpf-linker`: found, or built against Debian's LLVM into a directory of this project.

mod locate;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, anyhow, ensure};

use self::locate::VERSION;
pub(crate) use self::locate::{find, own_root};
use crate::{
    process::Cmd,
    report::say,
    setup::{
        apt::{self, Package},
        crates,
    },
};

/// The LLVM it is built against; not older than rustc's own.
const LLVM_PACKAGE: &str = "llvm-22-dev";
const LLVM_FEATURE: &str = "llvm-22";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
/// What the build links to; proves that the package is there.
const LLVM_LIBRARY: &str = "lib/libLLVM.so";

/// Builds it. Takes about a minute and a half on two cores.
pub(crate) fn install() -> Result<()> {
    let root = own_root()
        .ok_or_else(|| anyhow!("neither XDG_CACHE_HOME nor HOME says where tools can be kept"))?;
    say("setup", format_args!("bpf-linker {VERSION} is missing"));
    if !Path::new(LLVM_PREFIX).join(LLVM_LIBRARY).exists() {
        apt::install(&[Package {
            name: LLVM_PACKAGE,
            services: &[],
        }])
        .with_context(|| {
            format!(
                "cannot build bpf-linker {VERSION} without {LLVM_PACKAGE}; alternatively put a bpf-linker \
                 {VERSION} on PATH (https://github.com/aya-rs/bpf-linker#installation)"
            )
        })?;
    }

    say(
        "setup",
        format_args!(
            "building bpf-linker {VERSION} in {}: about two minutes",
            root.display()
        ),
    );
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    cargo_install(&root)
        .run()
        .context("cannot build bpf-linker")?;
    ensure!(
        find().is_some(),
        "bpf-linker was built, but {} does not run",
        root.join("bin/bpf-linker").display()
    );
    Ok(())
}

fn cargo_install(root: &Path) -> Cmd {
    crates::install("bpf-linker", VERSION, root)
        .args(["--no-default-features", "--features", LLVM_FEATURE])
        // Its own default is the newest LLVM on PATH, which need not be the one of the feature.
        .env("LLVM_PREFIX", LLVM_PREFIX)
}
