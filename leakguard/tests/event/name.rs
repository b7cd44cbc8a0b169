//! What holds of every name that is read out of a packet.
//!
//! Shared with the fuzzer.

/// How many bytes stand before the packet's in an input: the first is the protocol, the others are those of a record.
pub(crate) const HEAD: usize = 6;

/// The most that a name on the wire can become: each byte three octal digits behind a backslash, each label a dot.
const LONGEST: usize = 4 * 255;

/// Says what is wrong with a question's name and type.
pub(crate) fn check(name: &str, kind: &str) -> Result<(), String> {
    let is_printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let holds = is_printable(name)
        && is_printable(kind)
        && !kind.is_empty()
        && name.len() <= LONGEST
        && name.ends_with('.');
    if holds {
        Ok(())
    } else {
        Err(format!("a question for {name:?}, {kind:?}"))
    }
}
