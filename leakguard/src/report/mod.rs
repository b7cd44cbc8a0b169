//! What was recorded, as a page that people can read: who, what, when, and what is missing.

mod chart;
mod collect;
mod page;
mod record;
mod timeline;

use std::io::{self, BufRead, Read as _};

use jiff::Timestamp;

pub use collect::Report;

/// The longest line that is read; events are far shorter.
const MAX_LINE: u64 = 1024 * 1024;

impl Report {
    /// Takes in all lines of a file, in memory that does not grow with it.
    pub fn read(&mut self, file: &str, mut input: impl BufRead) -> io::Result<()> {
        self.begin(file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
                self.refuse(number, "longer than any event");
                skip_line(&mut input)?;
            } else {
                self.add(number, &line);
            }
        }
        Ok(())
    }

    /// The page.
    pub fn html(&self) -> String {
        page::page(self, Timestamp::now()).into_string()
    }
}

/// Reads on behind the end of the line.
fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(buffer.len(), |end| end + 1);
        input.consume(length);
        if end.is_some() {
            return Ok(());
        }
    }
}

/// When the record of a file begins: the time of the first of its lines that has one.
pub fn beginning(input: impl BufRead) -> io::Result<Option<Timestamp>> {
    /// What is not found soon is not found.
    const LINES: usize = 100;

    let mut input = input.take(MAX_LINE);
    let mut line = Vec::new();
    for _ in 0..LINES {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let time = match record::read(&line) {
            Ok(
                record::Line::Packet(record)
                | record::Line::Suppressed(record)
                | record::Line::Notice(record),
            ) => record.time,
            _ => None,
        };
        if let Some(time) = time.and_then(|time| time.parse().ok()) {
            return Ok(Some(time));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
