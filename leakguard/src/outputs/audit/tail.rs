//! The end of an audit log that an agent before this one has written.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::super::OutputError;
use super::chain::{Head, Line, Torn};

/// How much of the end is read; a line is a few kilobytes long at most.
const BYTES: u64 = 1 << 20;

/// How a log ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// The last line that is whole; absent in a new file.
    pub(super) head: Option<Head>,
    /// What stands behind it.
    pub(super) torn: Option<Torn>,
    /// Whether the file ends with a newline, or is empty.
    pub(super) ended: bool,
}

impl Tail {
    /// Reads it.
    pub(super) fn read(path: &Path, file: &File) -> Result<Self, OutputError> {
        let failed = || OutputError::file("read", path);
        let length = file.metadata().map_err(failed())?.len();
        let start = length.saturating_sub(BYTES);
        let mut bytes = vec![0; usize::try_from(length - start).unwrap_or_default()];
        file.read_exact_at(&mut bytes, start).map_err(failed())?;
        Self::of(&bytes, start == 0).ok_or_else(|| OutputError::NotAuditLog {
            path: path.to_owned(),
        })
    }

    /// Looks for it in the last bytes of a file; `None` if there is no line of a log.
    fn of(bytes: &[u8], whole: bool) -> Option<Self> {
        let ended = bytes.last().is_none_or(|&last| last == b'\n');
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if text.is_empty() {
            return Some(Self {
                head: None,
                torn: None,
                ended,
            });
        }
        let mut lines = text.rsplit(|&byte| byte == b'\n');
        let last = lines.next().unwrap_or_default();
        if let Some(line) = Line::read(last) {
            return Some(Self {
                head: Some(line.head),
                torn: None,
                ended,
            });
        }
        // With a newline behind it, it was whole once: no crash has left it so, and nothing is to account for it.
        let torn = (!ended).then(|| Torn::of(last));
        if let Some(line) = lines.find_map(Line::read) {
            return Some(Self {
                head: Some(line.head),
                torn,
                ended,
            });
        }
        // Else the crash came at the very first line.
        (whole && !ended && is_start(text)).then_some(Self {
            head: None,
            torn,
            ended,
        })
    }
}

/// Whether that can be the start of a first line.
fn is_start(bytes: &[u8]) -> bool {
    const START: &[u8] = b"{\"line\":1,\"previous\":\"";
    let common = bytes.len().min(START.len());
    bytes.get(..common) == START.get(..common)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: usize) -> (Vec<u8>, Head) {
        let mut head = Head::default();
        let mut bytes = Vec::new();
        for _ in 0..lines {
            head.add_entry("{}", &mut bytes);
        }
        (bytes, head)
    }

    #[test]
    fn the_last_whole_line_is_found_wherever_a_crash_has_cut() {
        let (two, second) = log(2);
        let (one, first) = log(1);
        for cut in one.len() + 1..two.len() - 1 {
            let tail = Tail::of(&two[..cut], true).unwrap();
            assert_eq!(tail.head, Some(first), "{cut}");
            assert_eq!(tail.torn, Some(Torn::of(&two[one.len()..cut])), "{cut}");
            assert!(!tail.ended);
        }
        let ended = Tail {
            head: Some(second),
            torn: None,
            ended: true,
        };
        assert_eq!(Tail::of(&two, true), Some(ended));
        let tail = Tail::of(&two[..two.len() - 1], true).unwrap();
        assert_eq!(
            (tail.head, tail.torn, tail.ended),
            (Some(second), None, false)
        );
        for cut in 1..one.len() - 1 {
            let tail = Tail::of(&one[..cut], true).unwrap();
            assert_eq!((tail.head, tail.ended), (None, false), "{cut}");
            assert!(tail.torn.is_some());
        }
    }

    #[test]
    fn a_last_line_that_was_changed_is_not_what_a_crash_has_left() {
        let (mut bytes, _) = log(3);
        let (_, second) = log(2);
        let at = bytes.len() - 10;
        bytes[at] ^= 1;
        let expected = Tail {
            head: Some(second),
            torn: None,
            ended: true,
        };
        assert_eq!(Tail::of(&bytes, true), Some(expected));
    }

    #[test]
    fn what_is_no_log_is_not_gone_on_with() {
        for text in [
            "hello",
            "hello\n",
            "{\"line\":1,\n",
            "{\"line\":1\n{\"li",
            "a\nb\n",
            "{\"line\":1}\n{}\n",
            "\n\n",
        ] {
            assert_eq!(Tail::of(text.as_bytes(), true), None, "{text:?}");
        }
        let (bytes, _) = log(1);
        assert_eq!(Tail::of(&bytes[5..], false), None);
    }
}
