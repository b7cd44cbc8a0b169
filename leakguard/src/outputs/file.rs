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
    lines: Vec<u8>,
}

impl EventFile {
    /// It is opened with the first event.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            open: None,
            lines: Vec::new(),
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
        let mut lines = std::mem::take(&mut self.lines);
        let file = match self.opened() {
            Ok(file) => file,
            Err(error) => return Written::nothing(error),
        };
        for event in events {
            lines.extend_from_slice(event.json().as_bytes());
            lines.push(b'\n');
        }
        let (written, result) = file.append(&lines);
        let mut end = 0;
        let whole = events.iter().take_while(|event| {
            end += event.json().len() + 1;
            end <= written
        });
        let events = whole.count();
        lines.clear();
        self.lines = lines;
        Written {
            events,
            error: result.err(),
        }
    }
}
