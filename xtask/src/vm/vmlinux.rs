//! The kernel proper out of a `bzImage`.
//!
//! QEMU starts an ELF kernel with a PVH note directly; with a `bzImage` the guest would first have to decompress
//! itself, emulated.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::Cmd;

const LIMIT: Duration = Duration::from_mins(2);

/// Offsets in the header (`Documentation/arch/x86/boot.rst`, protocol 2.08).
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;

/// The kernel's build appends the decompressed size to the payload.
const SIZE_TRAILER: usize = 4;

/// What the first bytes of a payload say about its compression.
const COMPRESSIONS: [(&[u8], &str); 3] = [
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
];

/// Writes the uncompressed kernel of `image` to `vmlinux`.
pub(super) fn extract(image: &Path, vmlinux: &Path) -> Result<()> {
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let payload = payload(&bytes).with_context(|| format!("{} is no bzImage", image.display()))?;
    let Some((_, program)) = COMPRESSIONS
        .iter()
        .find(|(magic, _)| payload.starts_with(magic))
    else {
        bail!("{} is compressed in an unknown way", image.display());
    };
    let compressed = vmlinux.with_extension("compressed");
    fs::write(&compressed, payload)
        .with_context(|| format!("cannot write {}", compressed.display()))?;
    Cmd::new("sh", LIMIT)
        .args([
            "-c",
            r#""$1" --decompress --stdout <"$2" >"$3""#,
            "sh",
            program,
        ])
        .arg(&compressed)
        .arg(vmlinux)
        .output()
        .with_context(|| format!("cannot decompress {}", image.display()))?;
    fs::remove_file(&compressed)
        .with_context(|| format!("cannot remove {}", compressed.display()))?;
    let kernel = fs::read(vmlinux).with_context(|| format!("cannot read {}", vmlinux.display()))?;
    ensure!(
        kernel.starts_with(b"\x7fELF"),
        "{} holds no ELF kernel",
        image.display()
    );
    Ok(())
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let sectors = match image.get(SETUP_SECTORS)? {
        0 => 4,
        &sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR + word(image, PAYLOAD_OFFSET)?;
    let length = word(image, PAYLOAD_LENGTH)?.checked_sub(SIZE_TRAILER)?;
    image.get(start..)?.get(..length)
}

fn word(image: &[u8], offset: usize) -> Option<usize> {
    let bytes = image.get(offset..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_where_the_header_says() {
        let mut image = vec![0; 3 * SECTOR];
        image[SETUP_SECTORS] = 1;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET] = 16;
        image[PAYLOAD_LENGTH] = 9;
        image[2 * SECTOR + 16..][..9].copy_from_slice(b"hello\x05\0\0\0");
        assert_eq!(payload(&image), Some(&b"hello"[..]));
        assert_eq!(payload(&image[..2 * SECTOR]), None);
        assert_eq!(payload(b"\x7fELF"), None);
    }
}
