//! Events in the journal, with a field for each of their parts.

use std::io;
use std::sync::Arc;

use log::{Level, Record};
use systemd_journal_logger::JournalLog;

use super::sink::{Sink, Written};
use super::{Output, OutputError, is_warning};
use crate::daemon::Published;
use crate::event::{
    Client, Container, Entry, Event, InterfaceRef, Notice, Process, Query, Suppressed,
};

/// What a packet's record is known by, for `journalctl MESSAGE_ID=…`.
const PACKET_ID: &str = "ad7615f62e444880b7a501b68aabc222";
/// What a notice's record is known by.
const NOTICE_ID: &str = "46f78c07df2441ecbb5c9d6069b6eb0e";

/// The journal; absent until it has answered once.
pub(super) struct Journal {
    connected: Option<JournalLog>,
}

impl Journal {
    /// It is looked for with the first event.
    pub(super) fn new() -> Self {
        Self { connected: None }
    }

    fn send(&mut self, event: &Published) -> io::Result<()> {
        let journal = match self.connected.take() {
            Some(journal) => journal,
            None => JournalLog::empty()?.with_syslog_identifier("leakguard".to_owned()),
        };
        let journal = self.connected.insert(journal);
        let entry = event.entry();
        let (message, fields) = describe(&entry);
        let level = if is_warning(&entry) {
            Level::Warn
        } else {
            Level::Info
        };
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        journal.journal_send(
            &Record::builder()
                .args(format_args!("{message}"))
                .level(level)
                .target("leakguard::events")
                .key_values(&fields.as_slice())
                .build(),
        )
    }
}

impl Sink for Journal {
    const OUTPUT: Output = Output::Journald;

    fn target(&self) -> String {
        "/run/systemd/journal/socket".to_owned()
    }

    async fn write(&mut self, events: &[Arc<Published>]) -> Written {
        for (sent, event) in events.iter().enumerate() {
            if let Err(error) = self.send(event) {
                return Written {
                    events: sent,
                    error: Some(OutputError::Journal(error)),
                };
            }
        }
        Written {
            events: events.len(),
            error: None,
        }
    }
}

