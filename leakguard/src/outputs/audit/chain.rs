//! One line of an audit log: what it says, where it stands, and the hashes that chain it to the line before.
//!
//! `{"line":2,"previous":"…","entry":{…},"hash":"…"}`. The hash is the SHA-256 of the line up to `,"hash":`, so it covers
//! the number and the hash of the line before as well.

use std::fmt;
use std::str::FromStr;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What stands before the hash, and behind it.
const BEFORE_HASH: &str = ",\"hash\":\"";
const AFTER_HASH: &str = "\"}";

/// A SHA-256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of some bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Whether it is the one before the first line of all.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl FromStr for Hash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = "not a hash; write 64 hexadecimal digits";
        let mut hash = Self::default();
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refused);
        }
        for (byte, at) in hash.0.iter_mut().zip((0..64).step_by(2)) {
            let digits = text.get(at..at + 2).ok_or(refused)?;
            *byte = u8::from_str_radix(digits, 16).ok().ok_or(refused)?;
        }
        Ok(hash)
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The last line of a chain, which the next one is chained to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Head {
    /// Its number; 0 before the first.
    pub line: u64,
    /// Its hash; zeroes before the first of all.
    pub hash: Hash,
}

impl Head {
    /// Adds a line with an event, with its newline.
    pub(super) fn add_entry(&mut self, json: &str, lines: &mut Vec<u8>) {
        self.add("entry", json, lines);
    }

    /// Adds a line that says what stands before it in the file: part of a line that a crash has left.
    pub(super) fn add_torn(&mut self, torn: Torn, lines: &mut Vec<u8>) {
        let Torn { bytes, sha256 } = torn;
        let json = format!(r#"{{"bytes":{bytes},"sha256":"{sha256}"}}"#);
        self.add("torn", &json, lines);
    }

    fn add(&mut self, key: &str, json: &str, lines: &mut Vec<u8>) {
        let line = self.line + 1;
        let text = format!(
            r#"{{"line":{line},"previous":"{}","{key}":{json}"#,
            self.hash
        );
        let hash = Hash::of(text.as_bytes());
        lines.extend_from_slice(text.as_bytes());
        lines.extend_from_slice(format!("{BEFORE_HASH}{hash}{AFTER_HASH}\n").as_bytes());
        *self = Self { line, hash };
    }
}

/// Part of a line, as the line behind it describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Torn {
    /// Its length.
    pub(super) bytes: u64,
    /// Its hash.
    pub(super) sha256: Hash,
}

impl Torn {
    /// Describes some bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            sha256: Hash::of(bytes),
        }
    }
}

/// A line that is as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Its number and hash.
    pub(super) head: Head,
    /// The hash of the line before it.
    pub(super) previous: Hash,
    /// What it says of the bytes before it, if that is what it is for.
    pub(super) torn: Option<Torn>,
}

impl Line {
    /// Reads a line without its newline; `None` if it is not as leakguard has written it.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Form {
            line: u64,
            previous: String,
            entry: Option<IgnoredAny>,
            torn: Option<TornForm>,
        }
        #[derive(Deserialize)]
        struct TornForm {
            bytes: u64,
            sha256: String,
        }

        let text = str::from_utf8(bytes).ok()?;
        let (covered, hash) = text.strip_suffix(AFTER_HASH)?.rsplit_once(BEFORE_HASH)?;
        let own = Hash::of(covered.as_bytes());
        // As text: a hash is written in one way only.
        if own.to_string() != hash {
            return None;
        }
        let form: Form = serde_json::from_str(text).ok()?;
        let torn = match (form.entry, form.torn) {
            (Some(IgnoredAny), None) => None,
            (None, Some(TornForm { bytes, sha256 })) => Some(Torn {
                bytes,
                sha256: sha256.parse().ok()?,
            }),
            _ => return None,
        };
        Some(Self {
            head: Head {
                line: form.line,
                hash: own,
            },
            previous: form.previous.parse().ok()?,
            torn,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_documented_form() {
        let mut head = Head::default();
        let mut lines = Vec::new();
        head.add_entry(r#"{"seq":1}"#, &mut lines);
        let text = String::from_utf8(lines).unwrap();
        let covered = format!(
            r#"{{"line":1,"previous":"{}","entry":{{"seq":1}}"#,
            "0".repeat(64)
        );
        let hash = Hash::of(covered.as_bytes());
        assert_eq!(text, format!("{covered},\"hash\":\"{hash}\"}}\n"));
        // printf '%s' '…' | sha256sum
        assert_eq!(
            hash.to_string(),
            "c8f8ed45c2dd7d75c53e440c3876e25e231e4a1f7e6e5cd88b51d652e52a9f53"
        );
        let line = Line::read(text.trim_end().as_bytes()).unwrap();
        assert_eq!(line.head, head);
        assert!(line.previous.is_zero());
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("x".repeat(64).parse::<Hash>().is_err());
        assert!("é".repeat(32).parse::<Hash>().is_err());
    }
}
