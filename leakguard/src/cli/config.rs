//! `leakguard config`: check a file, show what applies.

use anyhow::Context as _;

use super::{
    args::{ConfigArgs, ConfigCheckArgs, ConfigCommand, ConfigShowArgs},
    output::Output,
};
use crate::{
    config::{Config, Source},
    doh,
    error::{Exit, WithExit as _, escape_control},
};

/// Runs the command.
pub(super) fn run(args: &ConfigArgs) -> anyhow::Result<Exit> {
    let mut output = Output::stdout();
    match &args.command {
        ConfigCommand::Check(args) => check(args, &mut output),
        ConfigCommand::Show(args) => show(args, &mut output),
    }?;
    Ok(Exit::Done)
}

fn check(args: &ConfigCheckArgs, output: &mut Output) -> anyhow::Result<()> {
    let source = args
        .file
        .clone()
        .map_or_else(|| args.source.source(), Source::Required);
    let path = source.path().display().to_string();
    let Some(layer) = source.read().with_exit(Exit::Usage)? else {
        return Ok(output.line(format_args!("{path}: no such file, so the defaults apply"))?);
    };
    let config = Config::new(layer)
        .context(path.clone())
        .with_exit(Exit::Usage)?;
    doh::Source::read(config.doh_resolvers())
        .context(path.clone())
        .with_exit(Exit::Usage)?;
    output.line(format_args!("{}: ok", escape_control(&path)))?;
    if !config.tunnels_named() {
        output.line("note: it names no tunnel, so `leakguard run` will need --tunnel")?;
    }
    Ok(())
}

fn show(args: &ConfigShowArgs, output: &mut Output) -> anyhow::Result<()> {
    let config = args.policy.load()?;
    let text = config
        .to_toml()
        .context("cannot write the configuration as TOML")?;
    output.line(text.trim_end())?;
    Ok(())
}
