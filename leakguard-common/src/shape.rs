//! What looks like a DNS question, whatever port it goes to.

use crate::packet::PacketBytes;

/// A header and the first byte of a name (RFC 1035 section 4.1).
const HEAD: usize = 13;

/// Whether the bytes from an offset on look like a question: a standard query with one question, no answer, and room for a
/// first label.
///
/// A guess, for reports: about one packet of 2^50 random ones looks so by chance.
#[inline(always)]
pub fn is_question<B: PacketBytes + ?Sized>(bytes: &B, offset: u32) -> bool {
    const RESPONSE_OPCODE_AUTHORITATIVE_TRUNCATED: u8 = 0xfe;
    const AVAILABLE_RESERVED_CODE: u8 = 0xcf;

    let mut head = [0; HEAD];
    if bytes.read(offset, &mut head).is_err() {
        return false;
    }
    let [
        _,
        _,
        flags,
        more_flags,
        questions @ ..,
        additional_high,
        additional,
        label,
    ] = head;
    flags & RESPONSE_OPCODE_AUTHORITATIVE_TRUNCATED == 0
        && more_flags & AVAILABLE_RESERVED_CODE == 0
        && questions == [0, 1, 0, 0, 0, 0]
        && additional_high == 0
        && additional <= 2
        && label != 0
        && label < 64
}
