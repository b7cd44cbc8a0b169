//! What an event says, whoever holds it: its forms, for people and for programs, are made from this.

use super::{Client, Container, Event, InterfaceRef, Process, Query, VERSION};

/// The parts of one event, borrowed.
pub(super) struct Parts<'a> {
    pub(super) seq: u64,
    pub(super) time: &'a str,
    pub(super) verdict: &'a str,
    pub(super) reason: &'a str,
    pub(super) hook: &'a str,
    pub(super) ifindex: u32,
    pub(super) interface: Option<&'a str>,
    pub(super) role: &'a str,
    pub(super) netns: &'a str,
    pub(super) family: &'a str,
    pub(super) protocol: &'a str,
    pub(super) source: &'a str,
    pub(super) destination: &'a str,
    pub(super) encapsulation: Option<&'a str>,
    pub(super) length: u32,
    /// Name and type.
    pub(super) query: Option<(&'a str, &'a str)>,
    pub(super) redirected_to: Option<&'a str>,
    pub(super) option: Option<&'a str>,
    pub(super) packets: u32,
    pub(super) process: Option<&'a Process>,
    pub(super) cgroup: Option<&'a str>,
    pub(super) unit: Option<&'a str>,
    pub(super) container: Option<&'a Container>,
    pub(super) client: Option<&'a Client>,
    pub(super) suppressed: u64,
}

impl Parts<'_> {
    /// The event that says this.
    pub(super) fn to_event(&self) -> Event {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let Self {
            seq,
            time,
            verdict,
            reason,
            hook,
            ifindex,
            interface,
            role,
            netns,
            family,
            protocol,
            source,
            destination,
            encapsulation,
            length,
            query,
            redirected_to,
            option,
            packets,
            process,
            cgroup,
            unit,
            container,
            client,
            suppressed,
        } = *self;
        Event {
            v: VERSION,
            seq,
            time: time.into(),
            kind: super::PacketKind::Packet,
            verdict: verdict.into(),
            reason: reason.into(),
            hook: hook.into(),
            interface: InterfaceRef {
                index: ifindex,
                name: owned(interface),
                role: role.into(),
            },
            netns: netns.into(),
            family: family.into(),
            protocol: protocol.into(),
            source: source.into(),
            destination: destination.into(),
            encapsulation: owned(encapsulation),
            length,
            query: query.map(|(name, kind)| Query {
                name: name.into(),
                kind: kind.into(),
            }),
            redirected_to: owned(redirected_to),
            option: owned(option),
            packets,
            process: process.cloned(),
            cgroup: owned(cgroup),
            unit: owned(unit),
            container: container.cloned(),
            client: client.cloned(),
            suppressed,
        }
    }

    /// Appends the event's JSON object; `sender` are the members that tell of its sender.
    ///
    /// It is what serde makes of the [`Event`], to the byte. A flood is written by this, which takes a fifth of the time.
    pub(super) fn write_json(&self, sender: &str, json: &mut String) {
        json.push_str("{\"v\":");
        push_number(json, VERSION.into());
        json.push_str(",\"seq\":");
        push_number(json, self.seq);
        member(json, "time", self.time);
        json.push_str(",\"kind\":\"packet\"");
        member(json, "verdict", self.verdict);
        member(json, "reason", self.reason);
        member(json, "hook", self.hook);
        json.push_str(",\"interface\":{\"index\":");
        push_number(json, self.ifindex.into());
        optional(json, "name", self.interface);
        member(json, "role", self.role);
        json.push('}');
        member(json, "netns", self.netns);
        member(json, "family", self.family);
        member(json, "protocol", self.protocol);
        member(json, "source", self.source);
        member(json, "destination", self.destination);
        optional(json, "encapsulation", self.encapsulation);
        json.push_str(",\"length\":");
        push_number(json, self.length.into());
        match self.query {
            Some((name, kind)) => {
                json.push_str(",\"query\":{\"name\":");
                push_string(json, name);
                member(json, "type", kind);
                json.push('}');
            }
            None => json.push_str(",\"query\":null"),
        }
        optional(json, "redirected_to", self.redirected_to);
        optional(json, "option", self.option);
        json.push_str(",\"packets\":");
        push_number(json, self.packets.into());
        json.push(',');
        json.push_str(sender);
        json.push_str(",\"client\":");
        match self.client.map(serde_json::to_string) {
            Some(Ok(client)) => json.push_str(&client),
            _ => json.push_str("null"),
        }
        json.push_str(",\"suppressed\":");
        push_number(json, self.suppressed);
        json.push('}');
    }
}

