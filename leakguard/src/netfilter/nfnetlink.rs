//! What is asked of nftables too often to start a program for it, by netlink: whether anything has changed, whether a table
//! is there, and the leases.

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt::SndBufForce};

use super::TABLE;
use crate::interfaces::{attribute, attributes, each_message};

// `include/uapi/linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const BATCH_GENID: u16 = 1;
const GETTABLE: u16 = nftables(1);
const NEWSETELEM: u16 = nftables(12);
const DELSETELEM: u16 = nftables(14);
const NEWGEN: u16 = nftables(15);
const GETGEN: u16 = nftables(16);
const TABLE_NAME: u16 = 1;
const GEN_ID: u16 = 1;
const ELEM_LIST_TABLE: u16 = 1;
const ELEM_LIST_SET: u16 = 2;
const ELEM_LIST_ELEMENTS: u16 = 3;
const LIST_ELEM: u16 = 1;
const ELEM_KEY: u16 = 1;
const DATA_VALUE: u16 = 1;

/// The type of a message of nftables'.
const fn nftables(message: u16) -> u16 {
    (NFTABLES << 8) + message
}

/// Lengths of `struct nlmsghdr` and `struct nfgenmsg` in bytes.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// What fits into every send buffer, in bytes.
const SMALL: usize = 32 * 1024;

/// How many elements go into one message, whose attributes are at most 64 KiB long.
const ELEMENTS: usize = 500;

/// The number of the namespace's ruleset: every transaction, whoever makes it, gives it the next.
pub(super) fn generation() -> io::Result<u32> {
    let mut found = None;
    request(
        &message(GETGEN, NLM_F_REQUEST, 0, 0, &[]),
        |kind, payload| {
            let body = payload.get(FAMILY_HEADER..).unwrap_or_default();
            if kind != NEWGEN {
                return Ok(());
            }
            attributes(body, |kind, value| {
                if kind == GEN_ID {
                    found = value.first_chunk().copied().map(u32::from_be_bytes);
                }
                Ok(())
            })
        },
    )?;
    found.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether there is a table of leakguard's in a family.
pub(super) fn has_table(family: &str) -> io::Result<bool> {
    let name = attribute(TABLE_NAME, &terminated(TABLE));
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    let question = message(GETTABLE, flags, number_of(family)?, 0, &name);
    match request(&question, |_, _| Ok(())) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A set, and the keys of all that it is to hold.
pub(super) struct Elements {
    pub(super) set: &'static str,
    pub(super) keys: Vec<Vec<u8>>,
}

/// Makes sets of leakguard's tables hold exactly these elements, in one transaction, if the ruleset has this number; says
/// which it has then.
pub(super) fn refill(families: &[&str], sets: &[Elements], generation: u32) -> io::Result<u32> {
    let mut batch = Vec::new();
    for family in families {
        let family = number_of(family)?;
        for Elements { set, keys } in sets {
            let mut place = attribute(ELEM_LIST_TABLE, &terminated(TABLE));
            place.extend(attribute(ELEM_LIST_SET, &terminated(set)));
            // Without elements: all of them.
            batch.push((DELSETELEM, 0, family, place.clone()));
            for keys in keys.chunks(ELEMENTS) {
                let elements: Vec<u8> = keys.iter().flat_map(|key| element(key)).collect();
                let mut body = place.clone();
                body.extend(attribute(ELEM_LIST_ELEMENTS, &elements));
                batch.push((NEWSETELEM, NLM_F_CREATE, family, body));
            }
        }
    }
    let number = attribute(BATCH_GENID, &generation.to_be_bytes());
    let mut bytes = message(BATCH_BEGIN, NLM_F_REQUEST, 0, NFTABLES, &number);
    let last = batch.len().saturating_sub(1);
    for (index, (kind, flags, family, body)) in batch.iter().enumerate() {
        // An error is told in any case, success is asked for once.
        let acknowledge = if index == last { NLM_F_ACK } else { 0 };
        let flags = NLM_F_REQUEST | flags | acknowledge;
        bytes.extend(message(*kind, flags, *family, 0, body));
    }
    bytes.extend(message(BATCH_END, NLM_F_REQUEST, 0, NFTABLES, &[]));
    request(&bytes, |_, _| Ok(()))?;
    Ok(next(generation))
}

/// The number after one; there is no 0 (`nf_tables_commit`).
fn next(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

/// `NFPROTO_INET` and so on (`include/uapi/linux/netfilter.h`).
fn number_of(family: &str) -> io::Result<u8> {
    Ok(match family {
        "inet" => 1,
        "ip" => 2,
        "netdev" => 5,
        "bridge" => 7,
        "ip6" => 10,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    })
}

fn element(key: &[u8]) -> Vec<u8> {
    let key = attribute(ELEM_KEY, &attribute(DATA_VALUE, key));
    attribute(LIST_ELEM, &key)
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// A message with `struct nfgenmsg` before its attributes.
fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER + FAMILY_HEADER + attributes.len();
    let mut bytes = vec![0; length];
    let mut header = NetlinkBuffer::new(&mut bytes);
    header.set_length(u32::try_from(length).unwrap_or(u32::MAX));
    header.set_message_type(kind);
    header.set_flags(flags);
    bytes[HEADER] = family;
    bytes[HEADER + 2..HEADER + FAMILY_HEADER].copy_from_slice(&resource.to_be_bytes());
    bytes[HEADER + FAMILY_HEADER..].copy_from_slice(attributes);
    bytes
}

/// Sends messages, and hands each answer up to the last one to `visit`. The kernel answers before `send` returns.
fn request(
    messages: &[u8],
    mut visit: impl FnMut(u16, &[u8]) -> Result<(), DecodeError>,
) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // What thousands of interfaces take is more than may wait by default.
    if messages.len() > SMALL {
        setsockopt(&socket, SndBufForce, &(2 * messages.len()))?;
    }
    socket.send(messages, 0)?;
    socket.set_non_blocking(true)?;
    let mut answered = false;
    while !answered {
        let (datagram, _) = socket.recv_from_full()?;
        let mut result = Ok(());
        each_message(&datagram, |kind, payload| {
            answered = true;
            let found = if kind == NLMSG_ERROR {
                match payload.first_chunk().copied().map_or(0, i32::from_ne_bytes) {
                    0 => Ok(()),
                    code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                }
            } else {
                visit(kind, payload).map_err(io::Error::other)
            };
            if result.is_ok() {
                result = found;
            }
        });
        result?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_their_family_and_resource() {
        let bytes = message(GETTABLE, NLM_F_REQUEST, 7, NFTABLES, &attribute(1, b"x\0"));
        assert_eq!(bytes.len(), HEADER + FAMILY_HEADER + 8);
        assert_eq!(bytes[HEADER..HEADER + FAMILY_HEADER], [7, 0, 0, 10]);
    }

    #[test]
    fn there_is_no_generation_0() {
        assert_eq!(next(u32::MAX), 1);
        assert_eq!(next(7), 8);
    }
}
