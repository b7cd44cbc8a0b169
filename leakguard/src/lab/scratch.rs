use std::path::{Path, PathBuf};
use std::{env, fs};

use super::{LabError, unique_name};

/// A temporary directory (0700), removed with its content when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(super) fn new(label: &str) -> Result<Self, LabError> {
        let template = env::temp_dir().join(format!("{}-XXXXXX", unique_name(label)));
        let path = nix::unistd::mkdtemp(&template)
            .map_err(LabError::syscall("mkdtemp", template.display().to_string()))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}
