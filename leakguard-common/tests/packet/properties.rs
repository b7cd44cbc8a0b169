//! Properties that hold for any bytes.

use leakguard_common::abi::{Hook, Role, Settings, Verdict};
use leakguard_common::packet::{Fragment, LinkLayer, PacketBytes, Truncated, has_ports, parse};
use leakguard_common::verdict::decide;
use proptest::prelude::*;

use crate::facts::known;
use crate::samples::samples;
use crate::{LINK_LAYERS, Packet, parsed};

/// A packet that is never read beyond its end, and that remembers how far it was read.
struct Watched<'a> {
    bytes: &'a [u8],
    read_to: core::cell::Cell<usize>,
}

impl PacketBytes for Watched<'_> {
    fn read<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> Result<(), Truncated> {
        self.bytes.read(offset, into)?;
        let end = usize::try_from(offset).map_or(usize::MAX, |offset| offset + N);
        self.read_to.set(self.read_to.get().max(end));
        Ok(())
    }
}

fn link_layer() -> impl Strategy<Value = LinkLayer> {
    prop::sample::select(LINK_LAYERS.to_vec())
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

/// A sample with some bytes replaced: random bytes alone seldom get far.
fn near_sample() -> impl Strategy<Value = Vec<u8>> {
    let samples: Vec<Vec<u8>> = samples().into_iter().map(|sample| sample.bytes).collect();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (prop::sample::select(samples), changes).prop_map(|(mut bytes, changes)| {
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_read_decides_alone(
        bytes in prop_oneof![any_bytes(), near_sample()],
        behind in any_bytes(),
        link in link_layer(),
    ) {
        let watched = Watched { bytes: &bytes, read_to: 0.into() };
        let mut packet = Packet::UNKNOWN;
        let result = parse(&watched, link, &mut packet);
        let read_to = watched.read_to.get();
        prop_assert!(read_to <= bytes.len());

        if result.is_ok() {
            let longer = [&bytes[..], &behind].concat();
            prop_assert_eq!(parsed(&longer, link), (result, packet));
            prop_assert_eq!(parsed(&bytes[..read_to], link), (result, packet));
        }
    }

    #[test]
    fn ports_are_set_exactly_where_there_are_some(
        bytes in prop_oneof![any_bytes(), near_sample()],
        link in link_layer(),
    ) {
        let (result, packet) = parsed(&bytes, link);
        if result.is_ok() && has_ports(packet.protocol) && packet.fragment != Fragment::Later {
            let at = packet.transport as usize;
            let expected = [packet.source_port.to_be_bytes(), packet.destination_port.to_be_bytes()];
            prop_assert_eq!(&bytes[at..at + 4], expected.as_flattened());
        } else {
            prop_assert_eq!((packet.source_port, packet.destination_port), (0, 0));
        }
    }

    #[test]
    fn observing_judges_as_enforcing_does(
        bytes in prop_oneof![any_bytes(), near_sample()],
        link in link_layer(),
    ) {
        let (result, packet) = parsed(&bytes, link);
        let observing = Settings { mode: Settings::OBSERVE, ..Settings::default() };
        for hook in [Hook::CgroupSkb, Hook::Tc] {
            let uplink = known(|| Some(Role::Uplink), false);
            let enforced = decide(result, &packet, hook, &Settings::default(), &uplink);
            let observed = decide(result, &packet, hook, &observing, &uplink);
            prop_assert_eq!(enforced.reason, observed.reason);
            prop_assert_eq!(enforced.verdict == Verdict::Drop, observed.verdict == Verdict::WouldDrop);
            prop_assert_eq!(enforced.is_judged(), enforced.verdict != Verdict::Pass);
        }
    }
}
