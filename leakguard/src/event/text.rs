//! An event as one line for people.

use std::fmt;

use leakguard_common::abi::Hook;

use super::parts::{Parts, push_number};
use super::{Attribution, Client, Container, Entry, Event, Process};
use crate::error::escape_control;

/// The time of day to the millisecond: the date is the reader's.
pub(super) fn clock(time: &str) -> &str {
    time.get(11..23).unwrap_or(time)
}

/// An id as the runtimes print it.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// What people know it by: its pod's name, or its runtime's.
fn push_container(text: &mut String, container: &Container) {
    let Container {
        id,
        runtime,
        name,
        pod: _,
        pod_name,
        pod_namespace,
    } = container;
    let Some(pod) = pod_name else {
        let runtime = runtime.as_deref().unwrap_or("container");
        push_all(text, &[runtime, " "]);
        push_escaped(text, short(id));
        return;
    };
    text.push_str("pod ");
    for (part, behind) in [(pod_namespace.as_ref(), "/"), (Some(pod), "")] {
        if let Some(part) = part {
            push_escaped(text, part);
            text.push_str(behind);
        }
    }
    if let Some(name) = name {
        text.push_str(" container ");
        push_escaped(text, name);
    }
}

impl Container {
    /// What people know it by: `pod web/shop-7d4 container app`, or `docker 0123456789ab`.
    pub fn called(&self) -> String {
        let mut text = String::new();
        push_container(&mut text, self);
        text
    }
}

impl Event {
    /// Whether it is a call that names a destination, and no packet.
    pub fn is_call(&self) -> bool {
        self.hook == Hook::SockAddr.name()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet(event) => event.fmt(formatter),
            Self::Suppressed(suppressed) => suppressed.fmt(formatter),
            Self::Notice(notice) => notice.fmt(formatter),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.parts().write_text(&mut text);
        formatter.write_str(&text)
    }
}

impl Parts<'_> {
    /// Appends the line. A flood is written by this: no formatting, nothing made for a part of it.
    pub(super) fn write_text(&self, text: &mut String) {
        let Self {
            time,
            verdict,
            reason,
            protocol,
            source,
            destination,
            ..
        } = *self;
        push_all(text, &[clock(time), " ", verdict, " ", reason, " "]);
        if let Some(option) = self.option {
            text.push_str(option);
        } else if let Some(target) = self.redirected_to {
            push_all(text, &[protocol, " ", destination, " to ", target]);
        } else if self.hook == Hook::SockAddr.name() {
            push_all(text, &[protocol, " call to ", destination]);
        } else {
            if let Some(name) = self.interface {
                push_escaped(text, name);
            } else {
                text.push('#');
                push_number(text, self.ifindex.into());
            }
            push_all(text, &[" ", protocol, " ", source, " > ", destination]);
        }
        if let Some(encapsulation) = self.encapsulation {
            text.push_str(" in ");
            push_escaped(text, encapsulation);
        }
        if let Some((name, kind)) = self.query {
            push_all(text, &[" ", kind, " "]);
            push_escaped(text, name);
        }
        if let Some(process) = self.process {
            push_process(text, process);
        }
        if let Some(container) = self.container {
            text.push_str(" in ");
            push_container(text, container);
        }
        if let Some(Client { process, .. }) = self.client {
            text.push_str(" probably for ");
            push_named(text, process);
        }
        if self.suppressed > 0 {
            text.push_str(", and ");
            push_number(text, self.suppressed);
            text.push_str(" more before");
        }
    }
}

fn push_process(text: &mut String, process: &Process) {
    if process.attribution == Some(Attribution::Inferred) {
        text.push_str(" probably");
    }
    text.push_str(" by ");
    if process.pid.is_some() {
        push_named(text, process);
    } else {
        text.push_str("a socket");
    }
    if let Some(user) = &process.user {
        push_all(text, &[" of ", user]);
    } else {
        text.push_str(" of uid ");
        push_number(text, process.uid.into());
    }
}

/// Appends the name of a process, and its number where that is known.
fn push_named(text: &mut String, process: &Process) {
    push_escaped(text, process.name.as_deref().unwrap_or("?"));
    if let Some(pid) = process.pid {
        text.push('[');
        push_number(text, pid.into());
        text.push(']');
    }
}

fn push_all(text: &mut String, parts: &[&str]) {
    for part in parts {
        text.push_str(part);
    }
}

fn push_escaped(text: &mut String, part: &str) {
    if part.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        text.push_str(part);
    } else {
        text.push_str(&escape_control(part));
    }
}

#[cfg(test)]
mod tests {
    use crate::event::{
        Attribution, Client, Container, Entry, Event, InterfaceRef, Process, example, process,
    };

    #[test]
    fn a_line_names_what_matters() {
        let event = Event {
            process: process("dig\n"),
            ..example()
        };
        assert_eq!(
            event.to_string(),
            "10:00:00.123 drop dns eth0 udp 192.0.2.10:40112 > 8.8.8.8:53 A example.com. by dig\\n[4242] of alice"
        );
        let joined = Event {
            process: event.process.clone().map(|process| Process {
                attribution: Some(Attribution::Inferred),
                ..process
            }),
            container: Some(Container {
                id: "4c01db0b339c8b1d".into(),
                runtime: Some("podman".into()),
                name: None,
                pod: None,
                pod_name: None,
                pod_namespace: None,
            }),
            client: Some(Client {
                process: Process {
                    pid: Some(7),
                    name: Some("curl".into()),
                    exe: None,
                    cmdline: None,
                    uid: 0,
                    user: None,
                    attribution: Some(Attribution::Inferred),
                },
                cgroup: None,
                unit: None,
                container: None,
            }),
            suppressed: 3,
            ..event.clone()
        };
        assert_eq!(
            joined.to_string(),
            "10:00:00.123 drop dns eth0 udp 192.0.2.10:40112 > 8.8.8.8:53 A example.com. probably by dig\\n[4242] of \
             alice in podman 4c01db0b339c probably for curl[7], and 3 more before"
        );
        let unnamed = Event {
            interface: InterfaceRef {
                name: None,
                ..event.interface.clone()
            },
            encapsulation: Some("gre".into()),
            query: None,
            process: event.process.clone().map(|process| Process {
                pid: None,
                user: None,
                ..process
            }),
            ..event.clone()
        };
        assert_eq!(
            unnamed.to_string(),
            "10:00:00.123 drop dns #2 udp 192.0.2.10:40112 > 8.8.8.8:53 in gre by a socket of uid 1000"
        );
        let call = Event {
            hook: "sock_addr".into(),
            query: None,
            process: None,
            ..event.clone()
        };
        assert_eq!(
            call.to_string(),
            "10:00:00.123 drop dns udp call to 8.8.8.8:53"
        );
        let redirected = Event {
            redirected_to: Some("127.0.0.1:53".into()),
            ..call
        };
        assert_eq!(
            redirected.to_string(),
            "10:00:00.123 drop dns udp 8.8.8.8:53 to 127.0.0.1:53"
        );
        let option = Event {
            option: Some("PACKET_QDISC_BYPASS".into()),
            reason: "raw_bypass".into(),
            query: None,
            ..event.clone()
        };
        assert_eq!(
            option.to_string(),
            "10:00:00.123 drop raw_bypass PACKET_QDISC_BYPASS by dig\\n[4242] of alice"
        );
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["kind"], "packet");
        let entry: Entry = serde_json::from_value(json).unwrap();
        assert_eq!(entry, Entry::Packet(Box::new(event)));
    }
}
