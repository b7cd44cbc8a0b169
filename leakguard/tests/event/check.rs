//! What holds of every event that a packet's bytes become.

use std::mem::offset_of;

use leakguard::event::{Decoder, Entry, Event, Query};
use leakguard::guard::Interfaces;
use leakguard_common::abi::{EVENT_BYTES, Event as Record, Family, Hook, Reason, Role, Verdict};

use crate::name::{self, HEAD};

/// Decodes a record whose packet has these bytes; says what is wrong, or what became of it.
///
/// The first bytes are the protocol, the family, the verdict, the reason, the hook and the role.
pub(crate) fn check(input: &[u8]) -> Result<Option<Event>, String> {
    let Some((head, packet)) = input.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let [_, family, verdict, reason, hook, role] = *head;
    let is_valid = Family::from_wire(family).is_some()
        && Verdict::from_wire(verdict).is_some()
        && Reason::from_wire(reason).is_some()
        && Hook::from_wire(hook).is_some()
        && Role::from_wire(role).is_some();
    let packet = packet.get(..EVENT_BYTES).unwrap_or(packet);
    let decoded = Decoder::default().decode(&record(*head, packet), &Interfaces::new());
    let event = match decoded {
        Ok(event) if is_valid => event,
        Err(_) if !is_valid => return Ok(None),
        other => return Err(format!("{head:?}: {other:?}")),
    };

    let json = serde_json::to_string(&event).map_err(|error| error.to_string())?;
    let read = serde_json::from_str::<Entry>(&json).map_err(|error| format!("{error}: {json}"))?;
    if read != Entry::Packet(Box::new(event.clone())) {
        return Err(format!("{event:?} is read as {read:?}"));
    }
    let line = event.to_string();
    if line.chars().any(is_harmful) {
        return Err(format!("{line:?}"));
    }
    if let Some(Query { name, kind }) = &event.query {
        name::check(name, kind)?;
    }
    Ok(Some(event))
}

/// Whether a character does something else to a terminal's line than to stand in it: control characters, and what
/// changes the direction of writing.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A record of no sender in particular: who is asked for in /proc is not the packet's doing.
fn record([protocol, family, verdict, reason, hook, role]: [u8; HEAD], packet: &[u8]) -> Vec<u8> {
    let mut record = vec![0; size_of::<Record>()];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    put(offset_of!(Record, uid), &Record::NO_UID.to_ne_bytes());
    put(offset_of!(Record, bytes_len), &length.to_ne_bytes());
    put(offset_of!(Record, protocol), &[protocol]);
    put(offset_of!(Record, family), &[family]);
    put(offset_of!(Record, verdict), &[verdict]);
    put(offset_of!(Record, reason), &[reason]);
    put(offset_of!(Record, hook), &[hook]);
    put(offset_of!(Record, role), &[role]);
    put(offset_of!(Record, bytes), packet);
    record
}