impl Event {
    pub(super) fn parts(&self) -> Parts<'_> {
        Parts {
            seq: self.seq,
            time: &self.time,
            verdict: &self.verdict,
            reason: &self.reason,
            hook: &self.hook,
            ifindex: self.interface.index,
            interface: self.interface.name.as_deref(),
            role: &self.interface.role,
            netns: &self.netns,
            family: &self.family,
            protocol: &self.protocol,
            source: &self.source,
            destination: &self.destination,
            encapsulation: self.encapsulation.as_deref(),
            length: self.length,
            query: self
                .query
                .as_ref()
                .map(|query| (query.name.as_str(), query.kind.as_str())),
            redirected_to: self.redirected_to.as_deref(),
            option: self.option.as_deref(),
            packets: self.packets,
            process: self.process.as_ref(),
            cgroup: self.cgroup.as_deref(),
            unit: self.unit.as_deref(),
            container: self.container.as_ref(),
            client: self.client.as_ref(),
            suppressed: self.suppressed,
        }
    }
}

/// A further member, whose value is a string.
fn member(json: &mut String, name: &str, value: &str) {
    json.push_str(",\"");
    json.push_str(name);
    json.push_str("\":");
    push_string(json, value);
}

fn optional(json: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        member(json, name, value);
    } else {
        json.push_str(",\"");
        json.push_str(name);
        json.push_str("\":null");
    }
}

fn push_string(json: &mut String, text: &str) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        // A string is written whatever is in it.
        json.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

/// Appends a number in decimal digits.
pub(super) fn push_number(text: &mut String, number: u64) {
    // 2^64 has 20.
    let mut digits = [0; 20];
    let mut rest = number;
    let mut at = digits.len();
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        }
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let digits = digits.get(at..).unwrap_or_default();
    text.push_str(str::from_utf8(digits).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::attribution::Sender;
    use crate::event::{Attribution, example};

    fn written(event: &Event) -> String {
        let sender = Sender::of(event);
        let mut json = String::new();
        event.parts().write_json(sender.members(), &mut json);
        json
    }

    #[test]
    fn the_json_is_what_serde_makes_of_the_event() {
        let plain = example();
        let client = Client {
            process: plain.process.clone().unwrap(),
            cgroup: Some("/a \"b\"".into()),
            unit: None,
            container: None,
        };
        let full = Event {
            seq: u64::MAX,
            interface: InterfaceRef {
                index: u32::MAX,
                name: Some("e\"t\\h\n\u{7f}ü".into()),
                role: "tunnel".into(),
            },
            encapsulation: Some("gre".into()),
            length: 0,
            query: Some(Query {
                name: "a\\.b.\\377.".into(),
                kind: "TYPE65280".into(),
            }),
            redirected_to: Some("[::1]:53".into()),
            option: Some("283:77".into()),
            process: plain.process.clone().map(|process| Process {
                cmdline: Some(vec!["dig".into(), "{\"}".into(), "\u{1}".into()]),
                attribution: Some(Attribution::Inferred),
                ..process
            }),
            cgroup: Some("/system.slice/x".into()),
            unit: Some("x.service".into()),
            container: Some(Container {
                id: "1".into(),
                runtime: None,
                name: Some("c".into()),
                pod: Some("p".into()),
                pod_name: Some("n".into()),
                pod_namespace: Some("s".into()),
            }),
            client: Some(client),
            packets: 1_000_000,
            suppressed: 10,
            ..plain.clone()
        };
        let nobody = Event {
            query: None,
            process: None,
            interface: InterfaceRef {
                name: None,
                ..plain.interface.clone()
            },
            ..plain.clone()
        };
        for event in [plain, full, nobody] {
            assert_eq!(written(&event), serde_json::to_string(&event).unwrap());
            assert_eq!(event.parts().to_event(), event);
        }
    }
}
