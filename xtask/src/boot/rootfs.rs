//! Debian's base system with systemd, as the image of a disk; made once and kept outside the repository.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{process::Cmd, report::say, setup::tools_dir, vm::kernel::Kernel};

const QUERY_LIMIT: Duration = Duration::from_mins(1);
const BOOTSTRAP_LIMIT: Duration = Duration::from_mins(10);
const IMAGE_LIMIT: Duration = Duration::from_mins(3);

/// What a machine with a network of its own has on top of the essential packages.
const PACKAGES: &str = "dbus,iproute2,kmod,libnss-resolve,nftables,systemd-resolved,systemd-sysv,\
                        systemd-timesyncd,udev";

/// The disk's size; what is not used takes no room.
const SIZE: &str = "1G";

/// The image for a kernel: the release of this machine, from its own package sources, with the kernel's modules.
pub(super) fn image(kernel: &Kernel) -> Result<PathBuf> {
    let (suite, sources) = sources()?;
    // Only a name for the cache: another toolchain may well make another image.
    let mut recipe = DefaultHasher::new();
    (PACKAGES, SIZE).hash(&mut recipe);
    let name = format!("{suite}-{}-{:016x}", kernel.version(), recipe.finish());
    let images = tools_dir()?.join("rootfs");
    let image = images.join(format!("{name}.ext4"));
    if !image.is_file() {
        fs::create_dir_all(&images)
            .with_context(|| format!("cannot create {}", images.display()))?;
        say("boot", format_args!("making the root file system {name}"));
        let staged = images.join(format!(".{name}.{}", std::process::id()));
        let outcome = make(&suite, &sources, kernel, &staged, &image);
        // It belongs to root.
        Cmd::new("rm", IMAGE_LIMIT)
            .args(["-rf", "--one-file-system"])
            .arg(&staged)
            .privileged()
            .run()?;
        outcome?;
    }
    Ok(image)
}

/// A directory with the release of this machine, from its own package sources, with these packages besides the essential
/// ones.
pub(crate) fn directory(packages: &str) -> Result<PathBuf> {
    let (suite, sources) = sources()?;
    let mut recipe = DefaultHasher::new();
    packages.hash(&mut recipe);
    let name = format!("{suite}-{:016x}", recipe.finish());
    let all = tools_dir()?.join("rootfs");
    let directory = all.join(&name);
    if !directory.is_dir() {
        fs::create_dir_all(&all).with_context(|| format!("cannot create {}", all.display()))?;
        say("nspawn", format_args!("making the root file system {name}"));
        let staged = all.join(format!(".{name}.{}", std::process::id()));
        bootstrap(&suite, &sources, packages, &staged)?;
        fs::rename(&staged, &directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    Ok(directory)
}

fn bootstrap(suite: &str, sources: &[String], packages: &str, root: &Path) -> Result<()> {
    Cmd::new("mmdebstrap", BOOTSTRAP_LIMIT)
        .args(["--quiet", "--variant=minbase"])
        .arg(format!("--include={packages}"))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg("--aptopt=Acquire::http::Timeout \"20\"")
        .arg(suite)
        .arg(root)
        .args(sources)
        .privileged()
        .output()
        .with_context(|| format!("cannot make a root file system of {suite}"))?;
    Ok(())
}

fn make(
    suite: &str,
    sources: &[String],
    kernel: &Kernel,
    staged: &Path,
    image: &Path,
) -> Result<()> {
    let unfinished = staged.join("image");
    let root = staged.join("root");
    fs::create_dir_all(staged).with_context(|| format!("cannot create {}", staged.display()))?;
    bootstrap(suite, sources, PACKAGES, &root)?;
    let modules = root.join("lib/modules");
    Cmd::new("sh", IMAGE_LIMIT)
        .args([
            "-c",
            r#"mkdir -p "$2" && cp -R "$1" "$2" && mke2fs -q -t ext4 -O ^has_journal -d "$3" "$4" "$5""#,
            "sh",
        ])
        .arg(kernel.modules())
        .arg(modules)
        .arg(&root)
        .arg(&unfinished)
        .arg(SIZE)
        .label("mke2fs")
        .privileged()
        .output()?;
    fs::rename(&unfinished, image).with_context(|| format!("cannot create {}", image.display()))
}

/// The name of this machine's Debian release, and the `deb` lines of its packages.
fn sources() -> Result<(String, Vec<String>)> {
    let listed = Cmd::new("apt-get", QUERY_LIMIT)
        .args(["indextargets", "--format"])
        .arg("$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)")
        .arg("Identifier: Packages")
        .output()?;
    let found = parse_targets(&listed);
    ensure!(
        found.is_some(),
        "apt has no package lists of Debian here; run `apt-get update`, on Debian"
    );
    found.context("no package lists")
}

/// The name of Debian's release, which is that of no addition to it (`bookworm-security`), and its `deb` lines.
fn parse_targets(listed: &str) -> Option<(String, Vec<String>)> {
    let mut suite = None;
    let mut sources = Vec::new();
    for line in listed.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ["Debian", uri, release, component] = fields[..] else {
            continue;
        };
        if !release.contains('-') {
            suite = Some(release.to_owned());
        }
        sources.push(format!("deb {uri} {release} {component}"));
    }
    Some((suite?, sources))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debians_own_sources_are_taken() {
        let listed = "Debian http://deb.debian.org/debian/ bookworm main\n\
                      Debian http://deb.debian.org/debian-security/ bookworm-security main\n\
                      Google https://packages.cloud.google.com/apt/ sdk main\n";
        let (suite, sources) = parse_targets(listed).unwrap();
        assert_eq!(suite, "bookworm");
        assert_eq!(
            sources,
            [
                "deb http://deb.debian.org/debian/ bookworm main",
                "deb http://deb.debian.org/debian-security/ bookworm-security main"
            ]
        );
        assert_eq!(parse_targets(""), None);
    }
}
