//! When what enforces may have been changed from outside, as far as netlink reports it.
//!
//! nftables tells of every change, the clsact qdisc too. Nobody tells of TCX links, pins and maps: these are only looked
//! at on the interval.

use std::io;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::libc;
use tokio::time::{Duration, Instant, sleep_until};

use crate::interfaces::{Listener, each_message};

/// What each socket may hold before the kernel drops events, in bytes; a loss leads to a look.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// `NFNLGRP_NFTABLES` (`include/uapi/linux/netfilter/nfnetlink.h`).
const NFNLGRP_NFTABLES: u32 = 7;

/// `NFNL_SUBSYS_NFTABLES`, in the upper half of a message's type.
const NFTABLES: u16 = 10 << 8;

/// `NFT_MSG_NEWTABLE` to `NFT_MSG_DELSET`, without those that only ask. What sets hold is not among them: the agent's
/// own leases change that all the time.
const OF_TABLES: [u16; 8] = [0, 2, 3, 5, 6, 8, 9, 11];

/// Length of `struct nfgenmsg` in bytes.
const NFGENMSG: usize = 4;

/// The name of leakguard's tables as an attribute: length, `NFTA_TABLE_NAME` and the like, which are 1 in each of these
/// messages, and the text.
const OWN_TABLE: &[u8] = b"leakguard\0";
const NFTA_TABLE: u16 = 1;

/// The least time between two looks that events lead to.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens for such changes.
#[derive(Debug)]
pub(super) struct Tampering {
    nftables: Option<Listener>,
    filters: Option<Listener>,
}

/// Whether there were any, and whether events were lost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signs {
    seen: bool,
    pub(super) lost: bool,
}

impl Tampering {
    /// Subscribes; `filters` says whether there are any on a clsact qdisc. Where that fails, the interval remains.
    pub(super) fn new(filters: bool) -> Self {
        let listen = |what: &str, protocol, group| {
            Listener::new(protocol, &[group], RECEIVE_BUFFER)
                .inspect_err(|error| {
                    log::warn!("changes of {what} are only seen on the interval: {error}");
                })
                .ok()
        };
        Self {
            nftables: listen("nftables", NETLINK_NETFILTER, NFNLGRP_NFTABLES),
            filters: filters
                .then(|| listen("TC filters", NETLINK_ROUTE, libc::RTNLGRP_TC))
                .flatten(),
        }
    }

    /// Waits for the next change.
    pub(super) async fn noticed(&mut self) -> Signs {
        loop {
            let signs = tokio::select! {
                signs = listen(&mut self.nftables, is_of_own_table) => signs,
                signs = listen(&mut self.filters, is_of_filters) => signs,
            };
            if signs.seen || signs.lost {
                return signs;
            }
        }
    }
}

/// Waits for events that count; for ever, if there is no listener or if it fails.
async fn listen(listener: &mut Option<Listener>, counts: fn(u16, &[u8]) -> bool) -> Signs {
    let Some(listening) = listener else {
        return std::future::pending().await;
    };
    match receive(listening, counts).await {
        Ok(signs) => signs,
        Err(error) => {
            log::warn!("changes from outside are only seen on the interval: {error}");
            *listener = None;
            Signs {
                seen: false,
                lost: true,
            }
        }
    }
}

async fn receive(listener: &mut Listener, counts: fn(u16, &[u8]) -> bool) -> io::Result<Signs> {
    let mut signs = Signs::default();
    let mut whole = true;
    let lost = listener
        .receive(|datagram| {
            whole &= each_message(datagram, |kind, payload| {
                signs.seen |= counts(kind, payload);
            });
        })
        .await?;
    signs.lost = lost || !whole;
    Ok(signs)
}

fn is_of_filters(kind: u16, _payload: &[u8]) -> bool {
    const RTM_NEWQDISC: u16 = 36;
    const RTM_DELQDISC: u16 = 37;
    const RTM_NEWTFILTER: u16 = 44;
    const RTM_DELTFILTER: u16 = 45;
    matches!(
        kind,
        RTM_NEWQDISC | RTM_DELQDISC | RTM_NEWTFILTER | RTM_DELTFILTER
    )
}

/// Whether a message is about a table, chain, rule or set of leakguard's: other firewalls change all the time.
fn is_of_own_table(kind: u16, payload: &[u8]) -> bool {
    OF_TABLES.iter().any(|message| kind == NFTABLES | message)
        && netlink_packet_core::NlasIterator::new(payload.get(NFGENMSG..).unwrap_or_default())
            .filter_map(Result::ok)
            .any(|attribute| attribute.kind() == NFTA_TABLE && attribute.value() == OWN_TABLE)
}

/// When to look: at once after a pause, and not again within the next.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Suspicion {
    /// Notes that there is a reason to look.
    pub(super) fn note(&mut self) {
        let now = Instant::now();
        let due = self.last.map_or(now, |last| (last + PAUSE).max(now));
        self.due.get_or_insert(due);
    }

    /// Notes that a look begins.
    pub(super) fn looked(&mut self) {
        self.due = None;
        self.last = Some(Instant::now());
    }

    /// Never, if there is no reason.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_table(name: &[u8]) -> Vec<u8> {
        let mut payload = vec![1, 0, 0, 0];
        payload.extend(u16::try_from(4 + name.len()).unwrap().to_ne_bytes());
        payload.extend(NFTA_TABLE.to_ne_bytes());
        payload.extend(name);
        payload.resize(payload.len().next_multiple_of(4), 0);
        payload
    }

    #[test]
    fn only_the_own_tables_count_and_not_what_their_sets_hold() {
        const DELTABLE: u16 = NFTABLES + 2;
        const NEWSETELEM: u16 = NFTABLES + 12;
        assert!(is_of_own_table(DELTABLE, &of_table(OWN_TABLE)));
        assert!(!is_of_own_table(DELTABLE, &of_table(b"filter\0")));
        assert!(!is_of_own_table(NEWSETELEM, &of_table(OWN_TABLE)));
        assert!(!is_of_own_table(2, &of_table(OWN_TABLE)), "another family");
        assert!(!is_of_own_table(DELTABLE, &[]));
    }

    #[test]
    fn looks_are_apart() {
        let mut suspicion = Suspicion::default();
        suspicion.note();
        assert!(suspicion.due.unwrap() <= Instant::now());
        suspicion.looked();
        assert_eq!(suspicion.due, None);
        suspicion.note();
        let first = suspicion.due.unwrap();
        assert!(first > Instant::now() + PAUSE / 2);
        suspicion.note();
        assert_eq!(suspicion.due, Some(first), "it is not put off");
    }
}
