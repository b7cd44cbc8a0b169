//! The first question of a DNS message, out of what the kernel copied of the packet.

use std::borrow::Cow;

use hickory_proto::op::{Header, Query as Question};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use leakguard_common::packet::protocol;

use super::Query;

/// Length of a UDP header.
const UDP_HEADER: usize = 8;
/// The least length of a TCP header.
const TCP_HEADER: usize = 20;
/// Offset of the data offset in a TCP header.
const TCP_DATA_OFFSET: usize = 12;
/// DNS over TCP puts the message's length before it (RFC 1035, 4.2.2).
const TCP_LENGTH: usize = 2;

/// Length of the header of a DNS message.
const HEADER: usize = 12;
/// Offset of the number of questions in it.
const QUESTIONS: usize = 4;
/// The longest label and the longest name (RFC 1035, 2.3.4).
const MAX_LABEL: u8 = 63;
const MAX_NAME: usize = 255;

/// Reads the question; `None` if there is none that can be read.
pub(crate) fn first_question(transport: u8, bytes: &[u8]) -> Option<Query> {
    let mut name = String::new();
    let kind = read_question(transport, bytes, &mut name)?.into_owned();
    Some(Query { name, kind })
}

/// Reads the question's name in place of what is there, and its type; `None` if there is none that can be read.
pub(super) fn read_question(
    transport: u8,
    bytes: &[u8],
    name: &mut String,
) -> Option<Cow<'static, str>> {
    let message = message(transport, bytes)?;
    name.clear();
    if let Some(kind) = usual(message, name) {
        return Some(kind.into());
    }
    let Query { name: read, kind } = any(message)?;
    *name = read;
    Some(kind.into())
}

/// The DNS message in what was copied of a packet.
fn message(transport: u8, bytes: &[u8]) -> Option<&[u8]> {
    match transport {
        protocol::UDP | protocol::UDP_LITE => bytes.get(UDP_HEADER..),
        protocol::TCP => {
            let header = usize::from(bytes.get(TCP_DATA_OFFSET)? >> 4) * 4;
            if header < TCP_HEADER {
                return None;
            }
            bytes.get(header + TCP_LENGTH..)
        }
        _ => None,
    }
}

/// Reads a question as nearly all are: for a usual type, of letters, digits and hyphens. What is anything else, or wrong,
/// is left to the library.
fn usual(message: &[u8], name: &mut String) -> Option<&'static str> {
    const INTERNET: u16 = 1;

    let (header, mut rest) = message.split_at_checked(HEADER)?;
    if matches!(header.get(QUESTIONS..QUESTIONS + 2), None | Some([0, 0])) {
        return None;
    }
    name.clear();
    loop {
        let (&length, after) = rest.split_first()?;
        rest = after;
        if length == 0 {
            break;
        }
        if length > MAX_LABEL || name.len() + usize::from(length) + 2 > MAX_NAME {
            return None;
        }
        let (label, after) = rest.split_at_checked(length.into())?;
        let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        if label.first() == Some(&b'-') || !label.iter().all(is_usual) {
            return None;
        }
        name.push_str(str::from_utf8(label).ok()?);
        name.push('.');
        rest = after;
    }
    let (kind, rest) = rest.split_first_chunk()?;
    let class = u16::from_be_bytes(*rest.first_chunk()?);
    if name.is_empty() || class != INTERNET {
        return None;
    }
    match u16::from_be_bytes(*kind) {
        1 => Some("A"),
        2 => Some("NS"),
        5 => Some("CNAME"),
        6 => Some("SOA"),
        12 => Some("PTR"),
        15 => Some("MX"),
        16 => Some("TXT"),
        28 => Some("AAAA"),
        33 => Some("SRV"),
        64 => Some("SVCB"),
        65 => Some("HTTPS"),
        _ => None,
    }
}

