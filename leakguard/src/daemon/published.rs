//! An event as it is handed out.

use std::borrow::Cow;
use std::sync::OnceLock;

use crate::event::{Entry, Judged, Notice, Suppressed};

/// One event: each form of it is made by whoever needs it.
#[derive(Debug)]
pub struct Published {
    seq: u64,
    told: Told,
    json: OnceLock<Box<str>>,
}

#[derive(Debug)]
enum Told {
    Packet(Judged),
    Other(Entry),
}

impl Published {
    /// Of a packet.
    pub(crate) fn packet(judged: Judged) -> Self {
        Self {
            seq: judged.seq(),
            told: Told::Packet(judged),
            json: OnceLock::new(),
        }
    }

    /// Of what the agent itself has to tell.
    pub(crate) fn notice(notice: Notice) -> Self {
        Self {
            seq: notice.seq,
            told: Told::Other(Entry::Notice(notice)),
            json: OnceLock::new(),
        }
    }

    /// Of packets without an event of their own.
    pub(super) fn suppressed(rest: Suppressed) -> Self {
        Self {
            seq: rest.seq,
            told: Told::Other(Entry::Suppressed(Box::new(rest))),
            json: OnceLock::new(),
        }
    }

    /// Its number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether it is a notice, and not of packets.
    pub fn is_notice(&self) -> bool {
        matches!(self.told, Told::Other(Entry::Notice(_)))
    }

    /// The event.
    pub fn entry(&self) -> Cow<'_, Entry> {
        match &self.told {
            Told::Packet(judged) => Cow::Owned(Entry::Packet(Box::new(judged.event()))),
            Told::Other(entry) => Cow::Borrowed(entry),
        }
    }

    /// The event as a JSON object, without a newline; kept for others who need it.
    pub fn json(&self) -> &str {
        self.json.get_or_init(|| {
            let mut json = String::new();
            self.render_json(&mut json);
            json.into()
        })
    }

    /// Appends the same.
    pub fn write_json(&self, json: &mut String) {
        match self.json.get() {
            Some(kept) => json.push_str(kept),
            None => self.render_json(json),
        }
    }

    fn render_json(&self, json: &mut String) {
        match &self.told {
            Told::Packet(judged) => judged.write_json(json),
            // Strings and numbers are written whatever they are.
            Told::Other(entry) => {
                json.push_str(&serde_json::to_string(entry).unwrap_or_default());
            }
        }
    }

    /// Appends the event's line for people, without a newline.
    pub(super) fn write_text(&self, text: &mut String) {
        match &self.told {
            Told::Packet(judged) => judged.write_text(text),
            Told::Other(entry) => text.push_str(&entry.to_string()),
        }
    }

    /// What the kernel copied of the packet, from its transport header on; empty for what is no packet.
    pub fn copied(&self) -> &[u8] {
        match &self.told {
            Told::Packet(judged) => judged.copied(),
            Told::Other(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::judged;

    #[test]
    fn all_forms_of_a_packet_say_the_same() {
        let published = Published::packet(judged());
        let entry = published.entry().into_owned();
        let json = serde_json::to_string(&entry).unwrap();
        let mut written = String::new();
        published.write_json(&mut written);
        assert_eq!(written, json);
        assert_eq!(published.json(), json);
        published.write_json(&mut written);
        assert_eq!(written, json.repeat(2));
        let mut text = String::new();
        published.write_text(&mut text);
        assert_eq!(text, entry.to_string());
    }
}
