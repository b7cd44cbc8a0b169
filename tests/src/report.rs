//! Rows for the tables that `cargo xtask test --report` prints.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// The variable that names the directory for the rows; without it they go nowhere.
const DIRECTORY: &str = "LEAKGUARD_REPORT";

/// What became of the probes of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What the packets look like.
    pub form: &'static str,
    /// The way out that they took.
    pub path: String,
    /// Their IP version.
    pub family: &'static str,
    /// Their class and transport.
    pub class: &'static str,
    /// How many were sent, without leakguard and again with it.
    pub sent: usize,
    /// How many of them were seen outside without leakguard.
    pub without: usize,
    /// How many were seen outside with it.
    pub with: usize,
}

/// Writes the rows of one test as its part of a table.
pub fn report(table: &str, part: &str, rows: &[Row]) {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let mut text = String::from("form\tpath\tfamily\tclass\tsent\twithout\twith\n");
    for row in rows {
        let Row {
            form,
            path,
            family,
            class,
            sent,
            without,
            with,
        } = row;
        writeln!(
            text,
            "{form}\t{path}\t{family}\t{class}\t{sent}\t{without}\t{with}"
        )
        .unwrap();
    }
    let directory = PathBuf::from(directory);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(format!("{table}.{part}.tsv")), text).unwrap();
}
