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

/// How long a program took until it had an answer or gave up, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    /// The program.
    pub client: &'static str,
    /// How it asks.
    pub way: &'static str,
    /// Of the address that it asks.
    pub family: &'static str,
    /// What has become of the tunnel.
    pub tunnel: &'static str,
    /// Without leakguard.
    pub without: u128,
    /// With it.
    pub with: u128,
}

/// Writes the rows of one test as its part of a table.
pub fn report(table: &str, part: &str, rows: &[Row]) {
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
    write(table, part, &text);
}

/// As [`report`], of times.
pub fn report_times(table: &str, part: &str, rows: &[Times]) {
    let mut text = String::from("client\tway\tfamily\ttunnel\twithout ms\twith ms\n");
    for row in rows {
        let Times {
            client,
            way,
            family,
            tunnel,
            without,
            with,
        } = row;
        writeln!(
            text,
            "{client}\t{way}\t{family}\t{tunnel}\t{without}\t{with}"
        )
        .unwrap();
    }
    write(table, part, &text);
}

fn write(table: &str, part: &str, text: &str) {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = PathBuf::from(directory);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(format!("{table}.{part}.tsv")), text).unwrap();
}
