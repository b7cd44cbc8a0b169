//! Configuration files for agents under test.

use std::fs;

use tempfile::NamedTempFile;

/// A configuration file with this text, as an agent takes it: nobody else may write to it.
pub fn write_config(text: &str) -> NamedTempFile {
    // It is made for its owner only.
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}
