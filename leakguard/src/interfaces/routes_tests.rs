//! Tests of the folding of routes, on messages as the kernel encodes them.

use super::*;

const V4: i32 = libc::AF_INET;
const V6: i32 = libc::AF_INET6;
const GATEWAY: Reach = Reach {
    gateway: true,
    on_link: false,
};
const ON_LINK: Reach = Reach {
    gateway: false,
    on_link: true,
};
const NOTHING: Reach = Reach {
    gateway: false,
    on_link: false,
};

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_ne_bytes())
}

fn route(family: i32, length: u8, kind: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(family).unwrap(), length, 0, 0, 254, 3, 0, kind];
    bytes.extend([0; 4]);
    bytes.extend(attributes.concat());
    bytes
}

fn unicast(family: i32, length: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
    route(family, length, libc::RTN_UNICAST, attributes)
}

fn destination(bytes: &[u8]) -> Vec<u8> {
    attribute(libc::RTA_DST, bytes)
}

fn v6(first: [u8; 2]) -> Vec<u8> {
    let mut address = vec![0; 16];
    address[..2].copy_from_slice(&first);
    destination(&address)
}

fn hop(interface: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = u16::try_from(NEXT_HOP_HEADER + attributes.len()).unwrap();
    [
        length.to_ne_bytes().to_vec(),
        vec![0; 2],
        interface.to_ne_bytes().to_vec(),
        attributes,
    ]
    .concat()
}

fn object(attributes: &[Vec<u8>]) -> Vec<u8> {
    [vec![0; NEXT_HOP_OBJECT_HEADER], attributes.concat()].concat()
}

fn group(members: &[u32]) -> Vec<u8> {
    let entries = members.iter().map(|id| [id.to_ne_bytes(), [0; 4]].concat());
    attribute(NHA_GROUP, &entries.collect::<Vec<_>>().concat())
}

fn fold(routes: &[Vec<u8>], next_hops: &[Vec<u8>]) -> Routes {
    let mut fold = Fold::default();
    for route in routes {
        fold.route(route).unwrap();
    }
    let mut objects = Objects::default();
    for next_hop in next_hops {
        objects.add(next_hop).unwrap();
    }
    fold.resolve(&objects);
    fold.routes
}

fn reach_over_2(route: Vec<u8>) -> Reach {
    fold(&[route], &[]).over(2)
}

#[test]
fn a_gateway_leads_beyond_the_link() {
    let oif = number(libc::RTA_OIF, 2);
    let gateway = attribute(libc::RTA_GATEWAY, &[192, 0, 2, 1]);
    let via = attribute(RTA_VIA, &[0; 18]);
    let encap = attribute(RTA_ENCAP, &[]);
    assert_eq!(
        reach_over_2(unicast(V4, 0, &[oif.clone(), gateway.clone()])),
        GATEWAY
    );
    assert_eq!(reach_over_2(unicast(V4, 0, &[oif.clone(), via])), GATEWAY);
    let network = destination(&[10, 0, 0, 0]);
    assert_eq!(
        reach_over_2(unicast(V4, 8, &[network.clone(), oif.clone(), gateway])),
        GATEWAY
    );
    assert_eq!(
        reach_over_2(unicast(V4, 8, &[network, oif, encap])),
        GATEWAY
    );
}

#[test]
fn a_default_route_without_gateway_leads_beyond_the_link() {
    let oif = number(libc::RTA_OIF, 2);
    assert_eq!(
        reach_over_2(unicast(V4, 0, std::slice::from_ref(&oif))),
        GATEWAY
    );
    assert_eq!(
        reach_over_2(unicast(V6, 0, std::slice::from_ref(&oif))),
        GATEWAY
    );
    let half = destination(&[128, 0, 0, 0]);
    assert_eq!(reach_over_2(unicast(V4, 1, &[half, oif.clone()])), GATEWAY);
    assert_eq!(reach_over_2(unicast(V6, 3, &[v6([0x20, 0]), oif])), GATEWAY);
}

#[test]
fn a_network_or_host_is_on_the_link() {
    let oif = number(libc::RTA_OIF, 2);
    let net = |length| unicast(V4, length, &[destination(&[10, 1, 2, 3]), oif.clone()]);
    assert_eq!(reach_over_2(net(8)), ON_LINK);
    assert_eq!(reach_over_2(net(32)), ON_LINK);
    assert_eq!(
        reach_over_2(unicast(V6, 64, &[v6([0xfd, 0]), oif.clone()])),
        ON_LINK
    );
    assert_eq!(fold(&[net(24)], &[]).over(3), NOTHING);
}

