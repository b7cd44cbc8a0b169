//! No address within a known prefix slips through the sieve, and nearly every other does.

#![expect(clippy::unwrap_used, reason = "an address has that many bytes")]

use leakguard_common::abi::{Family, LanKey};
use leakguard_common::sieve::{Place, Sieve};
use proptest::prelude::*;

fn place(family: Family, address: &[u8; 16]) -> Place {
    let (ipv4, ipv6) = (address.first_chunk(), address.first_chunk());
    match family {
        Family::Ipv6 => Place::ipv6(*ipv6.unwrap()),
        _ => Place::ipv4(*ipv4.unwrap()),
    }
}

/// An address that has the first bits of one and the rest of another.
fn within(prefix: u128, length: u32, other: u128) -> [u8; 16] {
    let mask = u128::MAX.checked_shr(length).unwrap_or(0);
    (prefix & !mask | other & mask).to_be_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_address_of_a_prefix_is_held(
        is_ipv6 in any::<bool>(),
        prefix in any::<u128>(),
        part in 0_u32..=128,
        other in any::<u128>(),
    ) {
        let (family, length) = if is_ipv6 {
            (Family::Ipv6, part)
        } else {
            (Family::Ipv4, part / 4)
        };
        let mut sieve = Sieve::EMPTY;
        sieve.admit(&LanKey::new(family, &within(prefix, length, 0), length));
        let address = within(prefix, length, other);
        prop_assert!(sieve.may_hold(place(family, &address)), "{address:02x?}/{length}");
        // What is added holds as well.
        let mut both = Sieve::EMPTY;
        both.add(&sieve);
        prop_assert_eq!(both, sieve);
    }
}

#[test]
fn few_others_are_held_with_it() {
    let mut sieve = Sieve::EMPTY;
    let mut resolvers = [0; 16];
    for third in 0..200 {
        resolvers[..4].copy_from_slice(&[192, 0, third, 1]);
        sieve.admit(&LanKey::new(Family::Ipv4, &resolvers, 32));
    }
    let held = (0..=u16::MAX)
        .filter(|number| {
            let [second, third] = number.to_be_bytes();
            sieve.may_hold(Place::ipv4([10, second, third, 7]))
        })
        .count();
    assert!(held < 200, "{held} of 65,536");
}

#[test]
fn one_network_of_a_hosting_provider_does_not_hold_another() {
    let mut sieve = Sieve::EMPTY;
    let resolver = [
        0x26, 6, 0x47, 0, 0x47, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x11,
    ];
    sieve.admit(&LanKey::new(Family::Ipv6, &resolver, 128));
    let mut site = resolver;
    site[4..6].copy_from_slice(&[0x30, 0x31]);
    assert!(sieve.may_hold(place(Family::Ipv6, &resolver)));
    assert!(!sieve.may_hold(place(Family::Ipv6, &site)));
}
