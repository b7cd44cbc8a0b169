//! Debian's kernel packages: found with apt, downloaded and unpacked once, never installed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::vmlinux;
use crate::{
    process::Cmd,
    report::say,
    setup::{apt, tools_dir},
};

const QUERY_LIMIT: Duration = Duration::from_mins(1);
const DOWNLOAD_LIMIT: Duration = Duration::from_mins(5);
const UNPACK_LIMIT: Duration = Duration::from_mins(2);

/// An unpacked kernel package.
#[derive(Debug)]
pub(crate) struct Kernel {
    version: String,
    dir: PathBuf,
}

impl Kernel {
    /// The kernel that a name stands for; downloaded unless it is there.
    ///
    /// A name is a series (`6.1`: Debian's cloud kernel), a series with a flavour (`6.1-generic`, `6.1-rt`), the oldest
    /// cloud kernel of a series that can still be had (`6.1-oldest`), or a version as in a package's name.
    pub(crate) fn find(name: &str) -> Result<Self> {
        let version = resolve(name)?;
        let kernels = tools_dir()?.join("kernels");
        let dir = kernels.join(&version);
        if !dir.is_dir() {
            fetch(&version, &kernels, &dir)?;
        }
        Ok(Self { version, dir })
    }

    /// As `uname -r` says it.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The uncompressed kernel, which QEMU can start without a boot loader.
    pub(crate) fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// The directory of its modules, with `modules.dep`.
    pub(crate) fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.version)
    }
}

/// The version that a name stands for.
fn resolve(name: &str) -> Result<String> {
    match name.split_once('-') {
        None => of_metapackage(name, "cloud-"),
        Some((series, "generic")) => of_metapackage(series, ""),
        Some((series, "rt")) => of_metapackage(series, "rt-"),
        Some((series, "oldest")) => oldest(series),
        Some(_) => Ok(name.to_owned()),
    }
}

/// What Debian's metapackage of a series and a flavour depends on.
fn of_metapackage(series: &str, flavour: &str) -> Result<String> {
    // The release's own series has no number in its name.
    let metapackages = [
        format!("linux-image-{series}-{flavour}amd64"),
        format!("linux-image-{flavour}amd64"),
    ];
    for metapackage in &metapackages {
        let listed = Cmd::new("apt-cache", QUERY_LIMIT)
            .args(["show", "--quiet", "--no-all-versions", metapackage])
            .output()
            .unwrap_or_default();
        if let Some(version) = dependency(&listed, series) {
            return Ok(version.to_owned());
        }
    }
    bail!(
        "apt knows no kernel {series}: neither {} depends on one; `apt-cache search linux-image` lists what there is",
        metapackages.join(" nor ")
    )
}

/// The kernel version of `series` in the `Depends:` line of a metapackage.
fn dependency<'a>(listed: &'a str, series: &str) -> Option<&'a str> {
    listed
        .lines()
        .filter_map(|line| line.strip_prefix("Depends: "))
        .flat_map(|packages| packages.split([',', ' ']))
        .filter_map(|package| package.strip_prefix("linux-image-"))
        .find(|version| {
            version
                .strip_prefix(series)
                .is_some_and(|rest| rest.starts_with('.'))
        })
}

/// The oldest cloud kernel of a series that apt lists.
fn oldest(series: &str) -> Result<String> {
    let listed = Cmd::new("apt-cache", QUERY_LIMIT)
        .args(["pkgnames", &format!("linux-image-{series}.")])
        .output()?;
    let version = oldest_of(&listed);
    version
        .map(str::to_owned)
        .with_context(|| format!("apt knows no cloud kernel {series}"))
}

/// The lowest version among the names of packages.
fn oldest_of(listed: &str) -> Option<&str> {
    listed
        .lines()
        .filter_map(|package| package.strip_prefix("linux-image-"))
        .filter(|version| version.ends_with("-cloud-amd64"))
        .min_by_key(|version| {
            let numbers = version.split(|c: char| !c.is_ascii_digit());
            let numbers = numbers.filter_map(|number| number.parse::<u32>().ok());
            numbers.collect::<Vec<_>>()
        })
}

/// Downloads and unpacks beside `dir`, and moves it there when it is complete.
fn fetch(version: &str, kernels: &Path, dir: &Path) -> Result<()> {
    say("vm-test", format_args!("downloading kernel {version}"));
    let staged = kernels.join(format!(".{version}.{}", std::process::id()));
    let outcome = fetch_into(version, &staged).and_then(|()| {
        fs::rename(&staged, dir).with_context(|| format!("cannot create {}", dir.display()))
    });
    if outcome.is_err() {
        // What is left of a failed attempt is of no use; the failure itself is what matters.
        fs::remove_dir_all(&staged).ok();
    }
    outcome
}

fn fetch_into(version: &str, staged: &Path) -> Result<()> {
    fs::create_dir_all(staged).with_context(|| format!("cannot create {}", staged.display()))?;
    let package = format!("linux-image-{version}");
    Cmd::new("apt-get", DOWNLOAD_LIMIT)
        .args(apt::OPTIONS)
        .args(["download", &package])
        .dir(staged)
        .output()
        .with_context(|| format!("cannot download {package}; is it in `apt-cache policy`?"))?;
    let archive = fs::read_dir(staged)
        .with_context(|| format!("cannot list {}", staged.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get downloaded no file for {package}"))?;
    Cmd::new("dpkg-deb", UNPACK_LIMIT)
        .arg("--extract")
        .arg(&archive)
        .arg(staged)
        .run()?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    // The package's installation script would do it.
    Cmd::new("depmod", UNPACK_LIMIT)
        .arg("--basedir")
        .arg(staged)
        .arg(version)
        .output()?;
    vmlinux::extract(
        &staged.join(format!("boot/vmlinuz-{version}")),
        &staged.join("vmlinux"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_not_confused() {
        let listed = "Package: x\nDepends: linux-image-6.12.117+deb12-cloud-amd64 (= 6.12.117-1)\n";
        assert_eq!(
            dependency(listed, "6.12"),
            Some("6.12.117+deb12-cloud-amd64")
        );
        assert_eq!(dependency(listed, "6.1"), None);
    }

    #[test]
    fn the_oldest_is_so_by_its_numbers() {
        let listed = "linux-image-6.1.0-9-amd64\nlinux-image-6.1.0-50-cloud-amd64\n\
                      linux-image-6.1.0-47-cloud-amd64-dbg\nlinux-image-6.1.0-48-cloud-amd64\n\
                      linux-image-6.1.0-100-cloud-amd64\n";
        assert_eq!(oldest_of(listed), Some("6.1.0-48-cloud-amd64"));
        assert_eq!(oldest_of("linux-image-6.1.0-9-amd64\n"), None);
    }
}
