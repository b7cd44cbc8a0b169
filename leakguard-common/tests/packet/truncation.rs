//! Every prefix of every sample, and that bytes behind the packet change nothing.

use leakguard_common::packet::{Fragment, Packet, ParseError, has_ports};

use crate::samples::samples;
use crate::{LINK_LAYERS, parsed};

/// A packet that was parsed, and whether it has ports.
fn with_ports(packet: &Packet) -> bool {
    has_ports(packet.protocol) && packet.fragment != Fragment::Later
}

#[test]
fn no_prefix_of_a_sample_is_parsed_into_something_else() {
    for sample in samples() {
        let whole = parsed(&sample.bytes, sample.link);
        for kept in 0..sample.bytes.len() {
            let (result, packet) = parsed(&sample.bytes[..kept], sample.link);
            match result {
                Ok(()) => assert_eq!((result, packet), whole, "{} to {kept}", sample.name),
                Err(error) if whole.0.is_ok() => {
                    assert_eq!(error, ParseError::Truncated, "{} to {kept}", sample.name);
                }
                Err(error) => assert!(
                    error == ParseError::Truncated || Err(error) == whole.0,
                    "{} to {kept}: {error:?}",
                    sample.name
                ),
            }
        }
    }
}

#[test]
fn a_prefix_that_lost_its_ports_is_refused() {
    let mut seen = 0;
    for sample in samples() {
        let (result, packet) = parsed(&sample.bytes, sample.link);
        if result.is_err() || !with_ports(&packet) {
            continue;
        }
        seen += 1;
        let ports_end = packet.transport as usize + 4;
        for kept in 0..ports_end {
            let (result, _) = parsed(&sample.bytes[..kept], sample.link);
            assert_eq!(
                result,
                Err(ParseError::Truncated),
                "{} to {kept}",
                sample.name
            );
        }
        let (result, shortest) = parsed(&sample.bytes[..ports_end], sample.link);
        assert_eq!((result, shortest), (Ok(()), packet), "{}", sample.name);
    }
    assert!(seen > 10, "only {seen} samples have ports");
}

#[test]
fn every_prefix_is_safe_in_every_link_layer() {
    for sample in samples() {
        for link in LINK_LAYERS {
            for kept in 0..=sample.bytes.len() {
                let (result, packet) = parsed(&sample.bytes[..kept], link);
                if result.is_ok() && with_ports(&packet) {
                    assert!(packet.transport as usize + 4 <= kept);
                }
            }
        }
    }
}
