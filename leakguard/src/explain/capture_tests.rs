use super::*;

const PACKET: &[u8] = &[0x45, 0, 0, 20, 1, 2, 3];

/// A number in one byte order or the other.
type Order = fn(u32) -> [u8; 4];
const ORDERS: [Order; 2] = [u32::to_le_bytes, u32::to_be_bytes];

fn pcap(order: Order, magic: u32, link: u32, packets: &[&[u8]]) -> Vec<u8> {
    let half: [u8; 4] = if order(1) == 1_u32.to_le_bytes() {
        [2, 0, 4, 0]
    } else {
        [0, 2, 0, 4]
    };
    let mut bytes = [order(magic), half].concat();
    for word in [0, 0, 262_144, link] {
        bytes.extend(order(word));
    }
    for packet in packets {
        let length = u32::try_from(packet.len()).unwrap();
        for word in [1, 2, length, length + 9] {
            bytes.extend(order(word));
        }
        bytes.extend(*packet);
    }
    bytes
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = order(u32::try_from(body.len() + 12).unwrap());
    [&order(kind)[..], &length, &body, &length].concat()
}

fn section(order: Order) -> Vec<u8> {
    let version = if order(1) == 1_u32.to_le_bytes() {
        [1, 0, 0, 0]
    } else {
        [0, 1, 0, 0]
    };
    let body = [&order(0x1a2b_3c4d)[..], &version, &[0xff; 8]].concat();
    block(order, 0x0a0d_0d0a, &body)
}

fn interface(order: Order, link: u16) -> Vec<u8> {
    let word = order(u32::from(link));
    let link = if order(1) == 1_u32.to_le_bytes() {
        [word[0], word[1]]
    } else {
        [word[2], word[3]]
    };
    block(order, 1, &[&link[..], &[0, 0], &order(0)].concat())
}

fn enhanced(order: Order, interface: u32, packet: &[u8]) -> Vec<u8> {
    let length = u32::try_from(packet.len()).unwrap();
    let mut body = Vec::new();
    for word in [interface, 0, 0, length, length] {
        body.extend(order(word));
    }
    body.extend(packet);
    block(order, 6, &body)
}

fn simple(order: Order, packet: &[u8]) -> Vec<u8> {
    let length = u32::try_from(packet.len()).unwrap();
    block(order, 3, &[&order(length)[..], packet].concat())
}

fn pcapng(order: Order) -> Vec<u8> {
    [
        section(order),
        interface(order, 1),
        interface(order, 101),
        enhanced(order, 1, PACKET),
        // Statistics, which are nobody's packet.
        block(order, 5, &[0; 12]),
        simple(order, PACKET),
        // Another section counts its interfaces anew.
        section(order),
        interface(order, 276),
        enhanced(order, 0, PACKET),
    ]
    .concat()
}