type Fields = Vec<(&'static str, String)>;

/// The message for people, and the fields.
fn describe(entry: &Entry) -> (String, Fields) {
    let mut fields = Fields::new();
    let text = entry.to_string();
    // The journal has a time of its own.
    let message = text.split_once(' ').map_or("", |(_clock, rest)| rest);
    match entry {
        Entry::Packet(event) => {
            fields.push(("MESSAGE_ID", PACKET_ID.to_owned()));
            packet(event, &mut fields);
        }
        Entry::Suppressed(rest) => {
            fields.push(("MESSAGE_ID", PACKET_ID.to_owned()));
            suppressed(rest, &mut fields);
        }
        Entry::Notice(notice) => {
            let Notice {
                v: _,
                seq,
                time,
                kind,
                part,
                subject,
                message: _,
            } = notice;
            fields.extend([
                ("MESSAGE_ID", NOTICE_ID.to_owned()),
                ("LEAKGUARD_SEQ", seq.to_string()),
                ("LEAKGUARD_TIME", time.clone()),
                ("LEAKGUARD_KIND", kind.name().to_owned()),
                ("LEAKGUARD_PART", part.clone()),
                ("LEAKGUARD_SUBJECT", subject.clone()),
            ]);
        }
    }
    (message.to_owned(), fields)
}

fn packet(event: &Event, fields: &mut Fields) {
    let Event {
        v: _,
        seq,
        time,
        kind: _,
        verdict,
        reason,
        hook,
        interface: InterfaceRef { index, name, role },
        netns: _,
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
    } = event;
    fields.extend([
        ("LEAKGUARD_SEQ", seq.to_string()),
        ("LEAKGUARD_TIME", time.clone()),
        ("LEAKGUARD_KIND", "packet".to_owned()),
        ("LEAKGUARD_VERDICT", verdict.clone()),
        ("LEAKGUARD_REASON", reason.clone()),
        ("LEAKGUARD_HOOK", hook.clone()),
        (
            "LEAKGUARD_INTERFACE",
            name.clone().unwrap_or_else(|| format!("#{index}")),
        ),
        ("LEAKGUARD_INTERFACE_INDEX", index.to_string()),
        ("LEAKGUARD_INTERFACE_ROLE", role.clone()),
        ("LEAKGUARD_FAMILY", family.clone()),
        ("LEAKGUARD_PROTOCOL", protocol.clone()),
        ("LEAKGUARD_SOURCE", source.clone()),
        ("LEAKGUARD_DESTINATION", destination.clone()),
        ("LEAKGUARD_LENGTH", length.to_string()),
        ("LEAKGUARD_PACKETS", packets.to_string()),
        ("LEAKGUARD_SUPPRESSED", suppressed.to_string()),
    ]);
    let mut add = |name, value: &Option<String>| {
        fields.extend(value.clone().map(|value| (name, value)));
    };
    add("LEAKGUARD_ENCAPSULATION", encapsulation);
    add("LEAKGUARD_REDIRECTED_TO", redirected_to);
    add("LEAKGUARD_OPTION", option);
    if let Some(Query { name, kind }) = query {
        fields.push(("LEAKGUARD_QUERY_NAME", name.clone()));
        fields.push(("LEAKGUARD_QUERY_TYPE", kind.clone()));
    }
    sender(
        process.as_ref(),
        cgroup.as_ref(),
        unit.as_ref(),
        container.as_ref(),
        fields,
    );
    if let Some(Client {
        process,
        cgroup: _,
        unit,
        container,
    }) = client
    {
        fields.extend(
            process
                .pid
                .map(|pid| ("LEAKGUARD_CLIENT_PID", pid.to_string())),
        );
        fields.extend(
            process
                .name
                .clone()
                .map(|name| ("LEAKGUARD_CLIENT_PROCESS", name)),
        );
        fields.extend(process.exe.clone().map(|exe| ("LEAKGUARD_CLIENT_EXE", exe)));
        fields.extend(unit.clone().map(|unit| ("LEAKGUARD_CLIENT_UNIT", unit)));
        fields.extend(
            container
                .as_ref()
                .map(|found| ("LEAKGUARD_CLIENT_CONTAINER", found.id.clone())),
        );
    }
}

/// Packets without a record of their own.
fn suppressed(rest: &Suppressed, fields: &mut Fields) {
    let Suppressed {
        v: _,
        seq,
        time,
        kind: _,
        verdict,
        reason,
        destination,
        process,
        cgroup,
        unit,
        container,
        packets,
    } = rest;
    fields.extend([
        ("LEAKGUARD_SEQ", seq.to_string()),
        ("LEAKGUARD_TIME", time.clone()),
        ("LEAKGUARD_KIND", "suppressed".to_owned()),
        ("LEAKGUARD_VERDICT", verdict.clone()),
        ("LEAKGUARD_REASON", reason.clone()),
        ("LEAKGUARD_DESTINATION", destination.clone()),
        ("LEAKGUARD_PACKETS", packets.to_string()),
    ]);
    sender(
        process.as_ref(),
        cgroup.as_ref(),
        unit.as_ref(),
        container.as_ref(),
        fields,
    );
}

/// Who sent.
fn sender(
    process: Option<&Process>,
    cgroup: Option<&String>,
    unit: Option<&String>,
    container: Option<&Container>,
    fields: &mut Fields,
) {
    fields.extend(cgroup.map(|cgroup| ("LEAKGUARD_CGROUP", cgroup.clone())));
    fields.extend(unit.map(|unit| ("LEAKGUARD_UNIT", unit.clone())));
    if let Some(Process {
        pid,
        name,
        exe,
        cmdline,
        uid,
        user,
        attribution,
    }) = process
    {
        fields.push(("LEAKGUARD_UID", uid.to_string()));
        fields.extend(pid.map(|pid| ("LEAKGUARD_PID", pid.to_string())));
        for (field, value) in [
            ("LEAKGUARD_PROCESS", name),
            ("LEAKGUARD_EXE", exe),
            ("LEAKGUARD_USER", user),
        ] {
            fields.extend(value.clone().map(|value| (field, value)));
        }
        fields.extend(
            cmdline
                .as_ref()
                .map(|words| ("LEAKGUARD_CMDLINE", words.join(" "))),
        );
        fields.extend(attribution.map(|how| ("LEAKGUARD_ATTRIBUTION", how.name().to_owned())));
    }
    if let Some(Container {
        id,
        runtime,
        name,
        pod,
        pod_name,
        pod_namespace,
    }) = container
    {
        fields.push(("LEAKGUARD_CONTAINER", id.clone()));
        for (field, value) in [
            ("LEAKGUARD_CONTAINER_RUNTIME", runtime),
            ("LEAKGUARD_CONTAINER_NAME", name),
            ("LEAKGUARD_POD", pod),
            ("LEAKGUARD_POD_NAME", pod_name),
            ("LEAKGUARD_POD_NAMESPACE", pod_namespace),
        ] {
            fields.extend(value.clone().map(|value| (field, value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NoticeKind;

    #[test]
    fn names_of_fields_are_ones_that_the_journal_takes() {
        let event: Event = serde_json::from_str(super::super::EXAMPLE).unwrap();
        let (message, fields) = describe(&Entry::Packet(Box::new(event)));
        assert!(
            message.starts_with("drop dns eth0 udp 192.0.2.10:40112 > 8.8.8.8:53"),
            "{message}"
        );
        for (name, value) in &fields {
            assert!(name.len() <= 64 && !value.is_empty(), "{name}");
            assert!(
                name.chars().all(|c| c.is_ascii_uppercase() || c == '_') && !name.starts_with('_'),
                "{name}"
            );
        }
        let value = |name| {
            let mut found = fields.iter().filter(|(field, _)| *field == name);
            let value = found.next().map(|(_, value)| value.as_str());
            assert!(found.next().is_none(), "{name} twice");
            value
        };
        assert_eq!(value("LEAKGUARD_VERDICT"), Some("drop"));
        assert_eq!(value("LEAKGUARD_PID"), Some("4242"));
        assert_eq!(value("LEAKGUARD_POD"), Some("pod-uid"));
        assert_eq!(value("LEAKGUARD_POD_NAME"), Some("shop-7d4"));
        assert_eq!(value("LEAKGUARD_POD_NAMESPACE"), Some("web"));
        assert_eq!(value("LEAKGUARD_CONTAINER_NAME"), Some("app"));
        assert_eq!(value("LEAKGUARD_CLIENT_PROCESS"), Some("curl"));
    }

    #[test]
    fn a_notice_has_fields_of_its_own() {
        let notice = Notice::new(NoticeKind::Repair, "tc", "eth0", "attached");
        let (message, fields) = describe(&Entry::Notice(notice));
        assert_eq!(message, "repair tc eth0: attached");
        assert!(fields.contains(&("LEAKGUARD_PART", "tc".to_owned())));
    }
}
