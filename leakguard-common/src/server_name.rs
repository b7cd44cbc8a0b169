//! The name that a TLS client asks for, out of its first segment (RFC 8446 section 4.1.2, RFC 6066 section 3).
//!
//! A hello that goes on in a second segment is read as far as the first one goes. QUIC's is encrypted, with a key that
//! anybody can derive but no BPF program.

use crate::abi::{NAME_BYTES, NAME_LEN, NameKey};
use crate::packet::{Packet, PacketBytes, Truncated};

/// How many extensions are looked at; browsers send about 18.
const MAX_EXTENSIONS: u32 = 32;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Record header, handshake header, version and random.
const SESSION: u32 = 5 + 4 + 2 + 32;
const SERVER_NAME: u16 = 0;

/// Where in a TCP header its length is.
pub const DATA_OFFSET: u32 = 12;

/// The length of a TCP header, by the byte at [`DATA_OFFSET`].
#[inline(always)]
pub const fn tcp_header_len(data_offset: u8) -> u32 {
    (data_offset >> 4) as u32 * 4
}

/// Whether a TCP packet starts with a client's hello.
#[inline(always)]
pub fn is_hello<B: PacketBytes + ?Sized>(bytes: &B, packet: &Packet) -> bool {
    let mut head = [0; HELLO_HEAD];
    let found = payload(bytes, packet).and_then(|payload| bytes.read(payload, &mut head));
    found.is_ok() && is_hello_head(&head)
}

/// The first bytes of a segment that say whether it starts with a client's hello.
pub const HELLO_HEAD: usize = 6;

/// Whether the first bytes of a segment are those of a client's hello.
#[inline(always)]
pub const fn is_hello_head(head: &[u8; HELLO_HEAD]) -> bool {
    head[0] == HANDSHAKE && head[5] == CLIENT_HELLO
}

/// Reads the end of the name in a hello, backwards, into a key for the table; says whether there is one.
#[inline(always)]
pub fn server_name<B: PacketBytes + ?Sized>(bytes: &B, packet: &Packet, key: &mut NameKey) -> bool {
    let (mut end, mut length) = (0, 0);
    if find(bytes, packet, &mut end, &mut length).is_err() || length == 0 {
        return false;
    }
    // What stands before a short name is read with it: there are always enough bytes of headers.
    let start = end.wrapping_sub(NAME_LEN);
    if bytes.read(start, &mut key.reversed).is_err() {
        return false;
    }
    key.length = NAME_LEN * 8;
    let mut index = 0;
    while index < NAME_BYTES / 2 {
        key.reversed.swap(index, NAME_BYTES - 1 - index);
        index += 1;
    }
    let (mut index, mut place) = (0, 0);
    while index < NAME_BYTES {
        key.reversed[index] = if place >= length {
            0
        } else {
            key.reversed[index].to_ascii_lowercase()
        };
        index += 1;
        place += 1;
    }
    true
}

/// Finds where the name ends and how long it is; 0 if the hello names nobody.
#[inline(always)]
fn find<B: PacketBytes + ?Sized>(
    bytes: &B,
    packet: &Packet,
    end: &mut u32,
    length: &mut u32,
) -> Result<(), Truncated> {
    // Session, cipher suites and compression methods, each behind its length; then the length of all extensions.
    let mut at = payload(bytes, packet)? + SESSION;
    let mut short = [0; 1];
    bytes.read(at, &mut short)?;
    at += 1 + u32::from(short[0]);
    let mut long = [0; 2];
    bytes.read(at, &mut long)?;
    at += 2 + u32::from(u16::from_be_bytes(long));
    bytes.read(at, &mut short)?;
    at += 1 + u32::from(short[0]) + 2;
    for _ in 0..MAX_EXTENSIONS {
        let mut extension = [0; 4];
        bytes.read(at, &mut extension)?;
        let [kind_high, kind_low, len_high, len_low] = extension;
        at += 4;
        if u16::from_be_bytes([kind_high, kind_low]) == SERVER_NAME {
            // The length of the list, the type of the first name (0: a host's), its length.
            let mut name = [0; 5];
            bytes.read(at, &mut name)?;
            let [_, _, kind, high, low] = name;
            if kind == 0 {
                *length = u32::from(u16::from_be_bytes([high, low]));
                *end = at + 5 + *length;
            }
            return Ok(());
        }
        at += u32::from(u16::from_be_bytes([len_high, len_low]));
    }
    Ok(())
}

/// Where a segment's payload is, by its header: the options may hold anything.
#[inline(always)]
fn payload<B: PacketBytes + ?Sized>(bytes: &B, packet: &Packet) -> Result<u32, Truncated> {
    let mut data_offset = [0; 1];
    bytes.read(packet.transport + DATA_OFFSET, &mut data_offset)?;
    Ok(packet.transport + tcp_header_len(data_offset[0]))
}