#[test]
fn what_every_link_has_says_nothing() {
    let oif = number(libc::RTA_OIF, 2);
    let v4 = |bytes: &[u8; 4], length| unicast(V4, length, &[destination(bytes), oif.clone()]);
    assert_eq!(reach_over_2(v4(&[169, 254, 0, 0], 16)), NOTHING);
    assert_eq!(reach_over_2(v4(&[224, 0, 0, 0], 4)), NOTHING);
    let v6_route = |first, length| unicast(V6, length, &[v6(first), oif.clone()]);
    assert_eq!(reach_over_2(v6_route([0xfe, 0x80], 64)), NOTHING);
    assert_eq!(reach_over_2(v6_route([0xff, 0], 8)), NOTHING);
    for kind in [libc::RTN_LOCAL, libc::RTN_BROADCAST, libc::RTN_MULTICAST] {
        let own = route(V4, 32, kind, &[destination(&[10, 1, 2, 3]), oif.clone()]);
        assert_eq!(reach_over_2(own), NOTHING);
    }
}

#[test]
fn an_exception_route_is_not_a_route() {
    let mut route = unicast(
        V6,
        128,
        &[v6([0x20, 1]), number(libc::RTA_OIF, 2), v6([0xfe, 0x80])],
    );
    route[8..12].copy_from_slice(&libc::RTM_F_CLONED.to_ne_bytes());
    assert_eq!(reach_over_2(route), NOTHING);
}

#[test]
fn each_next_hop_of_a_multipath_route_counts() {
    let gateway = attribute(libc::RTA_GATEWAY, &[192, 0, 2, 1]);
    let hops = [hop(2, &[]), hop(3, &[gateway])].concat();
    let network = destination(&[10, 0, 0, 0]);
    let routes = fold(
        &[unicast(
            V4,
            8,
            &[network, attribute(libc::RTA_MULTIPATH, &hops)],
        )],
        &[],
    );
    assert_eq!(routes.over(2), ON_LINK);
    assert_eq!(routes.over(3), GATEWAY);
    assert_eq!(routes.over(4), NOTHING);
}

#[test]
fn next_hop_objects_and_groups_are_resolved() {
    let network = || destination(&[10, 0, 0, 0]);
    let routes = [
        unicast(V4, 8, &[network(), number(RTA_NH_ID, 1)]),
        unicast(V4, 8, &[network(), number(RTA_NH_ID, 9)]),
    ];
    let gateway = attribute(NHA_GATEWAY, &[192, 0, 2, 1]);
    let objects = [
        object(&[number(NHA_ID, 1), number(NHA_OIF, 2)]),
        object(&[number(NHA_ID, 3), number(NHA_OIF, 3), gateway]),
        object(&[number(NHA_ID, 4), attribute(NHA_BLACKHOLE, &[])]),
        object(&[number(NHA_ID, 9), group(&[3, 4])]),
    ];
    let routes = fold(&routes, &objects);
    assert_eq!(routes.over(2), ON_LINK);
    assert_eq!(routes.over(3), GATEWAY);
    assert_eq!(routes.over(4), NOTHING);
}

#[test]
fn a_next_hop_that_is_not_known_may_be_anywhere() {
    let network = || destination(&[10, 0, 0, 0]);
    let lost = fold(&[unicast(V4, 8, &[network(), number(RTA_NH_ID, 5)])], &[]);
    assert_eq!(lost.over(2), GATEWAY);
    let lost_member = fold(
        &[unicast(V4, 8, &[network(), number(RTA_NH_ID, 9)])],
        &[object(&[number(NHA_ID, 9), group(&[5])])],
    );
    assert_eq!(lost_member.over(2), GATEWAY);
    assert_eq!(fold(&[unicast(V4, 8, &[network()])], &[]).over(2), GATEWAY);
    let unreachable = route(V4, 8, libc::RTN_UNREACHABLE, &[network()]);
    assert_eq!(fold(&[unreachable], &[]).over(2), NOTHING);
}

#[test]
fn a_multipath_list_with_a_wrong_length_is_an_error() {
    let mut hops = hop(2, &[]);
    for length in [0_u16, 7, 9, 200] {
        hops[..2].copy_from_slice(&length.to_ne_bytes());
        assert!(parse_hops(&hops).is_err(), "length {length}");
    }
}
