//! What the kernel says about links and routes at one moment.

use std::collections::BTreeMap;

use leakguard_common::abi::EndpointKey;
use netlink_packet_core::{DecodeError, parse_i32, parse_u32};
use nix::libc;

use super::{
    carriers::carriers,
    netlink::{self, Dumper, NetlinkError, Request},
    routes::{self, Routes},
};

/// How often a dump that the kernel calls inconsistent is repeated.
const ATTEMPTS: usize = 8;

/// Length of `struct ifinfomsg` in bytes.
const LINK_HEADER: usize = 16;

/// `IFLA_EXT_MASK` bit: leave out the statistics, which nothing here reads.
const SKIP_STATISTICS: u32 = 8;

/// `NETLINK_ROUTE` attributes of a link that libc has no name for.
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;

/// Links and routes of one network namespace.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every link by its number.
    pub links: BTreeMap<u32, Link>,
    /// Where routes lead; `None` if no link's role depends on it, because a full table is expensive.
    pub routes: Option<Routes>,
}

impl Snapshot {
    /// The ports of a bridge, bond or similar device.
    pub fn ports(&self, master: u32) -> impl Iterator<Item = &Link> {
        self.links
            .values()
            .filter(move |link| link.master == Some(master))
    }
}

/// One link.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Link {
    /// Number within its network namespace.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Alternative names.
    pub altnames: Vec<String>,
    /// `IFLA_INFO_KIND`: `veth`, `bridge`, `wireguard`, …; absent on most physical devices.
    pub kind: Option<String>,
    /// `ARPHRD_*`.
    pub hardware_type: u16,
    /// `IFF_*`.
    pub flags: u32,
    /// The bridge, bond or VRF that this link is a port of.
    pub master: Option<u32>,
    /// The lower device or the peer; its number may be another namespace's, see `parent_netnsid`.
    pub parent: Option<u32>,
    /// Set if `parent` is in another network namespace.
    pub parent_netnsid: Option<i32>,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// Where it sends what it packs without encrypting it.
    pub carries: Vec<EndpointKey>,
}

impl Link {
    /// The name and the alternative names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name)
            .chain(&self.altnames)
            .map(String::as_str)
    }

    /// Whether it is up and has a carrier.
    pub fn is_up(&self) -> bool {
        self.has_flag(libc::IFF_UP) && self.has_flag(libc::IFF_LOWER_UP)
    }

    /// Whether it is administratively up.
    pub fn is_admin_up(&self) -> bool {
        self.has_flag(libc::IFF_UP)
    }

    /// Whether it is the loopback device.
    pub fn is_loopback(&self) -> bool {
        self.has_flag(libc::IFF_LOOPBACK) && self.hardware_type == libc::ARPHRD_LOOPBACK
    }

    /// Whether it is a layer-2 device that a program feeds.
    pub fn is_tap(&self) -> bool {
        self.is_kind("tun") && self.hardware_type == libc::ARPHRD_ETHER
    }

    /// Whether its `IFLA_INFO_KIND` is `kind`.
    pub fn is_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// Whether its role depends on the routes over it.
    fn needs_routes(&self) -> bool {
        self.is_tap()
            || ["veth", "bridge", "dummy", "ifb"]
                .iter()
                .any(|kind| self.is_kind(kind))
    }

    fn has_flag(&self, flag: libc::c_int) -> bool {
        self.flags & flag.cast_unsigned() != 0
    }
}

/// Reads links, and routes where a role depends on them, in the calling thread's network namespace.
///
/// The result is complete: a message that cannot be decoded and a dump that stays inconsistent are
/// errors. Links and routes are two dumps; a change between them reaches a
/// [`Watcher`](super::Watcher) that was created before.
pub async fn snapshot() -> Result<Snapshot, NetlinkError> {
    for _ in 1..ATTEMPTS {
        match read().await {
            Err(error) if error.is_interrupted() => {}
            result => return result,
        }
    }
    read().await
}

/// Whether a link is up and has a carrier now; one that does not exist has none.
///
/// The kernel reports a lost carrier up to a second and more later, when many links change
/// (`linkwatch_schedule_work`, 6.18), but knows it at once.
pub async fn is_up(ifindex: u32) -> Result<bool, NetlinkError> {
    let mut body = vec![0; LINK_HEADER];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let mut up = false;
    let asked = Dumper::open()?
        .dump(Request::Link, &body, |payload| {
            up = parse_link(payload)?.is_up();
            Ok(())
        })
        .await;
    match asked {
        Err(error) if error.is_absent() => Ok(false),
        result => result.map(|()| up),
    }
}