/// Everything that can be read of a file, and what ended it.
fn read(bytes: &[u8]) -> (Vec<Captured>, Result<(), CaptureError>) {
    let file = Cursor::new(bytes.to_vec());
    let mut capture = match Capture::of(Path::new("file"), file) {
        Ok(capture) => capture,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut packets = Vec::new();
    loop {
        match capture.next_packet() {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => return (packets, Ok(())),
            Err(error) => return (packets, Err(error)),
        }
    }
}

fn refusal(bytes: &[u8]) -> (usize, String) {
    let (packets, end) = read(bytes);
    (packets.len(), end.unwrap_err().to_string())
}

#[test]
fn pcap_is_read_in_either_byte_order_and_resolution() {
    for order in ORDERS {
        for magic in [0xa1b2_c3d4, 0xa1b2_3c4d] {
            let (packets, end) = read(&pcap(order, magic, 101, &[PACKET, &[], PACKET]));
            end.unwrap();
            let expected = |number, bytes: &[u8]| Captured {
                number,
                link: LinkType::Ip,
                bytes: bytes.to_vec(),
                length: u32::try_from(bytes.len()).unwrap() + 9,
            };
            let expected = vec![expected(1, PACKET), expected(2, &[]), expected(3, PACKET)];
            assert_eq!(packets, expected);
        }
    }
}

#[test]
fn what_the_header_says_of_check_sequences_is_no_link_type() {
    let (packets, end) = read(&pcap(u32::to_le_bytes, 0xa1b2_c3d4, 0x2400_0001, &[PACKET]));
    end.unwrap();
    assert_eq!(packets[0].link, LinkType::Ethernet);
}

#[test]
fn pcapng_is_read_in_either_byte_order() {
    for order in ORDERS {
        let (packets, end) = read(&pcapng(order));
        end.unwrap();
        let links: Vec<LinkType> = packets.iter().map(|packet| packet.link).collect();
        assert_eq!(links, [LinkType::Ip, LinkType::Ethernet, LinkType::Cooked2]);
        assert!(packets.iter().all(|packet| packet.bytes == PACKET));
    }
}

#[test]
fn packets_longer_than_the_buffer_are_read() {
    let long = vec![0x45; 262_144];
    for bytes in [
        pcap(u32::to_le_bytes, 0xa1b2_c3d4, 101, &[PACKET, &long, PACKET]),
        [
            section(u32::to_le_bytes),
            interface(u32::to_le_bytes, 101),
            enhanced(u32::to_le_bytes, 0, PACKET),
            enhanced(u32::to_le_bytes, 0, &long),
            enhanced(u32::to_le_bytes, 0, PACKET),
        ]
        .concat(),
    ] {
        let (packets, end) = read(&bytes);
        end.unwrap();
        let lengths: Vec<usize> = packets.iter().map(|packet| packet.bytes.len()).collect();
        assert_eq!(lengths, [PACKET.len(), long.len(), PACKET.len()]);
    }
}

#[test]
fn what_is_no_capture_is_refused() {
    for bytes in [
        &b""[..],
        b"\0",
        b"hello, world, this is no capture",
        &[0xff; 100],
    ] {
        let (_, message) = refusal(bytes);
        assert!(message.contains("neither pcap nor pcapng"), "{message}");
    }
    let missing = Capture::open(Path::new("/nonexistent/capture"));
    assert!(matches!(missing, Err(CaptureError::Open { .. })));
}

#[test]
fn an_unknown_link_type_is_named() {
    let (packets, message) = refusal(&pcap(u32::to_le_bytes, 0xa1b2_c3d4, 127, &[PACKET]));
    assert_eq!(packets, 0);
    assert!(message.contains("link type 127"), "{message}");
    let mixed = [
        section(u32::to_le_bytes),
        interface(u32::to_le_bytes, 1),
        interface(u32::to_le_bytes, 127),
        enhanced(u32::to_le_bytes, 0, PACKET),
        enhanced(u32::to_le_bytes, 1, PACKET),
    ];
    let (packets, message) = refusal(&mixed.concat());
    assert_eq!(packets, 1, "what comes before is read");
    assert!(message.starts_with("packet 2 "), "{message}");
}

#[test]
fn what_comes_before_a_cut_is_read() {
    for (whole, count) in [
        (
            pcap(u32::to_le_bytes, 0xa1b2_c3d4, 101, &[PACKET, PACKET]),
            2,
        ),
        (pcapng(u32::to_be_bytes), 3),
    ] {
        let cut = &whole[..whole.len() - 1];
        let (packets, message) = refusal(cut);
        assert_eq!(packets, count - 1);
        assert!(message.contains("is cut off after packet"), "{message}");
    }
}

#[test]
fn an_interface_that_is_not_described_is_an_error() {
    let bytes = [
        section(u32::to_le_bytes),
        interface(u32::to_le_bytes, 1),
        enhanced(u32::to_le_bytes, 7, PACKET),
    ];
    let (_, message) = refusal(&bytes.concat());
    assert!(message.contains("does not describe"), "{message}");
}

/// Every file is untrusted: whatever becomes of it, it is no panic and no endless loop.
#[test]
fn every_cut_and_every_changed_byte_is_survived() {
    for whole in [
        pcap(u32::to_le_bytes, 0xa1b2_c3d4, 101, &[PACKET, PACKET]),
        pcapng(u32::to_le_bytes),
        pcapng(u32::to_be_bytes),
    ] {
        for length in 0..whole.len() {
            drop(read(&whole[..length]));
        }
        for at in 0..whole.len() {
            for value in [0, 13, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                drop(read(&changed));
            }
        }
    }
}
