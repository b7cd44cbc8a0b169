//! Where `leakguard events --pcap` writes to.

use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use data_encoding::BASE64;

use super::output_file::{check, open};
use crate::capture::Capture;
use crate::daemon::protocol::Captured;
use crate::error::{Exit, WithExit as _};
use crate::event::Entry;

/// A place that a capture may be written to.
#[derive(Debug)]
pub(super) enum Target {
    Stdout,
    File(PathBuf),
}

impl Target {
    /// Checks the place, and changes nothing there yet.
    pub(super) fn check(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return if io::stdout().is_terminal() {
                Err(anyhow!(
                    "a capture is not for a terminal: name a file, or pipe it on, as in `--pcap - | tshark -r -`"
                ))
                .with_exit(Exit::Usage)
            } else {
                Ok(Self::Stdout)
            };
        }
        check(path)?;
        Ok(Self::File(path.to_owned()))
    }

    /// Begins the capture; a file that is there is replaced, as `tcpdump -w` does.
    pub(super) fn begin(self) -> anyhow::Result<PcapOutput> {
        let (name, writer): (_, Box<dyn Write>) = match self {
            Self::Stdout => ("standard output".to_owned(), Box::new(io::stdout())),
            Self::File(path) => {
                let name = path.display().to_string();
                let file =
                    open(&path).with_context(|| format!("cannot write to {}", path.display()))?;
                (name, Box::new(file))
            }
        };
        let mut output = PcapOutput {
            name,
            capture: None,
            reader_gone: false,
        };
        let begun = Capture::new(io::BufWriter::new(writer));
        output.capture = output.written(begun)?;
        Ok(output)
    }
}

/// A capture that is being written, whose reader may go away.
pub(super) struct PcapOutput {
    name: String,
    /// Absent once nobody reads any more.
    capture: Option<Capture<io::BufWriter<Box<dyn Write>>>>,
    reader_gone: bool,
}

impl PcapOutput {
    /// Adds an event's packet.
    pub(super) fn add(&mut self, captured: &Captured) -> anyhow::Result<()> {
        let Some(mut capture) = self.capture.take() else {
            return Ok(());
        };
        let Captured { event, packet } = captured;
        let added = match event {
            Entry::Packet(event) => {
                let packet = BASE64
                    .decode(packet.as_bytes())
                    .context("the agent speaks another version: its packets are not in base64")?;
                capture.add(event, &packet)
            }
            Entry::Suppressed(_) | Entry::Notice(_) => {
                capture.skip();
                Ok(())
            }
        };
        if self.written(added)?.is_some() {
            self.capture = Some(capture);
        }
        Ok(())
    }

    /// Makes what was added visible.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        if let Some(mut capture) = self.capture.take() {
            let flushed = capture.flush();
            if self.written(flushed)?.is_some() {
                self.capture = Some(capture);
            }
        }
        Ok(())
    }

    /// Whether nobody reads any more.
    pub(super) fn reader_gone(&self) -> bool {
        self.reader_gone
    }

    /// Says what was written.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.flush()?;
        if let Some(capture) = &self.capture {
            log::info!(
                "{} packets written to {}; {} events have no packet",
                capture.packets(),
                self.name,
                capture.without()
            );
        }
        Ok(())
    }

    /// What became of a write: nothing, if the reader has gone.
    fn written<T>(&mut self, result: io::Result<T>) -> anyhow::Result<Option<T>> {
        match result {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.reader_gone = true;
                Ok(None)
            }
            result => {
                Ok(Some(result.with_context(|| {
                    format!("cannot write to {}", self.name)
                })?))
            }
        }
    }
}
