//! What is kept for redirected calls.

/// How many levels below the root of the hierarchy a spared cgroup is looked for.
pub const SPARED_LEVELS: i32 = 12;

/// Whom a socket was to reach, before it was redirected; a value of [`super::map::ORIGINALS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Original {
    /// An IPv4 address stands in the first four bytes.
    pub address: [u8; 16],
    /// Whom it reaches instead.
    pub target: [u8; 16],
    /// A [`super::Family`]; of both.
    pub family: u32,
}

/// Whose calls are not redirected, as a key of [`super::map::SPARED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SparedKey(pub [u8; 16]);

impl SparedKey {
    /// Processes of a cgroup; no process's name has this in its last byte, which is 0 there.
    #[inline(always)]
    pub const fn cgroup(id: u64) -> Self {
        /// The last byte, in little-endian order.
        const LAST: u128 = 0xff << 120;
        Self((id as u128 | LAST).to_le_bytes())
    }

    /// Processes of a name, padded with zeroes.
    #[inline(always)]
    pub const fn process(name: [u8; 16]) -> Self {
        Self(name)
    }
}

// SAFETY: repr(C) or transparent, fixed-width integers and arrays of them, and no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SparedKey {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_and_a_process_are_never_the_same() {
        for id in [0, 1, u64::MAX, u64::from_le_bytes(*b"unbound\0")] {
            let mut name = [0; 16];
            name[..8].copy_from_slice(&id.to_le_bytes());
            assert_ne!(SparedKey::cgroup(id), SparedKey::process(name));
        }
    }
}
