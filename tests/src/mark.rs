//! Eight bytes that tell one probe from every other packet, wherever it arrives and whatever was put in front of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a probe is recognised by.
pub type Mark = [u8; 8];

/// A number that no other probe of this process has.
pub fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A mark for the payload. Its first byte is that of a short QUIC header.
pub fn payload_mark() -> Mark {
    let [a, b, c, d] = serial().to_be_bytes();
    [0x4c, 0x67, 0x9e, 0x21, a, b, c, d]
}

/// Which of the marks that were sent have been seen.
#[derive(Debug)]
pub struct Sightings {
    seen: HashMap<Mark, bool>,
    /// The places of [`place`] that a mark has: nearly everything that is none is told by them, without a look-up.
    possible: Vec<bool>,
}

impl Sightings {
    /// Marks that are on their way from now on.
    pub fn expect(&mut self, marks: &[Mark]) {
        for mark in marks {
            let earlier = self.seen.insert(*mark, false);
            assert_eq!(earlier, None, "{mark:02x?} is not unique");
            self.possible[place(u64::from_be_bytes(*mark))] = true;
        }
    }

    /// Looks for expected marks at every place of these frames.
    pub fn look(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            let mut window = 0;
            for (index, byte) in frame.iter().enumerate() {
                window = window << 8 | u64::from(*byte);
                if index + 1 < size_of::<Mark>() || !self.possible[place(window)] {
                    continue;
                }
                if let Some(seen) = self.seen.get_mut(&window.to_be_bytes()) {
                    *seen = true;
                }
            }
        }
    }

    /// Whether all of these have been seen.
    pub fn has_all(&self, marks: &[Mark]) -> bool {
        marks.iter().all(|mark| self.seen[mark])
    }
}

impl Default for Sightings {
    fn default() -> Self {
        Self {
            seen: HashMap::new(),
            possible: vec![false; 1 << PLACE_BITS],
        }
    }
}

const PLACE_BITS: u32 = 22;

/// One of not too many places for eight bytes, the same each time.
fn place(bytes: u64) -> usize {
    // Fibonacci hashing.
    let spread = bytes.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(spread >> (u64::BITS - PLACE_BITS)).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_seen_wherever_it_stands() {
        let marks = [payload_mark(), payload_mark(), payload_mark()];
        let mut sightings = Sightings::default();
        sightings.expect(&marks);
        let frame = [&[1, 2, 3], &marks[0][..], &[4]].concat();
        sightings.look(&[frame, marks[1].to_vec(), marks[2][1..].to_vec()]);
        assert!(sightings.has_all(&marks[..2]));
        assert!(!sightings.has_all(&marks));
    }
}