async fn read() -> Result<Snapshot, NetlinkError> {
    let mut dumper = Dumper::open()?;
    let mut links = BTreeMap::new();
    let mut body = vec![0; LINK_HEADER];
    body.extend(netlink::attribute_u32(libc::IFLA_EXT_MASK, SKIP_STATISTICS));
    dumper
        .dump(Request::Links, &body, |payload| {
            let link = parse_link(payload)?;
            links.insert(link.ifindex, link);
            Ok(())
        })
        .await?;
    let routes = if links.values().any(Link::needs_routes) {
        Some(routes::read(&mut dumper).await?)
    } else {
        None
    };
    Ok(Snapshot { links, routes })
}

fn parse_link(payload: &[u8]) -> Result<Link, DecodeError> {
    // struct ifinfomsg: family u8, padding u8, type u16, index i32, flags u32, change u32.
    let (header, attributes) = netlink::split_fixed(payload, LINK_HEADER)?;
    let mut link = Link {
        hardware_type: netlink::u16_at(header, 2)?,
        ifindex: netlink::u32_at(header, 4)?,
        flags: netlink::u32_at(header, 8)?,
        ..Link::default()
    };
    netlink::attributes(attributes, |kind, value| {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_MTU => link.mtu = parse_u32(value)?,
            libc::IFLA_MASTER => link.master = Some(parse_u32(value)?),
            libc::IFLA_LINK => link.parent = Some(parse_u32(value)?).filter(|index| *index != 0),
            libc::IFLA_LINK_NETNSID => link.parent_netnsid = Some(parse_i32(value)?),
            libc::IFLA_LINKINFO => {
                let mut data = None;
                netlink::attributes(value, |kind, value| {
                    match kind {
                        libc::IFLA_INFO_KIND => link.kind = Some(text(value)),
                        libc::IFLA_INFO_DATA => data = Some(value),
                        _ => {}
                    }
                    Ok(())
                })?;
                if let (Some(kind), Some(data)) = (&link.kind, data) {
                    link.carries = carriers(kind, data)?;
                }
            }
            IFLA_PROP_LIST => netlink::attributes(value, |kind, value| {
                if kind == IFLA_ALT_IFNAME {
                    link.altnames.push(text(value));
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(link)
}

/// A string up to its NUL. Bytes that are not UTF-8 are replaced: such a name then matches no exact
/// pattern and is never permitted, which is the safe side.
fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
pub(super) mod testing {
    use super::Link;

    /// A physical Ethernet device that is up.
    pub(in crate::interfaces) fn link(ifindex: u32, name: &str) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            hardware_type: nix::libc::ARPHRD_ETHER,
            flags: (nix::libc::IFF_UP | nix::libc::IFF_LOWER_UP).cast_unsigned(),
            mtu: 1500,
            ..Link::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn header(hardware_type: u16, ifindex: u32, flags: u32) -> Vec<u8> {
        let mut bytes = vec![0; 2];
        bytes.extend(hardware_type.to_ne_bytes());
        bytes.extend(ifindex.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn a_link_message_is_read_with_its_nested_attributes() {
        const NESTED: u16 = 1 << 15;
        let mut message = header(1, 7, 1);
        message.extend(attribute(libc::IFLA_IFNAME, b"veth7\0"));
        message.extend(attribute(libc::IFLA_MTU, &1400_u32.to_ne_bytes()));
        message.extend(attribute(libc::IFLA_MASTER, &3_u32.to_ne_bytes()));
        message.extend(attribute(libc::IFLA_LINK, &9_u32.to_ne_bytes()));
        message.extend(attribute(libc::IFLA_LINK_NETNSID, &0_i32.to_ne_bytes()));
        let kind = attribute(libc::IFLA_INFO_KIND, b"veth\0");
        message.extend(attribute(libc::IFLA_LINKINFO, &kind));
        let names = [
            attribute(IFLA_ALT_IFNAME, b"one\0"),
            attribute(IFLA_ALT_IFNAME, b"two\0"),
        ];
        message.extend(attribute(IFLA_PROP_LIST | NESTED, &names.concat()));
        assert_eq!(
            parse_link(&message).unwrap(),
            Link {
                ifindex: 7,
                name: "veth7".to_owned(),
                altnames: vec!["one".to_owned(), "two".to_owned()],
                kind: Some("veth".to_owned()),
                hardware_type: 1,
                flags: 1,
                master: Some(3),
                parent: Some(9),
                parent_netnsid: Some(0),
                mtu: 1400,
                carries: Vec::new(),
            }
        );
    }

    #[test]
    fn a_message_that_is_cut_is_an_error() {
        let mut message = header(1, 7, 1);
        message.extend(attribute(libc::IFLA_IFNAME, b"veth7\0"));
        for length in (0..message.len() - 4).filter(|length| *length != LINK_HEADER) {
            assert!(parse_link(&message[..length]).is_err(), "cut at {length}");
        }
    }
}
