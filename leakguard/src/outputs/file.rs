//! Events as JSON lines in a file.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::append::AppendFile;
use super::sink::{Sink, Written};
use super::{Output, OutputError};
use crate::daemon::Published;

/// The file, open or to be opened.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    open: Option<AppendFile>,
    lines: String,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl EventFile {
    /// It is opened with the first event.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            open: None,
            lines: String::new(),
            ends: Vec::new(),
        }
    }

    fn opened(&mut self) -> Result<&mut AppendFile, OutputError> {
        if self.open.as_ref().is_some_and(AppendFile::is_stale) {
            self.open = None;
        }
        let file = match self.open.take() {
            Some(file) => file,
            None => self.open()?,
        };
        Ok(self.open.insert(file))
    }

    /// What a crash has left of a line is closed, so that the next one is whole.
    fn open(&self) -> Result<AppendFile, OutputError> {
        let read = || OutputError::file("read", &self.path);
        let mut opened = AppendFile::open(&self.path)?;
        let length = opened.file().metadata().map_err(read())?.len();
        if let Some(last) = length.checked_sub(1) {
            let mut byte = [0];
            opened
                .file()
                .read_exact_at(&mut byte, last)
                .map_err(read())?;
            if byte != *b"\n" {
                opened.append(b"\n").1?;
            }
        }
        Ok(opened)
    }
}

impl Sink for EventFile {
    const OUTPUT: Output = Output::File;

    fn target(&self) -> String {
        self.path.display().to_string()
    }

    fn reopen(&mut self) {
        self.open = None;
    }

    async fn write(&mut self, events: &[Arc<Published>]) -> Written {
        if let Err(error) = self.opened() {
            return Written::nothing(error);
        }
        let Self {
            path: _,
            open: Some(file),
            lines,
            ends,
        } = self
        else {
            return Written {
                events: 0,
                error: None,
            };
        };
        lines.clear();
        ends.clear();
        for event in events {
            event.write_json(lines);
            lines.push('\n');
            ends.push(lines.len());
        }
        let (written, result) = file.append(lines.as_bytes());
        Written {
            events: ends.partition_point(|&end| end <= written),
            error: result.err(),
        }
    }
}
