//! When files change in a directory, and who it was, as fanotify tells.
//!
//! It tells the process only to whoever has `CAP_SYS_ADMIN`, and nothing at all where the file system has no file handles:
//! then the directory is only looked at on the interval.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::writer::Writer;

/// Room for many events; each has a file's name.
const BUFFER: usize = 16 * 1024;

/// For how long a writer is remembered.
const MEMORY: Duration = Duration::from_secs(10);

/// Length of `struct fanotify_event_metadata`, and where its fields are.
const METADATA: usize = 24;
const METADATA_PID: usize = 20;
/// Length of `struct fanotify_event_info_header`; behind it the id of the file system and the file handle's header.
const INFO: usize = 4;
const FSID: usize = 8;
const HANDLE: usize = 8;

/// What counts as a change of a file, or of which file has a name.
const CHANGES: u64 = libc::FAN_CLOSE_WRITE
    | libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_ATTRIB
    | libc::FAN_EVENT_ON_CHILD;

/// Directories that are watched.
#[derive(Debug, Default)]
pub(super) struct Sensor {
    /// `None` for one that cannot be watched.
    groups: BTreeMap<PathBuf, Option<File>>,
    /// Who has lately changed a file of a directory.
    writers: Vec<(PathBuf, String, Writer, Instant)>,
}

impl Sensor {
    /// Watches these directories and no others.
    pub(super) fn watch(&mut self, directories: &[PathBuf]) {
        self.groups
            .retain(|directory, group| group.is_some() && directories.contains(directory));
        for directory in directories {
            if self.groups.contains_key(directory) {
                continue;
            }
            let group = mark(directory)
                .inspect_err(|error| {
                    log::debug!(
                        "{} is only looked at on the interval: {error}",
                        directory.display()
                    );
                })
                .ok();
            self.groups.insert(directory.clone(), group);
        }
    }

    /// Waits for a change; says whether there was one.
    pub(super) fn wait(&mut self, limit: Duration) -> bool {
        let groups: Vec<&File> = self.groups.values().flatten().collect();
        let mut fds: Vec<PollFd<'_>> = groups
            .iter()
            .map(|group| PollFd::new(group.as_fd(), PollFlags::POLLIN))
            .collect();
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(ready) if ready > 0 => self.read(),
            Ok(_) | Err(Errno::EINTR) => false,
            Err(error) => {
                log::debug!("cannot wait for changes of files: {error}");
                std::thread::sleep(limit);
                false
            }
        }
    }

    /// Who has changed a file of a directory: the last that is known by name, or has a name at all.
    pub(super) fn writer(&self, directory: &Path, name: &str) -> Option<&Writer> {
        let related = |(at, file, ..): &&(PathBuf, String, Writer, Instant)| {
            // What becomes resolv.conf is written as resolv.conf.dhclient-new.4711, .resolv.conf.x or resolv.confXYZ.
            at == directory && file.contains(name)
        };
        let lately = || self.writers.iter().rev().filter(related);
        lately()
            .find(|(.., writer, _)| writer.has_name())
            .or_else(|| lately().next())
            .map(|(.., writer, _)| writer)
    }

    fn read(&mut self) -> bool {
        let now = Instant::now();
        let mut seen = false;
        self.writers
            .retain(|(.., at)| now.duration_since(*at) < MEMORY);
        for (directory, group) in &mut self.groups {
            let Some(file) = group else {
                continue;
            };
            let mut buffer = [0; BUFFER];
            loop {
                let length = match file.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => length,
                };
                each_event(buffer.get(..length).unwrap_or_default(), |pid, name| {
                    if pid == std::process::id() {
                        return;
                    }
                    seen = true;
                    let writer = Writer::of(pid);
                    self.writers
                        .push((directory.clone(), name.to_owned(), writer, now));
                });
            }
        }
        seen
    }
}

fn mark(directory: &Path) -> io::Result<File> {
    use std::os::unix::ffi::OsStrExt as _;

    let flags =
        libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_DFID_NAME;
    let event_flags = (libc::O_RDONLY | libc::O_CLOEXEC).cast_unsigned();
    // SAFETY: fanotify_init takes two integers.
    let group = Errno::result(unsafe { libc::fanotify_init(flags, event_flags) })?;
    // SAFETY: the kernel has just returned this descriptor and nothing else owns it.
    let group = unsafe { OwnedFd::from_raw_fd(group) };
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: the descriptor is open, and the path ends with a NUL.
    let marked = unsafe {
        libc::fanotify_mark(
            group.as_raw_fd(),
            libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR,
            CHANGES,
            libc::AT_FDCWD,
            path.as_ptr(),
        )
    };
    Errno::result(marked)?;
    Ok(File::from(group))
}

/// Calls with the process and the name of each event in what the kernel wrote.
fn each_event(mut events: &[u8], mut call: impl FnMut(u32, &str)) {
    while let Some(length) = u32_at(events, 0).and_then(|length| usize::try_from(length).ok()) {
        let (Some(event), Some(rest)) = (events.get(..length), events.get(length..)) else {
            return;
        };
        if length < METADATA {
            return;
        }
        let pid = u32_at(event, METADATA_PID).unwrap_or_default();
        // An event without a name is one of an overflow: something has changed, nobody knows what.
        call(
            pid,
            &name(event.get(METADATA..).unwrap_or_default()).unwrap_or_default(),
        );
        events = rest;
    }
}

/// The name in the record behind an event.
fn name(info: &[u8]) -> Option<String> {
    let handle = usize::try_from(u32_at(info, INFO + FSID)?).ok()?;
    let start = (INFO + FSID + HANDLE).checked_add(handle)?;
    let name = info.get(start..)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writer_of_a_file_is_seen_with_its_name() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut sensor = Sensor::default();
        sensor.watch(&[directory.path().to_owned()]);
        assert!(!sensor.wait(Duration::ZERO));
        std::fs::write(directory.path().join("own"), "x").unwrap();
        assert!(
            !sensor.wait(Duration::from_millis(50)),
            "what it does itself does not count"
        );
        let script =
            "cd \"$1\" && echo x >resolv.conf.new && mv resolv.conf.new resolv.conf; exec sleep 5";
        let mut shell = std::process::Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(directory.path())
            .spawn()
            .unwrap();
        while sensor.writer(directory.path(), "resolv.conf").is_none() {
            assert!(sensor.wait(Duration::from_secs(5)));
        }
        let writer = sensor
            .writer(directory.path(), "resolv.conf")
            .unwrap()
            .to_string();
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(
            writer.contains(&format!("(process {})", shell.id())),
            "{writer}"
        );
        assert_eq!(
            sensor
                .writer(directory.path(), "other")
                .map(ToString::to_string),
            None
        );
    }

    #[test]
    fn what_is_cut_off_is_no_event() {
        let mut event = vec![0_u8; METADATA];
        event[0] = 200;
        each_event(&event, |_, _| panic!("it is longer than what is there"));
        event[0] = 8;
        each_event(&event, |_, _| panic!("it is shorter than its header"));
        let length = u8::try_from(METADATA).unwrap();
        event[0] = length;
        let mut names = Vec::new();
        each_event(&event, |pid, name| names.push((pid, name.to_owned())));
        assert_eq!(names, [(0, String::new())]);
    }
}
