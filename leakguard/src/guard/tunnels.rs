//! Whether a tunnel is up, as far as anybody can tell: a pure function.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use leakguard_common::abi::Role;

use super::Interfaces;

/// When the last handshake of each WireGuard tunnel was, by the interface's number; `None` if there was none yet.
pub type Handshakes = BTreeMap<u32, Option<SystemTime>>;

/// Why no tunnel is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Down {
    /// There is none.
    Absent,
    /// It is down, or has no carrier.
    NoCarrier { name: String },
    /// It has had no handshake, or is none of WireGuard's.
    NoHandshake { name: String },
    /// Its last handshake is too old.
    Stale { name: String, age: Duration },
}

impl fmt::Display for Down {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(formatter, "there is no tunnel"),
            Self::NoCarrier { name } => write!(formatter, "{name} is down or has no carrier"),
            Self::NoHandshake { name } => write!(formatter, "{name} has had no handshake"),
            Self::Stale { name, age } => write!(
                formatter,
                "the last handshake of {name} is {} s old",
                age.as_secs()
            ),
        }
    }
}

/// The number of a tunnel that is up, or why the last one that is not is not.
///
/// With `handshake_max`, only a handshake that is not older proves it.
pub(super) fn up(
    interfaces: &Interfaces,
    handshake_max: Option<Duration>,
    handshakes: &Handshakes,
    now: SystemTime,
) -> Result<u32, Down> {
    let mut down = Down::Absent;
    for interface in interfaces.values() {
        if interface.role != Role::Tunnel {
            continue;
        }
        let name = || interface.name.clone();
        let Some(limit) = handshake_max.filter(|_| interface.up) else {
            if interface.up {
                return Ok(interface.ifindex);
            }
            down = Down::NoCarrier { name: name() };
            continue;
        };
        down = match handshakes.get(&interface.ifindex).copied().flatten() {
            None => Down::NoHandshake { name: name() },
            Some(at) => {
                // A clock that was set back makes it younger, never older.
                let age = now.duration_since(at).unwrap_or_default();
                if age <= limit {
                    return Ok(interface.ifindex);
                }
                Down::Stale { name: name(), age }
            }
        };
    }
    Err(down)
}

#[cfg(test)]
mod tests {
    use leakguard_common::packet::LinkLayer;

    use super::*;
    use crate::interfaces::Interface;

    fn interfaces(list: &[(u32, &str, Role, bool)]) -> Interfaces {
        let interface = |&(ifindex, name, role, up): &(u32, &str, Role, bool)| Interface {
            ifindex,
            name: name.to_owned(),
            role,
            reason: "",
            kind: None,
            link_layer: LinkLayer::Ip,
            up,
            carries: Vec::new(),
            passed_over: None,
        };
        list.iter()
            .map(|entry| (entry.0, interface(entry)))
            .collect()
    }

    #[test]
    fn one_tunnel_that_is_up_is_enough() {
        let up_of = |list: &[_]| {
            up(
                &interfaces(list),
                None,
                &Handshakes::new(),
                SystemTime::now(),
            )
        };
        assert_eq!(up_of(&[(2, "eth0", Role::Uplink, true)]), Err(Down::Absent));
        assert_eq!(
            up_of(&[(3, "wg0", Role::Tunnel, false)]),
            Err(Down::NoCarrier { name: "wg0".into() })
        );
        assert_eq!(
            up_of(&[
                (3, "wg0", Role::Tunnel, false),
                (4, "wg1", Role::Tunnel, true)
            ]),
            Ok(4)
        );
    }

    #[test]
    fn a_handshake_grows_too_old() {
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        let list = interfaces(&[(3, "wg0", Role::Tunnel, true)]);
        let up_at = |at: Option<SystemTime>| {
            let handshakes = Handshakes::from([(3, at)]);
            up(&list, Some(10 * second), &handshakes, now)
        };
        assert_eq!(up_at(Some(now - 10 * second)), Ok(3));
        assert_eq!(up_at(Some(now + 10 * second)), Ok(3));
        assert_eq!(
            up_at(Some(now - 11 * second)),
            Err(Down::Stale {
                name: "wg0".into(),
                age: 11 * second
            })
        );
        let name = "wg0".to_owned();
        assert_eq!(up_at(None), Err(Down::NoHandshake { name: name.clone() }));
        let unknown = up(&list, Some(second), &Handshakes::new(), now);
        assert_eq!(unknown, Err(Down::NoHandshake { name }));
    }
}
