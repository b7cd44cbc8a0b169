//! The forms of packets that everything is sent in.

use crate::shape::{
    AH, DESTINATION, FRAGMENT, HIP, HOP_BY_HOP, MOBILITY, OTHER_VERSION, Order, ROUTING, SHIM6,
    Shape,
};

/// A form and what it is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
}

impl Form {
    /// Whether the later fragment goes first.
    pub(crate) const fn is_reversed(&self) -> bool {
        matches!(self.shape, Shape::Fragments(_, Order::Reversed, _))
    }
}

const fn form(name: &'static str, shape: Shape) -> Form {
    Form { name, shape }
}

const NOP: u8 = 1;
/// Record route, with room for two addresses.
const RECORD_ROUTE: [u8; 12] = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Every form.
pub(crate) const FORMS: [Form; 50] = [
    form("plain", Shape::Plain),
    form("options", Shape::Options(&[NOP, NOP, NOP, 0])),
    form("options: record route", Shape::Options(&RECORD_ROUTE)),
    form("options: 40 bytes", Shape::Options(&[NOP; 40])),
    form("hop-by-hop", Shape::Chain(&[HOP_BY_HOP])),
    form("destination options", Shape::Chain(&[DESTINATION])),
    form("routing", Shape::Chain(&[ROUTING])),
    form("atomic fragment", Shape::Chain(&[FRAGMENT])),
    form("AH", Shape::Chain(&[AH])),
    form("AH twice", Shape::Chain(&[AH, AH])),
    form("mobility", Shape::Chain(&[MOBILITY])),
    form("HIP", Shape::Chain(&[HIP])),
    form("shim6", Shape::Chain(&[SHIM6])),
    form(
        "mixed headers",
        Shape::Chain(&[
            HOP_BY_HOP,
            DESTINATION,
            ROUTING,
            AH,
            DESTINATION,
            MOBILITY,
            HIP,
            SHIM6,
        ]),
    ),
    form(
        "headers around an atomic fragment",
        Shape::Chain(&[HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION]),
    ),
    form("two atomic fragments", Shape::Chain(&[FRAGMENT, FRAGMENT])),
    form("16 headers", Shape::Chain(&[DESTINATION; 16])),
    form("17 headers", Shape::Chain(&[DESTINATION; 17])),
    form("24 headers", Shape::Chain(&[DESTINATION; 24])),
    form("16 AH", Shape::Chain(&[AH; 16])),
    form("17 AH", Shape::Chain(&[AH; 17])),
    form("fragments", Shape::Fragments(24, Order::Forward, &[])),
    form(
        "reversed fragments",
        Shape::Fragments(24, Order::Reversed, &[]),
    ),
    form(
        "tiny first fragment",
        Shape::Fragments(8, Order::Forward, &[]),
    ),
    form(
        "reversed, tiny first fragment",
        Shape::Fragments(8, Order::Reversed, &[]),
    ),
    form(
        "overlapping fragments",
        Shape::Fragments(24, Order::Overlapping, &[]),
    ),
    form(
        "first fragment behind another",
        Shape::Fragments(24, Order::AfterAnother, &[]),
    ),
    form(
        "first fragment before another",
        Shape::Fragments(24, Order::BeforeAnother, &[]),
    ),
    form(
        "tiny first fragment behind another",
        Shape::Fragments(8, Order::AfterAnother, &[]),
    ),
    form("later fragment alone", Shape::Rest(24)),
    form(
        "AH in fragments",
        Shape::Fragments(8, Order::Forward, &[AH]),
    ),
    form(
        "destination options in fragments",
        Shape::Fragments(8, Order::Forward, &[DESTINATION]),
    ),
    form("first fragment of AH alone", Shape::NoPorts(&[AH])),
    form(
        "first fragment of headers alone",
        Shape::NoPorts(&[DESTINATION, DESTINATION]),
    ),
    form("first fragment of 2 bytes", Shape::Short(2)),
    form("first fragment of no bytes", Shape::Short(0)),
    form("VLAN tag", Shape::Tags(&[0x8100])),
    form("VLAN tag (802.1ad)", Shape::Tags(&[0x88a8])),
    form("VLAN tag (0x9100)", Shape::Tags(&[0x9100])),
    form("2 VLAN tags", Shape::Tags(&[0x8100, 0x8100])),
    form("QinQ", Shape::Tags(&[0x88a8, 0x8100])),
    form("4 VLAN tags", Shape::Tags(&[0x8100; 4])),
    form("5 VLAN tags", Shape::Tags(&[0x8100; 5])),
    form("cut behind the source port", Shape::Cut(2)),
    form("cut in the destination port", Shape::Cut(3)),
    form("cut behind the IP header", Shape::Cut(0)),
    form("IP header of 16 bytes", Shape::FirstByte(0x44)),
    form("IP header of 0 bytes", Shape::FirstByte(0x40)),
    form("version 0", Shape::FirstByte(0x05)),
    form("the other version", Shape::FirstByte(OTHER_VERSION)),
];
