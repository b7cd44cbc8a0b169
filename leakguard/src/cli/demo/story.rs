use std::env;
use std::io::{self, IsTerminal, Stdout, Write};
use std::time::Instant;

use super::interrupt::{self, Interrupted};
use crate::lab::LabError;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";

/// The demo's narration on standard output, and its score.
///
/// Everything that prints also looks for Ctrl-C, so that the story ends at the next line.
#[derive(Debug)]
pub(super) struct Story {
    out: Stdout,
    coloured: bool,
    started: Instant,
    chapter: u32,
    passed: u32,
    failed: u32,
}

impl Story {
    pub(super) fn new() -> Self {
        let out = io::stdout();
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            coloured: out.is_terminal() && !no_colour,
            out,
            started: Instant::now(),
            chapter: 0,
            passed: 0,
            failed: 0,
        }
    }

    pub(super) fn title(&mut self, text: &str) -> anyhow::Result<()> {
        let text = self.paint(BOLD, text);
        self.line(&text)
    }

    pub(super) fn chapter(&mut self, text: &str) -> anyhow::Result<()> {
        self.chapter += 1;
        let heading = self.paint(BOLD, &format!("{}. {text}", self.chapter));
        interrupt::check()?;
        self.line("")?;
        self.line(&heading)
    }

    /// Something that takes a moment: named when it starts, timed when it is done.
    pub(super) fn step<T>(
        &mut self,
        text: &str,
        action: impl FnOnce() -> Result<T, LabError>,
    ) -> anyhow::Result<T> {
        interrupt::check()?;
        // A terminal shows at once what is going on; the result replaces it.
        let live = self.out.is_terminal();
        if live {
            write!(self.out, "   ...   {text}")?;
            self.out.flush()?;
        }
        let started = Instant::now();
        let result = action();
        if live {
            write!(self.out, "\r")?;
        }
        if interrupt::is_set() {
            return Err(Interrupted.into());
        }
        let seconds = started.elapsed().as_secs_f64();
        self.check(&format!("{text} ({seconds:.1} s)"), result.is_ok())?;
        Ok(result?)
    }

    /// A command as the user would type it.
    pub(super) fn command(&mut self, line: &str) -> anyhow::Result<()> {
        interrupt::check()?;
        let line = self.paint(DIM, &format!("$ {line}"));
        self.text(&line)
    }

    pub(super) fn text(&mut self, text: &str) -> anyhow::Result<()> {
        self.line(&format!("         {text}"))
    }

    /// Something that must be so for the demo to succeed.
    pub(super) fn check(&mut self, text: &str, holds: bool) -> anyhow::Result<()> {
        interrupt::check()?;
        let mark = if holds {
            self.passed += 1;
            self.paint(GREEN, "ok")
        } else {
            self.failed += 1;
            self.paint(RED, "FAIL")
        };
        let padding = if holds { "    " } else { "  " };
        self.line(&format!("   {mark}{padding}{text}"))
    }

    /// Says how it went; whether all went as told.
    pub(super) fn summary(&mut self) -> anyhow::Result<bool> {
        let Self { passed, failed, .. } = *self;
        let seconds = self.started.elapsed().as_secs_f64();
        let text = if failed == 0 {
            self.paint(GREEN, &format!("All {passed} steps as told"))
        } else {
            self.paint(
                RED,
                &format!("{failed} of {} steps NOT as told", passed + failed),
            )
        };
        self.line("")?;
        self.line(&format!(
            "{text}, in {seconds:.1} s. Everything is removed again."
        ))?;
        Ok(failed == 0)
    }

    pub(super) fn line(&mut self, text: &str) -> anyhow::Result<()> {
        match writeln!(self.out, "{text}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Interrupted.into()),
            result => Ok(result?),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.coloured {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
