//! Which counters of packets there can be: those are exported at 0 from the start.

use leakguard_common::abi::{Family, Hook, Protocol, Reason, Role, Verdict};
use leakguard_common::counter::Series;

/// Whether anything can ever be counted there.
pub(super) fn can_occur(series: Series) -> bool {
    let Series {
        hook,
        role,
        reason,
        verdict,
        family,
        protocol,
    } = series;
    let uplink = role == Role::Uplink;
    if hook == Hook::SockAddr {
        // Calls to port 53 that go elsewhere, or nowhere; the first are counted as redirected besides.
        return reason == Reason::Dns
            && family != Family::Unknown
            && protocol != Protocol::Other
            && matches!(
                (role, verdict),
                (Role::Tunnel, Verdict::Redirect) | (Role::Uplink, Verdict::Drop)
            );
    }
    if verdict == Verdict::Redirect {
        return false;
    }
    // `Decision::of`: nothing is held back but on uplinks, and there everything is but what is only reported.
    let passes = !uplink || reason == Reason::DnsShaped;
    if passes != (verdict == Verdict::Pass) {
        return false;
    }
    if hook == Hook::Setsockopt {
        // An option is no packet: it has no family and no transport.
        return reason == Reason::RawBypass
            && uplink
            && family == Family::Unknown
            && protocol == Protocol::Other;
    }
    // TC programs are on uplinks alone, and what is attached to is one.
    if hook == Hook::Tc && !uplink {
        return false;
    }
    // Only what cannot be parsed can be without a family.
    if family == Family::Unknown {
        return reason == Reason::Malformed && protocol == Protocol::Other;
    }
    match reason {
        Reason::Other | Reason::RawBypass => false,
        // UDP-Lite has ports, and is no UDP for the counters.
        Reason::Doq | Reason::Mdns | Reason::DnsShaped => protocol != Protocol::Tcp,
        Reason::Dot => protocol != Protocol::Udp,
        Reason::Doh => protocol != Protocol::Other,
        Reason::Ipv6 => uplink && family == Family::Ipv6,
        Reason::KillSwitch => uplink,
        Reason::Dns | Reason::Llmnr | Reason::Netbios | Reason::Fragment | Reason::Malformed => {
            true
        }
    }
}

/// Every series that can occur.
pub(super) fn all() -> impl Iterator<Item = Series> {
    Series::all().filter(|&series| can_occur(series))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_every_day_can_occur_and_what_makes_no_sense_cannot() {
        let series = Series {
            hook: Hook::CgroupSkb,
            role: Role::Uplink,
            reason: Reason::Dns,
            verdict: Verdict::Drop,
            family: Family::Ipv4,
            protocol: Protocol::Udp,
        };
        assert!(can_occur(series));
        for possible in [
            Series {
                verdict: Verdict::WouldDrop,
                ..series
            },
            Series {
                role: Role::Tunnel,
                verdict: Verdict::Pass,
                ..series
            },
            Series {
                hook: Hook::Tc,
                reason: Reason::Dot,
                protocol: Protocol::Tcp,
                ..series
            },
            Series {
                reason: Reason::Malformed,
                family: Family::Unknown,
                protocol: Protocol::Other,
                ..series
            },
        ] {
            assert!(can_occur(possible), "{possible:?}");
        }
        for impossible in [
            Series {
                verdict: Verdict::Pass,
                ..series
            },
            Series {
                role: Role::Tunnel,
                ..series
            },
            Series {
                hook: Hook::Tc,
                role: Role::Tunnel,
                verdict: Verdict::Pass,
                ..series
            },
            Series {
                reason: Reason::Other,
                ..series
            },
            Series {
                reason: Reason::Ipv6,
                ..series
            },
            Series {
                hook: Hook::Setsockopt,
                ..series
            },
        ] {
            assert!(!can_occur(impossible), "{impossible:?}");
        }
        // One page of a few hundred lines, not of thousands.
        assert!((100..500).contains(&all().count()), "{}", all().count());
    }
}
