//! The three kinds of block that a capture of ours has (draft-ietf-opsawg-pcapng), little-endian.

use std::io::{self, Write};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const VERSION: [u16; 2] = [1, 0];
/// It is not known how long the section will be.
const UNKNOWN_LENGTH: u64 = u64::MAX;

/// IPv4 or IPv6 without a link header: the version is in the packet.
const LINKTYPE_RAW: u16 = 101;
/// Packets are not cut by the file, but by what the kernel copied.
const NO_SNAPLEN: u32 = 0;

const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;

/// Time stamps are in units of 10^-9 s.
const NANOSECONDS: u8 = 9;

/// The longest text of an option that is written: far below what its 16 bits can say, more than anybody reads.
const MAX_TEXT: usize = 8 * 1024;

/// A packet as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// The number of its interface, in the order of their blocks.
    pub(super) interface: u32,
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    /// What there is of it.
    pub(super) bytes: &'a [u8],
    /// How long it was.
    pub(super) original_length: u32,
    /// What is said about it.
    pub(super) comment: &'a str,
}

/// Begins a section.
pub(super) fn section(output: &mut impl Write, application: &str, comment: &str) -> io::Result<()> {
    let mut block = Block::new(SECTION_HEADER);
    block.u32(BYTE_ORDER_MAGIC);
    for part in VERSION {
        block.u16(part);
    }
    block.bytes(&UNKNOWN_LENGTH.to_le_bytes());
    block.text(COMMENT, comment);
    block.text(SHB_USERAPPL, application);
    block.finish(output)
}

/// Describes an interface; the first is number 0.
pub(super) fn interface(output: &mut impl Write, name: &str, description: &str) -> io::Result<()> {
    let mut block = Block::new(INTERFACE_DESCRIPTION);
    block.u16(LINKTYPE_RAW);
    block.u16(0);
    block.u32(NO_SNAPLEN);
    block.text(IF_NAME, name);
    block.text(IF_DESCRIPTION, description);
    block.option(IF_TSRESOL, &[NANOSECONDS]);
    block.finish(output)
}

/// Writes a packet.
pub(super) fn packet(output: &mut impl Write, packet: Packet<'_>) -> io::Result<()> {
    let Packet {
        interface,
        time,
        bytes,
        original_length,
        comment,
    } = packet;
    let mut block = Block::new(ENHANCED_PACKET);
    block.u32(interface);
    // The upper half comes first, whatever the byte order.
    block.bytes(&time.to_le_bytes()[4..]);
    block.bytes(&time.to_le_bytes()[..4]);
    block.u32(u32::try_from(bytes.len()).map_err(io::Error::other)?);
    block.u32(original_length);
    block.bytes(bytes);
    block.pad();
    block.text(COMMENT, comment);
    block.finish(output)
}

/// A block that is being put together, without its lengths.
#[derive(Debug)]
struct Block {
    kind: u32,
    body: Vec<u8>,
}

impl Block {
    /// Its kind, and its length at either end.
    const FRAME: usize = 12;

    fn new(kind: u32) -> Self {
        Self {
            kind,
            body: Vec::new(),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    fn u16(&mut self, number: u16) {
        self.bytes(&number.to_le_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    fn pad(&mut self) {
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        // Nothing that is passed here comes near the limit.
        let Ok(length) = u16::try_from(value.len()) else {
            return;
        };
        self.u16(code);
        self.u16(length);
        self.bytes(value);
        self.pad();
    }

    fn text(&mut self, code: u16, text: &str) {
        let end = text.floor_char_boundary(MAX_TEXT);
        self.option(code, &text.as_bytes()[..end]);
    }

    /// Ends the options and the block.
    fn finish(mut self, output: &mut impl Write) -> io::Result<()> {
        self.u16(END_OF_OPTIONS);
        self.u16(0);
        let length = u32::try_from(self.body.len() + Self::FRAME).map_err(io::Error::other)?;
        let Self { kind, body } = self;
        let mut whole = Vec::with_capacity(body.len() + Self::FRAME);
        whole.extend(kind.to_le_bytes());
        whole.extend(length.to_le_bytes());
        whole.extend(body);
        whole.extend(length.to_le_bytes());
        // In one piece: whoever reads the file while it grows sees whole blocks.
        output.write_all(&whole)
    }
}
