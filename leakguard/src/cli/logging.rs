//! The log on standard error.

use std::io::{self, Write};

use env_logger::Builder;
use jiff::Timestamp;
use log::{Level, LevelFilter, Record};
use serde::Serialize;

use super::args::{LogArgs, LogFormat};
use crate::error::escape_control;

/// Starts logging as the command line says.
pub(super) fn start(args: &LogArgs) {
    let format = args.log_format;
    Builder::new()
        .filter_level(match args.verbose {
            0 => LevelFilter::Info,
            1 => LevelFilter::Debug,
            _ => LevelFilter::Trace,
        })
        .format(move |output, record| match format {
            LogFormat::Text => write_text(output, record),
            LogFormat::Json => write_json(output, record, Timestamp::now()),
        })
        .init();
}

/// One line for people; the service manager adds the time.
fn write_text(output: &mut impl Write, record: &Record<'_>) -> io::Result<()> {
    writeln!(
        output,
        "{}: {}",
        name(record.level()),
        escape_control(&record.args().to_string())
    )
}

/// One JSON object.
fn write_json(output: &mut impl Write, record: &Record<'_>, time: Timestamp) -> io::Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        level: &'static str,
        target: &'a str,
        message: String,
    }

    serde_json::to_writer(
        &mut *output,
        &Line {
            time: time.to_string(),
            level: name(record.level()),
            target: record.target(),
            message: record.args().to_string(),
        },
    )?;
    writeln!(output)
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(write: impl FnOnce(&mut Vec<u8>, &Record<'_>) -> io::Result<()>) -> String {
        let mut output = Vec::new();
        let record = &Record::builder()
            .level(Level::Warn)
            .target("leakguard::daemon")
            .args(format_args!("lost \"eth0\"\u{1b}\nagain"))
            .build();
        write(&mut output, record).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn text_is_one_line_without_control_characters() {
        assert_eq!(line(write_text), "warning: lost \"eth0\"\\u{1b}\\nagain\n");
    }

    #[test]
    fn json_is_one_object_per_line() {
        let text = line(|output, record| write_json(output, record, Timestamp::UNIX_EPOCH));
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["time"], "1970-01-01T00:00:00Z");
        assert_eq!(value["level"], "warning");
        assert_eq!(value["target"], "leakguard::daemon");
        assert_eq!(value["message"], "lost \"eth0\"\u{1b}\nagain");
    }
}
