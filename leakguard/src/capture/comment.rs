//! What a capture says about a packet: one line that names who sent it and what became of it.

use crate::error::escape_control;
use crate::event::{Client, Container, Event, Process, Query};

/// The comment on a packet; it begins with the verdict and the reason.
pub(super) fn comment(event: &Event) -> String {
    let Event {
        verdict,
        reason,
        hook,
        seq,
        query,
        process,
        unit,
        container,
        client,
        encapsulation,
        packets,
        suppressed,
        ..
    } = event;
    let mut parts = vec![format!("{verdict} {reason} at {hook}")];
    parts.extend(process.as_ref().map(of_process));
    parts.extend(of_place(unit.as_deref(), container.as_ref()));
    if let Some(Query { name, kind }) = query {
        parts.push(format!("query {kind} {name}"));
    }
    if let Some(Client {
        process,
        unit,
        container,
        ..
    }) = client
    {
        parts.push(format!("asked by {}", of_process(process)));
        parts.extend(of_place(unit.as_deref(), container.as_ref()));
    }
    parts.extend(encapsulation.as_ref().map(|outer| format!("in {outer}")));
    if *packets > 1 {
        parts.push(format!("{packets} packets"));
    }
    if *suppressed > 0 {
        parts.push(format!("{suppressed} more like it before"));
    }
    parts.push(format!("event {seq}"));
    escape_control(&parts.join("; "))
}

fn of_process(process: &Process) -> String {
    let Process {
        pid,
        name,
        exe,
        uid,
        user,
        ..
    } = process;
    let mut words = vec![match pid {
        Some(pid) => format!("process {} pid {pid}", name.as_deref().unwrap_or("?")),
        None => "socket".to_owned(),
    }];
    words.extend(user.as_ref().map(|user| format!("user {user}")));
    words.push(format!("uid {uid}"));
    words.extend(exe.as_ref().map(|exe| format!("exe {exe}")));
    words.join(" ")
}

fn of_place(unit: Option<&str>, container: Option<&Container>) -> Vec<String> {
    let mut parts = Vec::new();
    parts.extend(unit.map(|unit| format!("unit {unit}")));
    if let Some(Container {
        id,
        runtime,
        name,
        pod,
        pod_name,
        pod_namespace,
    }) = container
    {
        let runtime = runtime.as_deref().unwrap_or("?");
        parts.push(format!("container {runtime} {id}"));
        parts.extend(name.as_ref().map(|name| format!("container name {name}")));
        parts.extend(pod.as_ref().map(|pod| format!("pod {pod}")));
        parts.extend(pod_name.as_ref().map(|pod| match pod_namespace {
            Some(namespace) => format!("pod name {namespace}/{pod}"),
            None => format!("pod name {pod}"),
        }));
    }
    parts
}
