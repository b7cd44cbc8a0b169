//! Standard output, whose reader may go away.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
};

/// Cannot write to standard output.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(super) struct OutputError(#[from] io::Error);

/// Lines for standard output.
///
/// A reader that has seen enough (`| head`) is no error: what follows is discarded, and the command ends with the exit
/// code it would have had.
#[derive(Debug)]
pub(super) struct Output<W = io::Stdout> {
    writer: W,
    reader_gone: bool,
}

impl Output {
    /// The standard output of this process.
    pub(super) fn stdout() -> Self {
        Self::new(io::stdout())
    }
}

impl<W: Write> Output<W> {
    fn new(writer: W) -> Self {
        Self {
            writer,
            reader_gone: false,
        }
    }

    /// Writes a line and makes it visible to the reader.
    pub(super) fn line(&mut self, line: impl Display) -> Result<(), OutputError> {
        if self.reader_gone {
            return Ok(());
        }
        match writeln!(self.writer, "{line}").and_then(|()| self.writer.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.reader_gone = true;
                Ok(())
            }
            result => Ok(result?),
        }
    }

    /// Whether nobody reads any more, so that a command that goes on for ever should end.
    pub(super) fn reader_gone(&self) -> bool {
        self.reader_gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails every write with the given kind of error.
    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written() {
        let mut output = Output::new(Vec::new());
        output.line("one").unwrap();
        output.line(2).unwrap();
        assert_eq!(output.writer, b"one\n2\n");
        assert!(!output.reader_gone());
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error() {
        let mut output = Output::new(Broken(ErrorKind::BrokenPipe));
        output.line("one").unwrap();
        assert!(output.reader_gone());
        output.line("two").unwrap();
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let mut output = Output::new(Broken(ErrorKind::StorageFull));
        let error = output.line("one").unwrap_err();
        assert_eq!(error.to_string(), "cannot write to standard output");
        assert!(!output.reader_gone());
    }
}
