//! Writes what packages carry besides the program: manual pages and completions for shells.
//!
//! Both are made of the command line as it is, and the page of the configuration file of `dist/leakguard.toml`, so that they
//! cannot say something else. An example of cargo's, and no command of the program's: nobody needs it once it is installed.
//!
//! `cargo run --example pages -- DIRECTORY`

mod command;
mod configuration;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::{generate_to, shells};
use leakguard::cli::Cli;

/// What the configuration file's page is made of.
const CONFIGURATION: &str = include_str!("../../../dist/leakguard.toml");

fn main() -> Result<()> {
    let directory = env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: pages DIRECTORY")?;
    let manual = directory.join("man");
    fs::create_dir_all(&manual).with_context(|| format!("cannot create {}", manual.display()))?;
    for page in command::pages(Cli::command())? {
        write(&manual.join(page.file), &page.text)?;
    }
    write(
        &manual.join(configuration::FILE),
        &configuration::page(CONFIGURATION)?,
    )?;
    completions(&directory)
}

/// One file for each shell, called as the shell looks for it.
fn completions(directory: &Path) -> Result<()> {
    const NAME: &str = "leakguard";

    let directory = directory.join("completions");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let mut command = Cli::command();
    let made = generate_to(shells::Bash, &mut command, NAME, &directory)
        .and_then(|_| generate_to(shells::Zsh, &mut command, NAME, &directory))
        .and_then(|_| generate_to(shells::Fish, &mut command, NAME, &directory));
    made.context("cannot write completions")?;
    Ok(())
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
