//! Events as OpenTelemetry logs, over OTLP with protobuf and http.
//!
//! The SDK makes the records and the exporter sends them; what is between them is ours, so that it is known of each event
//! what became of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{fs, mem};

use jiff::Timestamp;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{
    LogExporter, Protocol, RetryPolicy, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{
    LogBatch, LogExporter as _, LogProcessor, SdkLogRecord, SdkLogger, SdkLoggerProvider,
};

use super::sink::{Sink, Written};
use super::{Output, OutputError, is_warning};
use crate::config::{Labels, OtlpEndpoint};
use crate::daemon::Published;
use crate::event::{
    Client, Container, Entry, Event, InterfaceRef, Notice, Process, Query, Suppressed,
};

/// How long the receiver may take for one batch.
const LIMIT: Duration = Duration::from_secs(5);

/// The receiver, and what makes records for it.
pub(super) struct Otlp {
    endpoint: OtlpEndpoint,
    resource: Resource,
    made: Made,
    logger: SdkLogger,
    /// Absent until it could be made.
    exporter: Option<LogExporter>,
}

impl Otlp {
    /// It is connected to with the first event.
    pub(super) fn new(endpoint: &OtlpEndpoint, labels: &Labels) -> Self {
        let made = Made::default();
        let provider = SdkLoggerProvider::builder()
            .with_log_processor(made.clone())
            .build();
        let scope = InstrumentationScope::builder("leakguard")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self {
            endpoint: endpoint.clone(),
            resource: resource(labels),
            logger: provider.logger_with_scope(scope),
            made,
            exporter: None,
        }
    }

    fn exporter(&mut self) -> Result<&LogExporter, OutputError> {
        let exporter = if let Some(exporter) = self.exporter.take() {
            exporter
        } else {
            let mut exporter = LogExporter::builder()
                .with_http()
                .with_endpoint(self.endpoint.url())
                .with_protocol(Protocol::HttpBinary)
                .with_timeout(LIMIT)
                // The loop tries again, and counts.
                .with_retry_policy(RetryPolicy::disabled())
                .build()
                .map_err(|error| self.failure(error.to_string()))?;
            exporter.set_resource(&self.resource);
            exporter
        };
        Ok(self.exporter.insert(exporter))
    }

    fn failure(&self, message: String) -> OutputError {
        OutputError::Otlp {
            url: self.endpoint.url().to_owned(),
            message,
        }
    }
}

impl Sink for Otlp {
    const OUTPUT: Output = Output::Otlp;

    // What a receiver refuses it may refuse for ever; what comes behind must not wait for that.
    const ATTEMPTS: Option<u32> = Some(30);

    fn target(&self) -> String {
        self.endpoint.url().to_owned()
    }

    async fn write(&mut self, events: &[Arc<Published>]) -> Written {
        for event in events {
            let mut record = self.logger.create_log_record();
            describe(&event.entry(), &mut record);
            self.logger.emit(record);
        }
        let made = self.made.take();
        let batch: Vec<_> = made.iter().map(|(record, scope)| (record, scope)).collect();
        let result = match self.exporter() {
            Ok(exporter) => exporter.export(LogBatch::new(&batch)).await,
            Err(error) => return Written::nothing(error),
        };
        match result {
            Ok(()) => Written {
                events: events.len(),
                error: None,
            },
            Err(error) => Written::nothing(self.failure(error.to_string())),
        }
    }
}

/// What the logger has made, until it is sent.
#[derive(Clone, Debug, Default)]
struct Made(Arc<Mutex<Vec<(SdkLogRecord, InstrumentationScope)>>>);

impl Made {
    fn take(&self) -> Vec<(SdkLogRecord, InstrumentationScope)> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl LogProcessor for Made {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.push((record.clone(), scope.clone()));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Who sends: the same of every event.
fn resource(labels: &Labels) -> Resource {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().to_owned();
    let labels = labels
        .iter()
        .map(|(name, value)| KeyValue::new(name.to_owned(), value.to_owned()));
    Resource::builder_empty()
        .with_service_name("leakguard")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", host),
        ])
        .with_attributes(labels)
        .build()
}

/// Names of attributes are those of OpenTelemetry's conventions where it has one.
fn describe(entry: &Entry, record: &mut SdkLogRecord) {
    let severity = if is_warning(entry) {
        Severity::Warn
    } else {
        Severity::Info
    };
    record.set_severity_number(severity);
    record.set_severity_text(severity.name());
    record.set_observed_timestamp(SystemTime::now());
    let text = entry.to_string();
    let body = text.split_once(' ').map_or("", |(_clock, rest)| rest);
    record.set_body(AnyValue::from(body.to_owned()));
    match entry {
        Entry::Packet(event) => {
            record.set_event_name("leakguard.packet");
            packet(event, record);
        }
        Entry::Suppressed(rest) => {
            record.set_event_name("leakguard.suppressed");
            suppressed(rest, record);
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
            record.set_event_name("leakguard.notice");
            set_time(record, time);
            record.add_attribute("leakguard.seq", number(*seq));
            record.add_attribute("leakguard.kind", kind.name());
            record.add_attribute("leakguard.part", part.clone());
            record.add_attribute("leakguard.subject", subject.clone());
        }
    }
}

fn set_time(record: &mut SdkLogRecord, time: &str) {
    if let Ok(time) = time.parse::<Timestamp>() {
        record.set_timestamp(time.into());
    }
}

/// OpenTelemetry knows no greater integers.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn packet(event: &Event, record: &mut SdkLogRecord) {
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
    set_time(record, time);
    record.add_attribute("leakguard.seq", number(*seq));
    record.add_attribute("leakguard.verdict", verdict.clone());
    record.add_attribute("leakguard.reason", reason.clone());
    record.add_attribute("leakguard.hook", hook.clone());
    record.add_attribute("leakguard.interface.role", role.clone());
    record.add_attribute("leakguard.interface.index", i64::from(*index));
    record.add_attribute("leakguard.length", i64::from(*length));
    record.add_attribute("leakguard.packets", i64::from(*packets));
    record.add_attribute("leakguard.suppressed", number(*suppressed));
    record.add_attribute("network.type", family.clone());
    record.add_attribute("network.transport", protocol.clone());
    endpoint(record, "source.address", "source.port", source);
    endpoint(
        record,
        "destination.address",
        "destination.port",
        destination,
    );
    for (attribute, value) in [
        ("network.interface.name", name),
        ("leakguard.encapsulation", encapsulation),
        ("leakguard.redirected_to", redirected_to),
        ("leakguard.option", option),
    ] {
        optional(record, attribute, value.as_ref());
    }
    if let Some(Query { name, kind }) = query {
        let name = match name.strip_suffix('.') {
            Some(relative) if !relative.is_empty() => relative,
            _ => name,
        };
        record.add_attribute("dns.question.name", name.to_owned());
        record.add_attribute("leakguard.query.type", kind.clone());
    }
    sender(
        process.as_ref(),
        cgroup.as_ref(),
        unit.as_ref(),
        container.as_ref(),
        record,
    );
    if let Some(Client {
        process,
        cgroup: _,
        unit,
        container,
    }) = client
    {
        if let Some(pid) = process.pid {
            record.add_attribute("leakguard.client.pid", i64::from(pid));
        }
        optional(record, "leakguard.client.name", process.name.as_ref());
        optional(record, "leakguard.client.path", process.exe.as_ref());
        optional(record, "leakguard.client.unit", unit.as_ref());
        let id = container.as_ref().map(|container| &container.id);
        optional(record, "leakguard.client.container", id);
    }
}

