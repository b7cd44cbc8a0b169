//! Where `leakguard events --pcap` writes to.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use data_encoding::BASE64;
use nix::libc;

use crate::capture::Capture;
use crate::daemon::protocol::Captured;
use crate::error::{Exit, WithExit as _};
use crate::event::Entry;

/// Only the owner may read what everybody looks up.
const MODE: u32 = 0o600;

/// What cannot be written to.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(
        "a capture is not for a terminal: name a file, or pipe it on, as in `--pcap - | tshark -r -`"
    )]
    Terminal,
    #[error("{0} is a symbolic link, which could lead anywhere: name the file itself")]
    Link(PathBuf),
    #[error("{0} is neither a file nor a pipe: name a new file")]
    Kind(PathBuf),
}

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
                Err(Refused::Terminal).with_exit(Exit::Usage)
            } else {
                Ok(Self::Stdout)
            };
        }
        let named = path.to_owned();
        match fs::symlink_metadata(path) {
            Ok(found) => {
                let kind = found.file_type();
                if kind.is_symlink() {
                    return Err(Refused::Link(named)).with_exit(Exit::Usage);
                }
                // A pipe, as Wireshark reads one; a device, such as /dev/null.
                if !kind.is_file() && !kind.is_fifo() && !kind.is_char_device() {
                    return Err(Refused::Kind(named)).with_exit(Exit::Usage);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot write to {}", path.display()))
                    .with_exit(Exit::Usage);
            }
        }
        Ok(Self::File(named))
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

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    if file.metadata()?.is_file() {
        // One that was there may have been open to everybody.
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
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
            Entry::Notice(_) => {
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
