use std::fmt::Write as _;
use std::io::Cursor;

use super::*;

fn line(seq: u64, second: u64, name: &str, query: &str) -> String {
    let time = format!(
        "2026-11-23T{:02}:{:02}:{:02}.5Z",
        second / 3600 % 24,
        second / 60 % 60,
        second % 60
    );
    serde_json::json!({
        "v": 1, "seq": seq, "time": time, "kind": "packet", "verdict": "drop", "reason": "dns", "hook": "cgroup_skb",
        "interface": {"index": 2, "name": "eth0", "role": "uplink"}, "netns": "host", "family": "ipv4",
        "protocol": "udp", "source": "192.0.2.10:40112", "destination": "8.8.8.8:53", "length": 71,
        "query": {"name": query, "type": "A"}, "packets": 2,
        "process": {"pid": 4242, "name": name, "exe": "/usr/bin/x", "uid": 1000, "user": "alice"},
        "cgroup": "/app", "unit": "app.service",
        "container": {"id": "0123456789abcdef", "runtime": "podman", "pod": null}, "client": null, "suppressed": 3,
        "of a later version": [1, {"x": 2}]
    })
    .to_string()
}

fn report(text: &str) -> Report {
    let mut report = Report::default();
    report.read("events.ndjson", Cursor::new(text)).unwrap();
    report
}

#[test]
fn every_form_of_a_line_is_understood() {
    let event = line(1, 1, "dig", "example.com.");
    let text = [
        event.clone(),
        format!("{{\"event\":{},\"packet\":\"AAAA\"}}", line(2, 2, "dig", "a.")),
        format!(
            "{{\"line\":2,\"previous\":\"00\",\"entry\":{},\"hash\":\"11\"}}",
            line(3, 3, "dig", "b.")
        ),
        r#"{"line":3,"previous":"00","torn":{"bytes":7,"sha256":"22"},"hash":"11"}"#.into(),
        r#"{"missed":{"events":9}}"#.into(),
        r#"{"v":1,"seq":4,"time":"2026-11-23T00:00:05Z","kind":"suppressed","verdict":"drop","reason":"dns","destination":"8.8.8.8","process":null,"packets":100}"#.into(),
        r#"{"v":1,"seq":5,"time":"2026-11-23T00:00:06Z","kind":"kill_switch","part":"kill_switch","subject":"engaged","message":"the tunnel is down"}"#.into(),
        r#"{"v":1,"seq":6,"time":"2026-11-23T00:00:07Z","kind":"of tomorrow","more":1}"#.into(),
        String::new(),
        // An event of the first version has no kind.
        event.replace("\"kind\":\"packet\",", "").replace("\"seq\":1,", "\"seq\":7,"),
    ]
    .join("\n");
    let report = report(&text);
    assert!(report.named.is_empty(), "{:?}", report.named);
    assert_eq!((report.events, report.packets), (4, 8));
    assert_eq!(report.suppressed, 4 * 3 + 100);
    assert_eq!((report.missed, report.torn), (9, 1));
    assert_eq!((report.gaps, report.runs), (0, 1));
    let kinds: Vec<_> = report.notice_kinds.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["kill_switch", "of tomorrow"]);
    assert_eq!(report.destinations.top(1)[0].0, "8.8.8.8");
    assert_eq!(report.destinations.top(1)[0].1.packets, 120);
    assert_eq!(report.containers.top(1)[0].0, "podman 0123456789ab");
}

#[test]
fn gaps_and_runs_are_told_apart() {
    let sequence = [5, 6, 9, 10, 1, 2, 4];
    let text: Vec<_> = (0..)
        .zip(sequence)
        .map(|(second, seq)| line(seq, second, "dig", "a."))
        .collect();
    let report = report(&text.join("\n"));
    assert_eq!((report.runs, report.gaps, report.lost), (2, 2, 3));
    let named: Vec<_> = report
        .named_gaps
        .iter()
        .map(|gap| (gap.line, gap.missing))
        .collect();
    assert_eq!(named, [(3, 2), (7, 1)]);
    assert!(
        report
            .html()
            .contains("3 events are</b> missing from the record, in 2 gaps")
    );
}

#[test]
fn what_cannot_be_read_is_named_and_not_fatal() {
    let long = "x".repeat(3 * 1024 * 1024);
    let text = format!(
        "{}\nnot json\n{long}\n{{\"seq\":1}}\n\u{0}\n{}",
        line(1, 1, "dig", "a."),
        line(2, 2, "dig", "a.")
    );
    let report = report(&text);
    assert_eq!((report.events, report.unreadable()), (2, 4));
    let named: Vec<_> = report.named.iter().map(|one| (one.line, one.why)).collect();
    assert_eq!(
        named,
        [
            (2, "not a JSON object"),
            (3, "longer than any event"),
            (4, "not an event of leakguard's"),
            (5, "not a JSON object"),
        ]
    );
    assert!(
        report
            .html()
            .contains("line 3 of events.ndjson: longer than any event")
    );
}

#[test]
fn whatever_a_name_says_it_is_text() {
    let evil = "<script>alert(1)</script>";
    let quoted = r#"a"onload="x'&<b>.example."#;
    let mut report = Report::default();
    let mut text = line(1, 1, evil, quoted);
    text.push('\n');
    text.push_str(&line(2, 1, "\u{202e}evil\u{7}", "b."));
    text.push('\n');
    text.push_str(&serde_json::json!({"seq": 3, "time": evil, "kind": evil, "part": evil, "subject": evil, "message": evil}).to_string());
    report.read(evil, Cursor::new(text)).unwrap();
    let html = report.html();
    assert!(!html.contains("<script"), "{html}");
    assert!(!html.contains("onload=\"x"), "{html}");
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(html.contains("\\u{202e}evil\\u{7}"));
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import"] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(html.contains("default-src 'none'"));
}

#[test]
fn any_number_of_names_takes_bounded_memory() {
    let mut report = Report::default();
    let mut text = String::new();
    for seq in 1..=60_000_u64 {
        text.clear();
        let name = format!("process{seq}");
        writeln!(
            text,
            "{}",
            line(seq, seq, &name, &format!("{seq}.example."))
        )
        .unwrap();
        report.add(seq, text.as_bytes());
    }
    assert!(report.names.len() < 2 * collect::NAMES);
    assert!(report.names.set_aside() > 0);
    assert_eq!(report.packets, 120_000);
    let html = report.html();
    assert!(html.contains("There are too many to keep all"));
    assert!(html.len() < 200_000, "{} bytes", html.len());
}

#[test]
fn the_beginning_of_a_file_is_found() {
    let text = format!("garbage\n{}\n", line(1, 3601, "dig", "a."));
    let found = beginning(Cursor::new(text)).unwrap().unwrap();
    assert_eq!(found.to_string(), "2026-11-23T01:00:01.5Z");
    assert_eq!(beginning(Cursor::new("garbage")).unwrap(), None);
}
