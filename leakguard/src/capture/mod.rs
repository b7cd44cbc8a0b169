//! Events as a capture that Wireshark and its like read: pcapng, with a comment on each packet that names its sender.
//!
//! The kernel copies a packet from its transport header on; the event knows the addresses. So the IP header is made
//! anew, and the capture says so.

mod comment;
mod packet;
mod pcapng;

use std::io::{self, Write};

use jiff::Timestamp;

use crate::event::{Event, InterfaceRef};
use packet::{Rebuilt, rebuild};

const REBUILT: &str = "Packets that leakguard judged. What the kernel copied begins with the transport header and is cut \
                       after 336 bytes; the IP header before it was rebuilt from the event: its addresses, protocol and \
                       length are true, the rest (TTL, identification, options, extension headers) is not.";

/// A capture that is being written; every packet is in the file once it was added and flushed.
#[derive(Debug)]
pub struct Capture<W> {
    output: W,
    /// Those that have a block, in the order of the blocks.
    interfaces: Vec<InterfaceRef>,
    packets: u64,
    without: u64,
}

impl<W: Write> Capture<W> {
    /// Begins a capture.
    pub fn new(mut output: W) -> io::Result<Self> {
        let application = concat!("leakguard ", env!("CARGO_PKG_VERSION"));
        pcapng::section(&mut output, application, REBUILT)?;
        output.flush()?;
        Ok(Self {
            output,
            interfaces: Vec::new(),
            packets: 0,
            without: 0,
        })
    }

    /// Adds the packet of an event, if it has one.
    pub fn add(&mut self, event: &Event, copied: &[u8]) -> io::Result<()> {
        let time = event
            .time
            .parse::<Timestamp>()
            .ok()
            .and_then(|time| u64::try_from(time.as_nanosecond()).ok());
        let (
            Some(time),
            Some(Rebuilt {
                bytes,
                original_length,
            }),
        ) = (time, rebuild(event, copied))
        else {
            self.skip();
            return Ok(());
        };
        let interface = self.interface(&event.interface)?;
        pcapng::packet(
            &mut self.output,
            pcapng::Packet {
                interface,
                time,
                bytes: &bytes,
                original_length,
                comment: &comment::comment(event),
            },
        )?;
        self.packets += 1;
        Ok(())
    }

    /// Counts an event that is no packet.
    pub fn skip(&mut self) {
        self.without += 1;
    }

    /// Makes what was added visible to whoever reads the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// How many packets were added.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// How many events had no packet: notices, refused socket options.
    pub fn without(&self) -> u64 {
        self.without
    }

    /// The number of an interface, which gets its block when its first packet comes.
    fn interface(&mut self, interface: &InterfaceRef) -> io::Result<u32> {
        let known = self.interfaces.iter().position(|known| known == interface);
        let index = if let Some(index) = known {
            index
        } else {
            let InterfaceRef { index, name, role } = interface;
            let name = name.clone().unwrap_or_else(|| format!("#{index}"));
            pcapng::interface(
                &mut self.output,
                &name,
                &format!("role {role}, number {index}"),
            )?;
            self.interfaces.push(interface.clone());
            self.interfaces.len() - 1
        };
        u32::try_from(index).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests;
