//! Who has written a file.

use std::fmt;
use std::fs;

/// A process, as far as it could be seen while it lived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    pid: u32,
    name: Option<String>,
    parent: Option<(u32, String)>,
}

impl Writer {
    /// Looks at a process, which may have ended.
    pub(super) fn of(pid: u32) -> Self {
        let parent = parent_of(pid).filter(|&parent| parent > 1);
        Self {
            pid,
            name: name_of(pid),
            parent: parent.and_then(|parent| Some((parent, name_of(parent)?))),
        }
    }

    /// Whether its name is known.
    pub(super) fn has_name(&self) -> bool {
        self.name.is_some()
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, parent } = self;
        match name {
            Some(name) => write!(formatter, "{name} (process {pid})")?,
            // 0: one of another PID namespace, or nobody may know.
            None if *pid == 0 => return formatter.write_str("a process that is not known"),
            None => write!(formatter, "a process that has ended ({pid})")?,
        }
        if let Some((pid, name)) = parent {
            write!(formatter, ", started by {name} (process {pid})")?;
        }
        Ok(())
    }
}

fn name_of(pid: u32) -> Option<String> {
    if pid == 0 {
        return None;
    }
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok()
}
