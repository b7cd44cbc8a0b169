//! The first question of a DNS message, out of what the kernel copied of the packet.

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

/// Reads the question; `None` if there is none that can be read.
pub(crate) fn first_question(transport: u8, bytes: &[u8]) -> Option<Query> {
    let message = match transport {
        protocol::UDP | protocol::UDP_LITE => bytes.get(UDP_HEADER..)?,
        protocol::TCP => {
            let header = usize::from(bytes.get(TCP_DATA_OFFSET)? >> 4) * 4;
            if header < TCP_HEADER {
                return None;
            }
            bytes.get(header + TCP_LENGTH..)?
        }
        _ => return None,
    };
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
