//! `leakguard resolver`: whom this host asks for names.

use serde::Serialize;

use super::args::{
    ResolverArgs, ResolverCommand, ResolverPlanArgs, ResolverRevertArgs, ResolverSettingsArgs,
    ResolverStatusArgs,
};
use super::output::Output;
use super::{errors, runtime};
use crate::config::Config;
use crate::error::{Exit, escape_control};
use crate::resolver::{self, Done, Foreign, Root, State, Surroundings};

/// Runs the command.
pub(super) fn run(args: &ResolverArgs) -> anyhow::Result<Exit> {
    match &args.command {
        ResolverCommand::Plan(args) => plan(args),
        ResolverCommand::Apply(args) => apply(&args.settings),
        ResolverCommand::Revert(args) => revert(args),
        ResolverCommand::Status(args) => status(args),
    }
}

fn prepare(settings: &ResolverSettingsArgs) -> anyhow::Result<(Root, Config, Surroundings)> {
    let root = settings.root.root()?;
    let config = settings.load(&root)?;
    let around = runtime()?.block_on(Surroundings::read(&root, &config))?;
    Ok((root, config, around))
}

/// What `plan --json` prints.
#[derive(Debug, Serialize)]
struct Planned {
    what: String,
    changed: bool,
    changes: Vec<PlannedChange>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PlannedChange {
    path: String,
    action: &'static str,
    diff: String,
}

fn plan(args: &ResolverPlanArgs) -> anyhow::Result<Exit> {
    let (root, config, around) = prepare(&args.settings)?;
    let (plan, changes) =
        resolver::plan(&root, config.resolver(), &around).map_err(errors::resolver)?;
    let mut output = Output::stdout();
    if args.json {
        let changes: Vec<PlannedChange> = changes
            .iter()
            .map(|change| PlannedChange {
                path: change.path.clone(),
                action: if change.restores() {
                    "restore"
                } else {
                    "write"
                },
                diff: change.diff(),
            })
            .collect();
        output.line(serde_json::to_string(&Planned {
            what: plan.what,
            changed: !changes.is_empty(),
            changes,
            notes: plan.notes,
        })?)?;
        return Ok(Exit::Done);
    }
    for change in &changes {
        for line in change.diff().lines() {
            output.line(escaped(line))?;
        }
    }
    for note in &plan.notes {
        output.line(format_args!("note: {note}"))?;
    }
    if changes.is_empty() {
        output.line("unchanged")?;
    }
    Ok(Exit::Done)
}

/// A line of a file, which may have tabs, and nothing that a terminal would obey.
fn escaped(line: &str) -> String {
    let parts: Vec<String> = line.split('\t').map(escape_control).collect();
    parts.join("\t")
}

fn apply(settings: &ResolverSettingsArgs) -> anyhow::Result<Exit> {
    let (root, config, around) = prepare(settings)?;
    let done = resolver::apply(&root, config.resolver(), &around).map_err(errors::resolver)?;
    let mut output = Output::stdout();
    if !done.changed {
        output.line("unchanged")?;
        return Ok(Exit::Done);
    }
    report(&done, "wrote", &mut output)?;
    for note in &done.notes {
        output.line(format_args!("note: {note}"))?;
    }
    output.line("applied")?;
    Ok(Exit::Done)
}

fn revert(args: &ResolverRevertArgs) -> anyhow::Result<Exit> {
    let root = args.root.root()?;
    let done = resolver::revert(&root).map_err(errors::resolver)?;
    let mut output = Output::stdout();
    if !done.changed {
        output.line("unchanged: nothing was applied")?;
        return Ok(Exit::Done);
    }
    report(&done, "wrote", &mut output)?;
    output.line("reverted")?;
    Ok(Exit::Done)
}

/// Says what was changed, and what others had changed.
pub(super) fn report(done: &Done, wrote: &str, output: &mut Output) -> anyhow::Result<()> {
    for change in &done.changes {
        let what: &dyn std::fmt::Display = if change.restores() {
            &"put back"
        } else {
            &wrote
        };
        output.line(format_args!("{what}: {}", escape_control(&change.path)))?;
    }
    for foreign in &done.foreign {
        output.line(kept(foreign))?;
    }
    Ok(())
}

fn kept(Foreign { path, copy }: &Foreign) -> String {
    let path = escape_control(path);
    match copy {
        Some(copy) => format!(
            "{path} had been changed by somebody since; their version is kept in {}",
            copy.display()
        ),
        None => format!("{path} had been changed or removed by somebody since"),
    }
}

fn status(args: &ResolverStatusArgs) -> anyhow::Result<Exit> {
    let root = args.root.root()?;
    let state = State::read(&root).map_err(errors::resolver)?;
    let mut output = Output::stdout();
    if args.json {
        output.line(serde_json::to_string(&state)?)?;
    } else {
        print(&state, &mut output)?;
    }
    Ok(if state.is_sound() {
        Exit::Done
    } else {
        Exit::NotProtected
    })
}

fn print(state: &State, output: &mut Output) -> anyhow::Result<()> {
    let State {
        applied,
        what,
        underway,
        watch,
        paths,
        drift,
    } = state;
    if !applied {
        output.line("not applied")?;
        return Ok(());
    }
    output.line(format_args!("applied    {}", escape_control(what)))?;
    if *underway {
        output
            .line("           not to the end: run `leakguard resolver apply` or `revert` again")?;
    }
    let watched = if *watch {
        "a running agent puts back what others change"
    } else {
        "a running agent reports what others change"
    };
    output.line(format_args!("watch      {watched}"))?;
    for path in paths {
        let problem = drift.iter().find(|drift| drift.path == *path);
        let problem = problem.map_or("as it was set up", |drift| drift.problem);
        output.line(format_args!(
            "file       {} {problem}",
            escape_control(path)
        ))?;
    }
    Ok(())
}
