//! Packets out of a pcap or pcapng file, one after the other.

use std::fs::File;
use std::io::{self, Cursor, Read as _};
use std::path::{Path, PathBuf};

use pcap_parser::traits::{PcapNGPacketBlock as _, PcapReaderIterator};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

use super::frame::LinkType;

/// What a pipe has to give before the form of the file is looked at; also the reader's first buffer.
const HEAD: usize = 16 << 10;

/// The longest block that is read: longer than any packet can be.
const LONGEST: usize = 16 << 20;

/// Why a capture could not be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// There is no such file, or it may not be read.
    #[error("cannot read {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error(
        "{} is neither pcap nor pcapng; record one with `tcpdump -w FILE`, or convert it with `editcap`",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It ends in the middle of something, or what comes next makes no sense.
    #[error(
        "{} {what} after packet {after}; record it anew, or mend it with `pcapfix`",
        path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
        /// How many packets came before.
        after: u64,
    },
    /// Its packets start in a way that is not known.
    #[error(
        "packet {packet} of {} is of link type {link_type}, of which leakguard knows nothing; record on an Ethernet, \
         IP or PPP interface, or on all with `tcpdump -i any`",
        path.display()
    )]
    LinkType {
        /// The file.
        path: PathBuf,
        /// The packet.
        packet: u64,
        /// Its `LINKTYPE_` number.
        link_type: i32,
    },
}

/// One packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Its place in the file, from 1 on.
    pub number: u64,
    /// What it starts with.
    pub link: LinkType,
    /// What was captured of it.
    pub bytes: Vec<u8>,
    /// How long it was.
    pub length: u32,
}

/// A capture that is being read.
pub struct Capture {
    path: PathBuf,
    reader: Box<dyn PcapReaderIterator + Send>,
    room: usize,
    /// The link type of each interface of the section; a pcap file has one.
    links: Vec<Linktype>,
    /// How many packets have been read.
    packets: u64,
}

/// What a block of the file comes to.
enum Found {
    Nothing,
    Packet {
        interface: usize,
        bytes: Vec<u8>,
        length: u32,
    },
}

impl Capture {
    /// Opens a file and looks at its form.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        match File::open(path) {
            Ok(file) => Self::of(path, file),
            Err(source) => Err(CaptureError::Open {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn of(path: &Path, mut file: impl io::Read + Send + 'static) -> Result<Self, CaptureError> {
        let mut head = Vec::new();
        file.by_ref()
            .take(HEAD as u64)
            .read_to_end(&mut head)
            .map_err(|source| CaptureError::Open {
                path: path.to_owned(),
                source,
            })?;
        // The reader judges by what its first read brings, which a pipe may cut anywhere.
        let reader = create_reader(HEAD, Cursor::new(head).chain(file)).map_err(|_unknown| {
            CaptureError::Foreign {
                path: path.to_owned(),
            }
        })?;
        Ok(Self {
            path: path.to_owned(),
            reader,
            room: HEAD,
            links: Vec::new(),
            packets: 0,
        })
    }

    /// Reads the next packet; `None` at the end of the file.
    pub fn next_packet(&mut self) -> Result<Option<Captured>, CaptureError> {
        loop {
            let (length, found) = match self.reader.next() {
                Ok((length, block)) => (length, note(&block, &mut self.links)),
                Err(PcapError::Eof) => return Ok(None),
                Err(PcapError::Incomplete(_)) => {
                    self.refill()?;
                    continue;
                }
                Err(PcapError::BufferTooSmall) => {
                    self.grow()?;
                    continue;
                }
                Err(PcapError::UnexpectedEof) => return Err(self.broken("is cut off")),
                Err(_) => return Err(self.broken("is damaged")),
            };
            self.reader.consume(length);
            if length == 0 {
                return Err(self.broken("is damaged"));
            }
            let Found::Packet {
                interface,
                bytes,
                length,
            } = found
            else {
                continue;
            };
            let Some(&link_type) = self.links.get(interface) else {
                return Err(self.broken("names an interface that it does not describe"));
            };
            self.packets += 1;
            let Some(link) = LinkType::of(link_type.0) else {
                return Err(CaptureError::LinkType {
                    path: self.path.clone(),
                    packet: self.packets,
                    link_type: link_type.0,
                });
            };
            return Ok(Some(Captured {
                number: self.packets,
                link,
                bytes,
                length,
            }));
        }
    }

    fn refill(&mut self) -> Result<(), CaptureError> {
        let before = self.reader.data().len();
        if self.reader.refill().is_err() {
            return Err(self.broken("cannot be read further"));
        }
        if self.reader.data().len() == before && !self.reader.reader_exhausted() {
            // There was no room for more.
            self.grow()?;
        }
        Ok(())
    }

    fn grow(&mut self) -> Result<(), CaptureError> {
        self.room *= 2;
        if self.room > LONGEST || !self.reader.grow(self.room) {
            return Err(self.broken("has a block longer than any packet"));
        }
        if self.reader.refill().is_err() {
            return Err(self.broken("cannot be read further"));
        }
        Ok(())
    }

    fn broken(&self, what: &'static str) -> CaptureError {
        CaptureError::Broken {
            path: self.path.clone(),
            what,
            after: self.packets,
        }
    }
}

/// Takes a block's packet, or notes what it says of those that come.
fn note(block: &PcapBlockOwned<'_>, links: &mut Vec<Linktype>) -> Found {
    /// The rest of the field says something of frame check sequences (`pcap-savefile(5)`).
    const LINK_TYPE: i32 = 0xffff;

    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            *links = vec![Linktype(header.network.0 & LINK_TYPE)];
            Found::Nothing
        }
        PcapBlockOwned::Legacy(packet) => Found::Packet {
            interface: 0,
            bytes: packet.data.to_vec(),
            length: packet.origlen,
        },
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            links.clear();
            Found::Nothing
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            links.push(interface.linktype);
            Found::Nothing
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => Found::Packet {
            interface: usize::try_from(packet.if_id).unwrap_or(usize::MAX),
            bytes: packet.packet_data().to_vec(),
            length: packet.origlen,
        },
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => Found::Packet {
            interface: 0,
            bytes: packet.packet_data().to_vec(),
            length: packet.origlen,
        },
        PcapBlockOwned::NG(_) => Found::Nothing,
    }
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
