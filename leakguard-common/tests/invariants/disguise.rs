//! Other ways to send the same datagram.

use leakguard_common::abi::Hook;
use leakguard_common::packet::LinkLayer;

use crate::case::Case;

const ETHERNET: usize = 14;
const MAC_ADDRESSES: usize = 12;
const IPV4: usize = 20;
const IPV6: usize = 40;

const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// Headers of 8 bytes that another may follow in IPv6: hop by hop, routing, a fragment that is none, options, mobility,
/// HIP, shim6.
const IPV6_EXTENSIONS: [u8; 7] = [0, 43, FRAGMENT, 60, 135, 139, 140];

/// The same datagram with more around its transport header; what each case is called.
pub(crate) fn disguises(case: &Case) -> Vec<(String, Case)> {
    match case.link {
        LinkLayer::Ethernet => [0x8100_u16, 0x88a8, 0x9100]
            .into_iter()
            .filter_map(|tag| {
                let name = format!("with a tag {tag:04x}");
                Some((name, inserted(case, MAC_ADDRESSES, &tagged(tag))?))
            })
            .collect(),
        LinkLayer::Ip => {
            let mut disguises = within_ip(case);
            disguises.extend(framed(case).map(|frame| ("in a frame".to_owned(), frame)));
            let unknown = case.with(|case| case.link = LinkLayer::Unknown);
            disguises.push(("over a device of an unknown type".to_owned(), unknown));
            disguises
        }
        LinkLayer::Unknown => Vec::new(),
    }
}

fn tagged(tag: u16) -> [u8; 4] {
    let [high, low] = tag.to_be_bytes();
    [high, low, 0, 7]
}

/// The packet with bytes put in between.
fn inserted(case: &Case, at: usize, header: &[u8]) -> Option<Case> {
    let (before, behind) = case.bytes.split_at_checked(at)?;
    let bytes = [before, header, behind].concat();
    Some(case.with(|case| case.bytes = bytes))
}

/// Only at TC: the packet of a local socket has no frame yet.
fn framed(case: &Case) -> Option<Case> {
    let ethertype: u16 = match case.bytes.first()? >> 4 {
        4 => 0x0800,
        6 => 0x86dd,
        _ => return None,
    };
    let mut header = [0; ETHERNET];
    header[MAC_ADDRESSES..].copy_from_slice(&ethertype.to_be_bytes());
    let framed = inserted(case, 0, &header)?;
    (case.hook == Hook::Tc).then(|| framed.with(|case| case.link = LinkLayer::Ethernet))
}

/// With IPv4 options, or with IPv6 extension headers.
fn within_ip(case: &Case) -> Vec<(String, Case)> {
    match case.bytes.first().map(|first| first >> 4) {
        Some(4) => {
            let options = with_option(case).map(|case| ("with an option".to_owned(), case));
            let authenticated = behind_ipv4(case).map(|case| ("with an AH".to_owned(), case));
            options.into_iter().chain(authenticated).collect()
        }
        Some(6) => IPV6_EXTENSIONS
            .into_iter()
            .map(|number| (number, [0; 8].to_vec()))
            .chain([(AUTHENTICATION, authentication())])
            .filter_map(|(number, header)| {
                let case = behind_ipv6(case, number, header)?;
                Some((format!("behind extension header {number}"), case))
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// An AH without a check value; the number of what follows is still 0.
fn authentication() -> Vec<u8> {
    let mut header = vec![0; 12];
    header[1] = 1;
    header
}

/// Four times "no operation" in front of the options that there are.
fn with_option(case: &Case) -> Option<Case> {
    let mut changed = inserted(case, IPV4, &[1; 4])?;
    let words = changed.bytes[0] & 0x0f;
    if !(5..15).contains(&words) {
        return None;
    }
    changed.bytes[0] += 1;
    lengthen(&mut changed.bytes, 2, 4)?;
    Some(changed)
}

fn behind_ipv4(case: &Case) -> Option<Case> {
    const PROTOCOL: usize = 9;

    let mut header = authentication();
    header[0] = *case.bytes.get(PROTOCOL)?;
    let words = usize::from(case.bytes[0] & 0x0f);
    // A later fragment has no header to put one in front of.
    let flags_and_offset = u16::from_be_bytes(*case.bytes.get(6..)?.first_chunk()?);
    let is_later = flags_and_offset & 0x1fff != 0;
    // A length that ends within the header puts everything behind it into the next fragment.
    let total_length = u16::from_be_bytes(*case.bytes.get(2..)?.first_chunk()?);
    if words < 5 || is_later || usize::from(total_length) < words * 4 {
        return None;
    }
    let mut changed = inserted(case, words * 4, &header)?;
    changed.bytes[PROTOCOL] = AUTHENTICATION;
    lengthen(&mut changed.bytes, 2, header.len())?;
    Some(changed)
}

fn behind_ipv6(case: &Case, number: u8, mut header: Vec<u8>) -> Option<Case> {
    const NEXT_HEADER: usize = 6;

    header[0] = *case.bytes.get(NEXT_HEADER)?;
    let mut changed = inserted(case, IPV6, &header)?;
    changed.bytes[NEXT_HEADER] = number;
    lengthen(&mut changed.bytes, 4, header.len())?;
    Some(changed)
}

/// Adds to the length that a header states; `None` where it has no room for that.
fn lengthen(bytes: &mut [u8], at: usize, more: usize) -> Option<()> {
    let field = bytes.get_mut(at..)?.first_chunk_mut::<2>()?;
    let more = u16::try_from(more).ok()?;
    *field = u16::from_be_bytes(*field).checked_add(more)?.to_be_bytes();
    Some(())
}
