//! `leakguard report`: a page from recorded events.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::args::ReportArgs;
use super::output_file::{check, open};
use crate::error::{Exit, WithExit as _};
use crate::report::{Report, beginning};

/// What a file begins with that `gzip` has made.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Runs the command.
pub(super) fn run(args: &ReportArgs) -> anyhow::Result<Exit> {
    let ReportArgs { files, output } = args;
    let to_stdout = output == Path::new("-");
    if !to_stdout {
        check(output)?;
        if let Some(file) = files.iter().find(|file| is_same(file, output)) {
            return Err(anyhow!(
                "{} would be replaced by its own report: name another file (-o)",
                file.display()
            ))
            .with_exit(Exit::Usage);
        }
    }
    let mut report = Report::default();
    for file in in_order(files)? {
        let name = name(&file);
        let reading = || format!("cannot read {name}");
        report
            .read(&name, input(&file).with_context(reading)?)
            .with_context(reading)?;
    }
    if report.is_empty() {
        return Err(anyhow!(
            "there is no event in {} lines; record some with `leakguard events --json`",
            report.lines()
        ))
        .with_exit(Exit::Failed);
    }
    let page = report.html();
    if to_stdout {
        return match io::stdout().write_all(page.as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).context("cannot write to standard output")
            }
            _ => Ok(Exit::Done),
        };
    }
    open(output)
        .and_then(|mut file| file.write_all(page.as_bytes()))
        .with_context(|| format!("cannot write to {}", output.display()))?;
    if report.unreadable() > 0 {
        log::warn!(
            "{} of {} lines could not be read; the report names them",
            report.unreadable(),
            report.lines()
        );
    }
    log::info!("{} lines, report in {}", report.lines(), output.display());
    Ok(Exit::Done)
}

/// Whether two names are of one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// The files from the oldest on, whichever way they were rotated and named.
fn in_order(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut dated = Vec::new();
    for file in files {
        let reading = || format!("cannot read {}", file.display());
        // A pipe cannot be looked at before it is read: what comes by it stays where it was given, behind the rest.
        let is_pipe =
            file == Path::new("-") || !fs::metadata(file).with_context(reading)?.is_file();
        let begins = if is_pipe {
            None
        } else {
            let mut input = input(file).with_context(reading)?;
            if input.fill_buf().with_context(reading)?.starts_with(&GZIP) {
                return Err(anyhow!(
                    "{0} is compressed; unpack it on the way: zcat {0} | leakguard report -",
                    file.display()
                ))
                .with_exit(Exit::Usage);
            }
            beginning(input).with_context(reading)?
        };
        dated.push((begins.is_none(), begins, file.clone()));
    }
    // Stable: files that say nothing stay as they were given.
    dated.sort_by_key(|(undated, begins, _)| (*undated, *begins));
    Ok(dated.into_iter().map(|(_, _, file)| file).collect())
}

fn input(file: &Path) -> io::Result<Box<dyn BufRead>> {
    Ok(if file == Path::new("-") {
        Box::new(BufReader::new(io::stdin().lock().take(u64::MAX)))
    } else {
        Box::new(BufReader::with_capacity(128 * 1024, File::open(file)?))
    })
}

fn name(file: &Path) -> String {
    if file == Path::new("-") {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    }
}
