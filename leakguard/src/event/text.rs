//! An event as one line for people.

use std::fmt;

use leakguard_common::abi::Hook;

use super::parts::Parts;
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
        self.parts().fmt(formatter)
    }
}

impl fmt::Display for Parts<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            time,
            verdict,
            reason,
            ifindex,
            interface,
            protocol,
            source,
            destination,
            encapsulation,
            ..
        } = self;
        let clock = clock(time);
        let number;
        let name = if let Some(name) = interface {
            *name
        } else {
            number = format!("#{ifindex}");
            &number
        };
        if let Some(option) = &self.option {
            write!(formatter, "{clock} {verdict} {reason} {option}")?;
        } else if let Some(target) = &self.redirected_to {
            write!(
                formatter,
                "{clock} {verdict} {reason} {protocol} {destination} to {target}"
            )?;
        } else if self.hook == Hook::SockAddr.name() {
            write!(
                formatter,
                "{clock} {verdict} {reason} {protocol} call to {destination}"
            )?;
        } else {
            write!(
                formatter,
                "{clock} {verdict} {reason} {} {protocol} {source} > {destination}",
                escape_control(name)
            )?;
        }
        if let Some(encapsulation) = encapsulation {
            write!(formatter, " in {}", escape_control(encapsulation))?;
        }
        if let Some((name, kind)) = self.query {
            write!(formatter, " {kind} {}", escape_control(name))?;
        }
        if let Some(Process {
            pid,
            name,
            uid,
            user,
            attribution,
            ..
        }) = self.process
        {
            if *attribution == Some(Attribution::Inferred) {
                formatter.write_str(" probably")?;
            }
            let name = escape_control(name.as_deref().unwrap_or("?"));
            match pid {
                Some(pid) => write!(formatter, " by {name}[{pid}]")?,
                None => write!(formatter, " by a socket")?,
            }
            match user {
                Some(user) => write!(formatter, " of {user}")?,
                None => write!(formatter, " of uid {uid}")?,
            }
        }
        if let Some(Container { id, runtime, .. }) = self.container {
            let runtime = runtime.as_deref().unwrap_or("container");
            write!(formatter, " in {runtime} {}", escape_control(short(id)))?;
        }
        if let Some(Client { process, .. }) = self.client {
            let name = escape_control(process.name.as_deref().unwrap_or("?"));
            write!(formatter, " probably for {name}")?;
            if let Some(pid) = process.pid {
                write!(formatter, "[{pid}]")?;
            }
        }
        if self.suppressed > 0 {
            write!(formatter, ", and {} more before", self.suppressed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::event::{Attribution, Client, Container, Entry, Event, Process, example, process};

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
                pod: None,
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