/// Reads a question as the library does.
fn any(message: &[u8]) -> Option<Query> {
    let mut decoder = BinDecoder::new(message);
    let header = Header::read(&mut decoder).ok()?;
    if header.counts.queries == 0 {
        return None;
    }
    let question = Question::read(&mut decoder).ok()?;
    Some(Query {
        // Not decoded from punycode: that would put the bytes of such a label out as they are, dots and control
        // characters among them.
        name: question.name().to_ascii(),
        kind: question.query_type().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question for `example.com A`, as dig sends it, without EDNS.
    const MESSAGE: &[u8] = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";

    fn question() -> Query {
        Query {
            name: "example.com.".into(),
            kind: "A".into(),
        }
    }

    fn udp(message: &[u8]) -> Vec<u8> {
        [&[0; UDP_HEADER][..], message].concat()
    }

    fn tcp(header_len: u8, message: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(header_len)];
        bytes[TCP_DATA_OFFSET] = (header_len / 4) << 4;
        bytes.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend(message);
        bytes
    }

    #[test]
    fn udp_and_tcp_questions_are_read() {
        assert_eq!(
            first_question(protocol::UDP, &udp(MESSAGE)),
            Some(question())
        );
        assert_eq!(
            first_question(protocol::TCP, &tcp(20, MESSAGE)),
            Some(question())
        );
        assert_eq!(
            first_question(protocol::TCP, &tcp(60, MESSAGE)),
            Some(question())
        );
    }

    #[test]
    fn a_name_is_what_was_sent_and_nothing_else() {
        for (labels, expected) in [
            (&b"\x0dxn--bcher-kva\0"[..], "xn--bcher-kva."),
            (b"\x10xn--a.com.\x1b[31m-\0", "xn--a\\.com\\.\\033\\[31m-."),
            (b"\x03a.b\x02\xff\x07\0", "a\\.b.\\377\\007."),
            (b"\0", "."),
        ] {
            let message = [&MESSAGE[..12], labels, b"\0\x01\0\x01"].concat();
            let query = first_question(protocol::UDP, &udp(&message)).unwrap();
            assert_eq!(query.name, expected);
        }
    }

    #[test]
    fn the_short_way_and_the_library_agree() {
        let mut ways = [0, 0];
        let mut compare = |message: &[u8]| {
            let mut name = String::new();
            let short = usual(message, &mut name);
            ways[usize::from(short.is_some())] += 1;
            if let Some(kind) = short {
                let kind = kind.to_owned();
                assert_eq!(any(message), Some(Query { name, kind }), "{message:?}");
            }
        };
        for at in 0..MESSAGE.len() {
            for byte in 0..=u8::MAX {
                let mut message = MESSAGE.to_vec();
                message[at] = byte;
                compare(&message);
            }
        }
        let tail = b"\0\0\x01\0\x01";
        for (labels, of) in [
            (3, 63),
            (4, 61),
            (4, 62),
            (4, 63),
            (5, 63),
            (126, 1),
            (127, 1),
            (128, 1),
        ] {
            let label = [&[of][..], &vec![b'a'; of.into()]].concat();
            compare(&[&MESSAGE[..12], &label.repeat(labels), tail].concat());
        }
        for kind in 0..=u16::MAX {
            let end = MESSAGE.len() - 4;
            compare(&[&MESSAGE[..end], &kind.to_be_bytes(), b"\0\x01"].concat());
        }
        let [library, short] = ways;
        assert!(library > 1000 && short > 1000, "{ways:?}");
    }

    #[test]
    fn a_syn_and_garbage_have_no_question() {
        assert_eq!(first_question(protocol::TCP, &tcp(20, &[])), None);
        assert_eq!(first_question(protocol::UDP, &udp(b"")), None);
        assert_eq!(first_question(protocol::UDP, &udp(&[0xff; 40])), None);
        assert_eq!(first_question(protocol::UDP, &[]), None);
        assert_eq!(first_question(132, &udp(MESSAGE)), None);
    }

    #[test]
    fn every_truncation_is_survived() {
        for (transport, whole) in [
            (protocol::UDP, udp(MESSAGE)),
            (protocol::TCP, tcp(32, MESSAGE)),
        ] {
            for len in 0..whole.len() {
                assert_eq!(first_question(transport, &whole[..len]), None, "{len}");
            }
        }
    }
}