/// Packets without a record of their own.
fn suppressed(rest: &Suppressed, record: &mut SdkLogRecord) {
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
    set_time(record, time);
    record.add_attribute("leakguard.seq", number(*seq));
    record.add_attribute("leakguard.verdict", verdict.clone());
    record.add_attribute("leakguard.reason", reason.clone());
    record.add_attribute("leakguard.packets", number(*packets));
    endpoint(
        record,
        "destination.address",
        "destination.port",
        destination,
    );
    sender(
        process.as_ref(),
        cgroup.as_ref(),
        unit.as_ref(),
        container.as_ref(),
        record,
    );
}

/// Who sent.
fn sender(
    process: Option<&Process>,
    cgroup: Option<&String>,
    unit: Option<&String>,
    container: Option<&Container>,
    record: &mut SdkLogRecord,
) {
    optional(record, "process.linux.cgroup", cgroup);
    optional(record, "leakguard.unit", unit);
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
        record.add_attribute("process.user.id", i64::from(*uid));
        if let Some(pid) = pid {
            record.add_attribute("process.pid", i64::from(*pid));
        }
        optional(record, "process.executable.name", name.as_ref());
        optional(record, "process.executable.path", exe.as_ref());
        optional(record, "process.owner", user.as_ref());
        if let Some(words) = cmdline {
            let words: AnyValue = words
                .iter()
                .map(|word| AnyValue::from(word.clone()))
                .collect();
            record.add_attribute("process.command_args", words);
        }
        if let Some(how) = attribution {
            record.add_attribute("leakguard.attribution", how.name());
        }
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
        record.add_attribute("container.id", id.clone());
        optional(record, "container.runtime.name", runtime.as_ref());
        optional(record, "k8s.container.name", name.as_ref());
        optional(record, "k8s.pod.uid", pod.as_ref());
        optional(record, "k8s.pod.name", pod_name.as_ref());
        optional(record, "k8s.namespace.name", pod_namespace.as_ref());
    }
}

