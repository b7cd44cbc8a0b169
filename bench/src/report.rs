//! What is said of the measurements: Markdown on standard output and in a file, and a diagram for each table.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::plot;
use crate::rounds::Samples;

/// One table: contenders, measured in one run.
pub(crate) struct Table {
    /// What is measured; the name of its diagram is made from it.
    pub(crate) title: String,
    /// Of the values.
    pub(crate) unit: &'static str,
    /// In the order of the rows.
    pub(crate) rows: Vec<Samples>,
    /// The row that others are told as multiples of; without one they are not.
    pub(crate) baseline: Option<usize>,
    /// What the reader has to know.
    pub(crate) note: String,
}

impl Table {
    fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n", self.title);
        let unit = self.unit;
        let baseline = self.baseline.and_then(|row| self.rows.get(row));
        let (head, rule) = match baseline {
            Some(row) => (format!(" x {} |", row.name), "---:|"),
            None => (String::new(), ""),
        };
        // Writing to a string does not fail.
        let _infallible = writeln!(
            text,
            "| | median, {unit} | quartiles |{head}\n|---|---:|---|{rule}"
        );
        for row in &self.rows {
            let [low, middle, high] = [0.25, 0.5, 0.75].map(|part| figure(row.quantile(part)));
            let _infallible = write!(text, "| {} | {middle} | {low} to {high} |", row.name);
            if let Some(baseline) = baseline {
                let _infallible = write!(text, " {:.2} |", row.ratio(baseline).median());
            }
            text.push('\n');
        }
        if !self.note.is_empty() {
            let _infallible = write!(text, "\n{}\n", self.note);
        }
        text
    }

    /// The title as a file's name.
    fn slug(&self) -> String {
        let title = self.title.to_lowercase();
        let words = title.split(|letter: char| !letter.is_ascii_alphanumeric());
        words
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join("-")
    }
}

/// A number with three digits that say something.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Where the tables go.
pub(crate) struct Report {
    directory: PathBuf,
    text: String,
}

impl Report {
    /// Into a directory, which is made.
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self {
            directory: directory.to_owned(),
            text: String::new(),
        })
    }

    /// Prints a table, draws it, and keeps what all that was said so far in `report.md`.
    #[expect(clippy::print_stdout, reason = "this is the program's output")]
    pub(crate) fn add(&mut self, table: &Table) -> Result<()> {
        let text = table.markdown();
        println!("{text}");
        self.text.push_str(&text);
        self.text.push('\n');
        let path = self.directory.join("report.md");
        fs::write(&path, &self.text).with_context(|| format!("cannot write {}", path.display()))?;
        plot::bars(
            &self.directory.join(format!("{}.svg", table.slug())),
            &table.title,
            table.unit,
            &table.rows,
        )
    }
}
