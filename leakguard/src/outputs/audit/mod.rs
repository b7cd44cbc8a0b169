//! The audit log: JSON lines of which each carries the hash of the one before.

mod chain;
mod tail;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use chain::{Hash, Head};
pub use verify::{Problem, ProblemKind, Report, VerifyError, verify};

use super::append::AppendFile;
use super::sink::{Sink, Written};
use super::{Output, OutputError};
use crate::daemon::Published;
use crate::error::chain;
use crate::event::{Notice, NoticeKind};
use tail::Tail;

/// The file, open or to be opened.
#[derive(Debug)]
pub(super) struct AuditLog {
    path: PathBuf,
    open: Option<AppendFile>,
    /// The last line that this agent has written.
    head: Head,
}

/// Whether a file can be gone on with.
pub(super) fn check(path: &Path) -> Result<(), OutputError> {
    let file = AppendFile::open(path)?;
    Tail::read(path, file.file())?;
    Ok(())
}

impl AuditLog {
    /// It is opened with the first event.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            open: None,
            head: Head::default(),
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

    /// Opens it and goes on with the chain: with that of the file, or, if that is empty, with the one before it.
    fn open(&mut self) -> Result<AppendFile, OutputError> {
        let mut file = AppendFile::open(&self.path)?;
        let Tail { head, torn, ended } = Tail::read(&self.path, file.file())?;
        let mut head = head.unwrap_or(Head {
            line: 0,
            hash: self.head.hash,
        });
        let mut lines = Vec::new();
        if !ended {
            lines.push(b'\n');
        }
        if let Some(torn) = torn {
            log::warn!(
                "the last line of {} is not whole; it stays, and the next one says so",
                self.path.display()
            );
            head.add_torn(torn, &mut lines);
        }
        let opened = own("opened");
        head.add_entry(&opened, &mut lines);
        let (written, result) = file.append(&lines);
        if written < lines.len() {
            // What has got there is read again the next time.
            return Err(result.err().unwrap_or_else(|| OutputError::NotAuditLog {
                path: self.path.clone(),
            }));
        }
        file.sync()?;
        self.head = head;
        self.announce();
        Ok(file)
    }

    /// A trace elsewhere than in the file of how far it goes.
    fn announce(&self) {
        let Head { line, hash } = self.head;
        log::info!(
            "audit log {}: line {line}, hash {hash}",
            self.path.display()
        );
    }

    /// Says in the file that nothing more comes from this agent, as far as that can be said.
    fn close(&mut self) -> Result<(), OutputError> {
        let Some(mut file) = self.open.take() else {
            return Ok(());
        };
        let mut head = self.head;
        let mut lines = Vec::new();
        head.add_entry(&own("closed"), &mut lines);
        file.append(&lines).1?;
        file.sync()?;
        self.head = head;
        self.announce();
        Ok(())
    }
}

/// What the log itself has to say, in the form of a notice; it has no number in the sequence of events.
fn own(subject: &str) -> String {
    let notice = Notice::new(
        NoticeKind::AuditLog,
        Output::AuditLog.name(),
        subject,
        format!(
            "leakguard {}, pid {}",
            env!("CARGO_PKG_VERSION"),
            std::process::id()
        ),
    );
    // A struct of numbers and texts is always written.
    serde_json::to_string(&notice).unwrap_or_else(|_| "null".to_owned())
}

impl Sink for AuditLog {
    const OUTPUT: Output = Output::AuditLog;

    fn target(&self) -> String {
        self.path.display().to_string()
    }

    fn start(&mut self) -> Result<(), OutputError> {
        self.opened().map(drop)
    }

    fn reopen(&mut self) {
        if let Err(error) = self.close().and_then(|()| self.start()) {
            log::debug!("{}", chain(&error));
        }
    }

    async fn write(&mut self, events: &[Arc<Published>]) -> Written {
        if let Err(error) = self.opened() {
            return Written::nothing(error);
        }
        let mut head = self.head;
        let mut lines = Vec::new();
        // Where each line ends, and what the chain's end is then.
        let mut ends = Vec::with_capacity(events.len());
        for event in events {
            head.add_entry(event.json(), &mut lines);
            ends.push((lines.len(), head));
        }
        let Some(file) = &mut self.open else {
            return Written {
                events: 0,
                error: None,
            };
        };
        let (written, result) = file.append(&lines);
        let whole = ends.partition_point(|&(end, _)| end <= written);
        if let Some(&(_, head)) = whole.checked_sub(1).and_then(|last| ends.get(last)) {
            self.head = head;
        }
        Written {
            events: whole,
            error: result.and_then(|()| file.sync()).err(),
        }
    }

    fn finish(&mut self) -> Result<(), OutputError> {
        self.close()
    }
}