fn optional(record: &mut SdkLogRecord, name: &'static str, value: Option<&String>) {
    if let Some(value) = value {
        record.add_attribute(name, value.clone());
    }
}

/// An address, with a port where there is one.
fn endpoint(record: &mut SdkLogRecord, address: &'static str, port: &'static str, text: &str) {
    if let Ok(found) = text.parse::<SocketAddr>() {
        record.add_attribute(address, found.ip().to_string());
        record.add_attribute(port, i64::from(found.port()));
    } else if let Ok(found) = text.parse::<IpAddr>() {
        record.add_attribute(address, found.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_have_the_names_of_the_conventions() {
        let event: Event = serde_json::from_str(super::super::EXAMPLE).unwrap();
        let provider = SdkLoggerProvider::builder().build();
        let mut record = provider.logger("test").create_log_record();
        describe(&Entry::Packet(Box::new(event)), &mut record);
        let attributes: Vec<(String, AnyValue)> = record
            .attributes_iter()
            .map(|(key, value)| (key.to_string(), value.clone()))
            .collect();
        for (name, value) in [
            ("source.address", AnyValue::from("192.0.2.10")),
            ("source.port", AnyValue::Int(40112)),
            ("destination.address", AnyValue::from("8.8.8.8")),
            ("destination.port", AnyValue::Int(53)),
            ("network.transport", AnyValue::from("udp")),
            ("dns.question.name", AnyValue::from("example.com")),
            ("process.pid", AnyValue::Int(4242)),
            ("process.executable.path", AnyValue::from("/usr/bin/dig")),
            ("process.owner", AnyValue::from("alice")),
            ("container.id", AnyValue::from("0123456789ab")),
            ("k8s.pod.uid", AnyValue::from("pod-uid")),
            ("k8s.pod.name", AnyValue::from("shop-7d4")),
            ("k8s.namespace.name", AnyValue::from("web")),
            ("k8s.container.name", AnyValue::from("app")),
        ] {
            assert!(
                attributes.contains(&(name.to_owned(), value)),
                "{name}: {attributes:?}"
            );
        }
        assert_eq!(record.severity_number(), Some(Severity::Warn));
        assert!(record.timestamp().is_some());
    }
}
