//! Pages of the commands, in section 8.

use anyhow::{Context as _, Result};
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// Commands of the administrator.
const SECTION: &str = "8";

/// The collection that a page says it is of.
const MANUAL: &str = "leakguard";

/// A page, and how its file is called.
pub(crate) struct Page {
    pub(crate) file: String,
    pub(crate) text: Vec<u8>,
}

/// The pages of a command and of all below it.
pub(crate) fn pages(command: Command) -> Result<Vec<Page>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, None, &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, above: Option<&str>, pages: &mut Vec<Page>) -> Result<()> {
    let name = name(command).to_owned();
    pages.push(Page {
        file: format!("{name}.{SECTION}"),
        text: page(command, above)?,
    });
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
    {
        collect(below, Some(&name), pages)?;
    }
    Ok(())
}

/// With its ancestors, as pages are called: `leakguard-config-check`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

fn page(command: &Command, above: Option<&str>) -> Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .section(SECTION)
        .manual(MANUAL)
        .source(concat!("leakguard ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render_title(&mut text)
        .and_then(|()| man.render_name_section(&mut text))
        .and_then(|()| man.render_synopsis_section(&mut text))
        .and_then(|()| man.render_description_section(&mut text))
        .and_then(|()| man.render_options_section(&mut text))
        .context("cannot render a page")?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)
            .context("cannot render a page")?;
    }
    let mut end = Roff::new();
    if let Some(help) = command.get_after_help() {
        after_help(&help.to_string(), &mut end);
    }
    see_also(command, above, &mut end);
    end.to_writer(&mut text).context("cannot render a page")?;
    Ok(text)
}

/// What is below the options: a block with a heading is a section of its own, and keeps its lines.
fn after_help(help: &str, roff: &mut Roff) {
    let mut notes = false;
    for block in help.split("\n\n") {
        let (first, rest) = block.split_once('\n').unwrap_or((block, ""));
        match first.split_once(':') {
            Some(("Example" | "Examples", "")) => {
                roff.control("SH", ["EXAMPLES"]);
                unfilled(
                    rest.lines()
                        .map(|line| line.strip_prefix("  ").unwrap_or(line)),
                    roff,
                );
            }
            Some(("Exit codes", codes)) => {
                roff.control("SH", ["EXIT STATUS"]);
                unfilled([codes].into_iter().chain(rest.lines()).map(str::trim), roff);
            }
            _ => {
                roff.control(
                    if notes { "PP" } else { "SH" },
                    ["NOTES"].into_iter().skip(usize::from(notes)),
                );
                notes = true;
                roff.text([roman(block.replace('\n', " "))]);
            }
        }
    }
}

/// Lines that stay as they are.
fn unfilled<'text>(lines: impl Iterator<Item = &'text str>, roff: &mut Roff) {
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

/// The pages next to it.
fn see_also(command: &Command, above: Option<&str>, roff: &mut Roff) {
    let below = command
        .get_subcommands()
        .map(|below| (name(below), SECTION));
    let pages = above
        .map(|above| (above, SECTION))
        .into_iter()
        .chain(below)
        .chain([("leakguard.toml", "5")]);
    let mut line = Vec::new();
    for (name, section) in pages {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.extend([bold(name), roman(format!("({section})"))]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text(line);
}
