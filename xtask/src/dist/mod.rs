//! `cargo xtask dist`: a release's packages, in `target/dist`: a Debian package, an image for containers, an archive, and what
//! they are made of.
//!
//! All of them are made of one tree of files ([`stage`]), and of nothing that changes from one run to the next: the same commit
//! gives the same bytes.

mod archive;
mod changelog;
mod check;
mod deb;
mod image;
mod linked;
mod notices;
mod sbom;
mod stage;

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::builder::PossibleValuesParser;

use self::stage::Tree;
use crate::{
    process::Cmd,
    report::{line, say},
    setup,
    test::libtest::Tally,
    workspace::{Metadata, root},
};

const QUERY_LIMIT: Duration = Duration::from_mins(1);

/// The variable that says of which time everything is.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The package that is released.
const PACKAGE: &str = "leakguard";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Test what was made: install, upgrade, remove and purge it on a Debian of its own, run the image, ask lintian and piuparts
    #[arg(long)]
    check: bool,
    /// Only these tests
    #[arg(
        long,
        value_name = "TEST",
        value_delimiter = ',',
        requires = "check",
        value_parser = PossibleValuesParser::new(check::NAMES)
    )]
    only: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.check {
        let only = &args.only;
        let wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
        return Ok(tally(wanted)?.conclude());
    }
    setup::ensure_dist()?;
    make(&Release::find()?)?;
    Ok(ExitCode::SUCCESS)
}

/// The short form of the tests: those that need no Debian of their own.
pub(crate) fn quick() -> Result<Tally> {
    tally(|name| ["reproducible", "sbom", "lintian", "image"].contains(&name))
}

/// Makes the packages, tests them, and counts.
fn tally(wanted: impl Fn(&str) -> bool) -> Result<Tally> {
    setup::ensure_dist()?;
    setup::ensure_dist_check()?;
    let release = Release::find()?;
    let (tree, packages) = make(&release)?;
    Ok(check::tally(&release, &tree, &packages, wanted))
}

fn make(release: &Release) -> Result<(Tree, Packages)> {
    let tree = stage::agent_and_pages(release)?;
    let packages = Packages::make(release, &tree)?;
    packages.list()?;
    Ok((tree, packages))
}

/// What is released, and where its packages go.
#[derive(Debug)]
pub(crate) struct Release {
    /// As in `Cargo.toml`.
    version: String,
    /// The time that every file gets: seconds since 1970.
    epoch: u64,
    /// Everything that is made is below.
    directory: PathBuf,
}

impl Release {
    fn find() -> Result<Self> {
        let packages = Metadata::load()?.packages()?;
        let package = packages.iter().find(|package| package.name == PACKAGE);
        let epoch = match env::var(EPOCH) {
            Ok(epoch) => epoch,
            Err(_) => Cmd::new("git", QUERY_LIMIT)
                .args(["log", "-1", "--format=%ct"])
                .dir(root())
                .output()
                .with_context(|| {
                    format!("without git's history, set {EPOCH} to the time of the release")
                })?,
        };
        Ok(Self {
            version: package
                .context("the workspace has no such package")?
                .version
                .clone(),
            epoch: epoch
                .trim()
                .parse()
                .with_context(|| format!("`{}` is no time", epoch.trim()))?,
            // Where `Cargo.toml` names them for the Debian package.
            directory: root().join("target/dist"),
        })
    }

    /// The time of the release, in words.
    fn timestamp(&self) -> Result<String> {
        let time = Cmd::new("date", QUERY_LIMIT)
            .args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"])
            .arg(format!("--date=@{}", self.epoch))
            .output()?;
        Ok(time.trim().to_owned())
    }

    /// A new, empty directory.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let directory = self.directory.join(name);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("cannot remove {}", directory.display()));
            }
            _ => {}
        }
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }
}

/// What was made.
#[derive(Debug)]
pub(crate) struct Packages {
    deb: PathBuf,
    image: PathBuf,
    archive: PathBuf,
    sbom: PathBuf,
    sums: PathBuf,
}

impl Packages {
    fn make(release: &Release, tree: &Tree) -> Result<Self> {
        let directory = release.fresh("packages")?;
        say("dist", "the list of what it is built of");
        let sbom = sbom::write(release, &directory)?;
        say("dist", "the archive");
        let archive = archive::release(release, tree, &directory)?;
        say("dist", "the Debian package");
        let deb = deb::build(release, &directory, None)?;
        say("dist", "the image for containers");
        let image = image::build(release, tree, &directory)?;
        let sums = directory.join("SHA256SUMS");
        let mut text = String::new();
        for file in [&archive, &deb, &image, &sbom] {
            let name = file.file_name().unwrap_or_default().display();
            writeln!(text, "{}  {name}", archive::sha256(file)?)?;
        }
        fs::write(&sums, text).with_context(|| format!("cannot write {}", sums.display()))?;
        Ok(Self {
            deb,
            image,
            archive,
            sbom,
            sums,
        })
    }

    fn files(&self) -> [&Path; 5] {
        [
            &self.deb,
            &self.image,
            &self.archive,
            &self.sbom,
            &self.sums,
        ]
    }

    fn list(&self) -> Result<()> {
        for file in self.files() {
            let length = fs::metadata(file)
                .with_context(|| format!("cannot find {}", file.display()))?
                .len();
            ensure!(length > 0, "{} is empty", file.display());
            line(format_args!("{:>10} {}", length, file.display()));
        }
        Ok(())
    }
}
