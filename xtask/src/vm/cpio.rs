//! The archive format of an initramfs (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::{
    io::{self, Write},
    path::Path,
};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// Writes an uncompressed "newc" archive.
pub(super) struct Archive<W> {
    out: W,
    /// Also the inode number of the next entry.
    entries: u32,
    written: usize,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            entries: 1,
            written: 0,
        }
    }

    pub(super) fn directory(&mut self, path: &Path) -> io::Result<()> {
        self.entry(path, DIRECTORY, &[])
    }

    /// A file that everybody may read and execute.
    pub(super) fn file(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.entry(path, FILE, content)
    }

    pub(super) fn link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        self.entry(path, LINK, target.as_os_str().as_encoded_bytes())
    }

    /// Writes the trailer; without it the kernel takes the archive for cut off.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry(Path::new("TRAILER!!!"), 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let name = path.as_os_str().as_encoded_bytes();
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let links = 1;
        let fields = [
            self.entries,
            mode,
            0, // user
            0, // group
            links,
            0, // time of the last change
            size,
            0, // device, major and minor
            0,
            0, // device that a node stands for, major and minor
            0,
            name_size,
            0, // checksum, which this format has not
        ];
        self.entries += 1;
        self.write(b"070701")?;
        for field in fields {
            self.write(format!("{field:08x}").as_bytes())?;
        }
        self.write(name)?;
        self.write(b"\0")?;
        self.align()?;
        self.write(content)?;
        self.align()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let padding = self.written.next_multiple_of(4) - self.written;
        self.write(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_trailer_ends_them() {
        let mut archive = Archive::new(Vec::new());
        archive.directory(Path::new("/bin")).unwrap();
        archive.file(Path::new("/bin/x"), b"12345").unwrap();
        archive
            .link(Path::new("/lib"), Path::new("usr/lib"))
            .unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<usize> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, window)| *window == b"070701")
            .map(|(start, _)| start)
            .collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|start| start % 4 == 0));
        let second = &bytes[starts[1]..];
        assert!(second.starts_with(b"07070100000002000081ed"));
        assert!(second[110..].starts_with(b"bin/x\0"));
    }
}
