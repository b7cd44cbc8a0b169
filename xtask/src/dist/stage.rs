//! The tree of files that all packages are made of, as it lies on a system.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    dist::{Release, changelog, notices},
    process::Cmd,
    report::say,
    setup::toolchain::{self, STATIC_TARGET},
    workspace::{self, Metadata, root},
};

const LIMIT: Duration = Duration::from_mins(1);

/// Where documents go.
pub(super) const DOCUMENTS: &str = "usr/share/doc/leakguard";

/// Where the program goes.
pub(super) const PROGRAM: &str = "usr/bin/leakguard";

/// What comes out of the repository as it is, and where it goes.
const FILES: &[(&str, &str)] = &[
    // As Debian calls it.
    ("CHANGELOG.md", "usr/share/doc/leakguard/changelog"),
    ("LICENSE-APACHE", "usr/share/doc/leakguard/LICENSE-APACHE"),
    ("LICENSE-MIT", "usr/share/doc/leakguard/LICENSE-MIT"),
    ("README.md", "usr/share/doc/leakguard/README.md"),
    ("dist/leakguard.toml", "etc/leakguard/leakguard.toml"),
    (
        "dist/leakguard.toml",
        "usr/share/doc/leakguard/examples/leakguard.toml",
    ),
    (
        "dist/leakguard-verify.conf",
        "usr/share/doc/leakguard/examples/leakguard.service.d/verify.conf",
    ),
    (
        "dist/leakguard.service.d/resolver.conf",
        "usr/share/doc/leakguard/examples/leakguard.service.d/resolver.conf",
    ),
    (
        "dist/leakguard.service",
        "usr/lib/systemd/system/leakguard.service",
    ),
    (
        "dist/leakguard-early.service",
        "usr/lib/systemd/system/leakguard-early.service",
    ),
    (
        "dist/leakguard-trial@.service",
        "usr/lib/systemd/system/leakguard-trial@.service",
    ),
];

/// Completions, as [`generate_to`](https://docs.rs/clap_complete) calls them, and where shells look for them.
const COMPLETIONS: &[(&str, &str)] = &[
    (
        "leakguard.bash",
        "usr/share/bash-completion/completions/leakguard",
    ),
    ("_leakguard", "usr/share/zsh/vendor-completions/_leakguard"),
    (
        "leakguard.fish",
        "usr/share/fish/vendor_completions.d/leakguard.fish",
    ),
];

/// The files of a release.
#[derive(Debug)]
pub(super) struct Tree {
    /// What stands for `/`.
    pub(super) root: PathBuf,
}

/// Builds the program, makes its pages, and lays everything out.
pub(super) fn agent_and_pages(release: &Release) -> Result<Tree> {
    let program = static_agent()?;
    let pages = pages(release)?;
    let tree = Tree {
        root: release.fresh("root")?,
    };
    tree.put(&program, PROGRAM)?;
    // Symbols that only a debugger reads.
    Cmd::new("strip", LIMIT)
        .arg(tree.root.join(PROGRAM))
        .output()?;
    for (source, place) in FILES {
        tree.put(&root().join(source), place)?;
    }
    // As in the repository, so that what they link to each other is found.
    for directory in ["docs", "docs/decisions"] {
        for document in listed(&root().join(directory), "md")? {
            tree.put_into(&document, &format!("{DOCUMENTS}/{directory}"))?;
        }
    }
    for page in listed(&pages.join("man"), "8")? {
        tree.put_into(&page, "usr/share/man/man8")?;
    }
    for page in listed(&pages.join("man"), "5")? {
        tree.put_into(&page, "usr/share/man/man5")?;
    }
    for (name, place) in COMPLETIONS {
        tree.put(&pages.join("completions").join(name), place)?;
    }
    say("dist", "the licences of what it is linked with");
    tree.write(&format!("{DOCUMENTS}/third-party.txt"), &notices::text()?)?;
    tree.put(
        &toolchain::sysroot()?.join("share/doc/rust/COPYRIGHT-library.html"),
        &format!("{DOCUMENTS}/rust-library.html"),
    )?;
    changelog::write(release)?;
    Ok(tree)
}

impl Tree {
    fn put(&self, source: &Path, place: &str) -> Result<()> {
        let target = self.place(place)?;
        fs::copy(source, &target)
            .map(drop)
            .with_context(|| format!("cannot copy {}", source.display()))
    }

    fn put_into(&self, source: &Path, directory: &str) -> Result<()> {
        let name = source.file_name().unwrap_or_default().display();
        self.put(source, &format!("{directory}/{name}"))
    }

    fn write(&self, place: &str, text: &str) -> Result<()> {
        let target = self.place(place)?;
        fs::write(&target, text).with_context(|| format!("cannot write {}", target.display()))
    }

    /// Where a file goes; its directory is there then.
    fn place(&self, place: &str) -> Result<PathBuf> {
        let target = self.root.join(place);
        let directory = target.parent().unwrap_or(&self.root);
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(target)
    }
}

/// Builds the agent so that it needs nothing of the system it runs on but the kernel.
fn static_agent() -> Result<PathBuf> {
    say("dist", format_args!("leakguard for {STATIC_TARGET}"));
    workspace::cargo("build")
        .args(["--locked", "--release", "--package=leakguard"])
        .arg(format!("--target={STATIC_TARGET}"))
        .run()?;
    let program = Metadata::load()?
        .target_dir()?
        .join(STATIC_TARGET)
        .join("release/leakguard");
    let kind = Cmd::new("readelf", LIMIT)
        .args(["--program-headers", "--dynamic"])
        .arg(&program)
        .output()?;
    ensure!(
        !kind.contains("INTERP") && !kind.contains("(NEEDED)"),
        "{} is not static",
        program.display()
    );
    Ok(program)
}

/// Makes the manual pages and the completions; returns the directory that they are in.
fn pages(release: &Release) -> Result<PathBuf> {
    let directory = release.fresh("pages")?;
    workspace::cargo("run")
        .args(["--locked", "--quiet", "--package=leakguard"])
        .args(["--example=pages", "--"])
        .arg(&directory)
        .run()
        .context("cannot make the manual pages")?;
    Ok(directory)
}

/// The files of a directory with this extension, in order; there has to be one.
fn listed(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    ensure!(
        !files.is_empty(),
        "there is no file .{extension} in {}",
        directory.display()
    );
    Ok(files)
}
