use std::path::Path;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::daemon::HealthReport;
use crate::event::{Container, Entry, Event, Notice, NoticeKind, Query, example, process};
use crate::status::{EventCounts, InterfaceStatus, KillSwitch, Level, PacketCount, Status};

/// Writes the pictures anew where it is set.
const UPDATE: &str = "LEAKGUARD_UPDATE_SNAPSHOTS";

fn interface(index: u32, name: &str, role: &'static str, tc: &'static str) -> InterfaceStatus {
    InterfaceStatus {
        index,
        name: name.into(),
        role,
        kind: None,
        up: index != 4,
        tc,
    }
}

fn packets(class: &'static str, verdict: &'static str, count: u64) -> PacketCount {
    PacketCount {
        class,
        verdict,
        family: "ipv4",
        protocol: "udp",
        role: "uplink",
        hook: "cgroup_skb",
        count,
    }
}

fn status(counts: &[(&'static str, &'static str, u64)]) -> Status {
    Status {
        level: Level::Full,
        causes: Vec::new(),
        mode: Some("enforce"),
        block: vec!["dns"],
        ports: Vec::new(),
        doh: None,
        redirect: None,
        kill_switch: Some(KillSwitch {
            mode: "tunnel-down",
            engaged: false,
            tunnel: Some("wg0".into()),
            endpoints: 1,
            dhcp: true,
            ndp: true,
            lan: Vec::new(),
        }),
        ipv6: Some("dns-only"),
        netns: None,
        cgroup: None,
        interfaces: vec![
            interface(1, "lo", "local", "unneeded"),
            interface(2, "eth0", "uplink", "head"),
            interface(3, "wg0", "tunnel", "unneeded"),
            interface(4, "eth1", "uplink", "absent"),
        ],
        hardening: None,
        netfilter: crate::status::Netfilter::default(),
        packets: counts
            .iter()
            .map(|&(class, verdict, count)| packets(class, verdict, count))
            .collect(),
        events: EventCounts {
            submitted: 1_500,
            lost: 7,
            suppressed: 12,
        },
    }
}

fn snapshot(seconds: u64, counts: &[(&'static str, &'static str, u64)]) -> Snapshot {
    Snapshot {
        at: Duration::from_secs(seconds),
        status: status(counts),
        agent: Some((4711, HealthReport::default())),
    }
}

fn event(seq: u64, name: &str, query: &str) -> Event {
    Event {
        seq,
        query: Some(Query {
            name: query.into(),
            kind: "A".into(),
        }),
        process: process(name),
        ..example()
    }
}

fn busy() -> Model {
    let mut model = Model::new(Duration::from_secs(1));
    model.observe(snapshot(
        0,
        &[
            ("dns", "drop", 100),
            ("dns", "pass", 40),
            ("doh", "drop", 5),
        ],
    ));
    model.observe(snapshot(
        2,
        &[
            ("dns", "drop", 125),
            ("dns", "pass", 40),
            ("doh", "drop", 1_234_567),
            ("mdns", "drop", 3),
        ],
    ));
    for seq in 1..=20 {
        let mut event = event(seq, "firefox", "tracker.example.com.");
        event.suppressed = seq % 2;
        if seq % 3 == 0 {
            event.container = Some(Container {
                id: "0123456789abcdef0123456789abcdef".into(),
                runtime: Some("podman".into()),
                name: None,
                pod: None,
                pod_name: None,
                pod_namespace: None,
            });
        }
        model.note(Entry::Packet(Box::new(event)));
    }
    let mut forwarded = event(21, "", "");
    forwarded.process = None;
    forwarded.query = None;
    model.note(Entry::Packet(Box::new(forwarded)));
    let mut notice = Notice::new(
        NoticeKind::KillSwitch,
        "kill_switch",
        "engaged",
        "the tunnel is down",
    );
    notice.time = "2026-11-23T10:00:01.123456789Z".into();
    model.note(Entry::Notice(notice));
    model.miss(12);
    model
}

fn picture(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(model, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..height {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[track_caller]
fn assert_picture(model: &Model, name: &str, width: u16, height: u16) {
    let text = picture(model, width, height);
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/top/snapshots")
        .join(format!("{name}-{width}x{height}.txt"));
    if std::env::var_os(UPDATE).is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        text == expected,
        "not as in {}; set {UPDATE}=1 to take it over:\n{text}",
        file.display()
    );
}

#[test]
fn pictures_are_as_they_were() {
    let model = busy();
    for (width, height) in [(80, 24), (120, 40), (40, 10)] {
        assert_picture(&model, "busy", width, height);
    }
    let mut alone = Model::new(Duration::from_secs(1));
    let mut read = snapshot(0, &[("dns", "drop", 100)]);
    read.agent = None;
    alone.observe(read);
    assert_picture(&alone, "without-agent", 80, 24);
}

#[test]
fn every_size_can_be_drawn() {
    let model = busy();
    for width in (1..110).step_by(9) {
        for height in 1..35 {
            picture(&model, width, height);
        }
    }
    picture(&Model::new(Duration::from_secs(1)), 80, 24);
    picture(&model, 500, 200);
}

#[test]
fn rates_are_of_the_time_between_two_snapshots() {
    let model = busy();
    let classes = model.classes();
    let of = |class: &str| classes.iter().find(|(name, _)| *name == class).unwrap().1;
    assert!((of("dns").stopped_rate - 12.5).abs() < 1e-9);
    assert!((of("mdns").stopped_rate - 1.5).abs() < 1e-9);
    assert_eq!(of("dns").passed, 40);
    assert_eq!(model.history().len(), 1);

    // A counter that begins anew is no negative rate.
    let mut model = model;
    model.observe(snapshot(3, &[("dns", "drop", 1)]));
    assert!(model.classes()[0].1.stopped_rate.abs() < 1e-9);
}

#[test]
fn senders_are_told_apart_by_name_place_and_user() {
    let model = busy();
    let top = model.offenders().top(10);
    let rows: Vec<_> = top
        .iter()
        .map(|(who, counted)| (&*who.name, &*who.place, counted.events, counted.packets))
        .collect();
    assert_eq!(
        rows,
        [
            ("firefox", "", 14, 21),
            ("firefox", "podman 0123456789ab", 6, 9),
            ("from 192.0.2.10", "", 1, 1),
        ]
    );
    assert_eq!((model.suppressed(), model.missed()), (10, 12));
}

#[test]
fn memory_is_bounded() {
    let mut model = Model::new(Duration::from_secs(1));
    for seq in 0..5_000 {
        model.note(Entry::Packet(Box::new(event(
            seq,
            &format!("process{seq}"),
            "example.com.",
        ))));
        model.observe(snapshot(seq, &[]));
    }
    assert!(model.offenders().len() < 1024);
    assert!(model.recent().count() <= 200);
    assert!(model.history().len() <= 240);
    assert!(picture(&model, 80, 24).contains("the most frequent"));
}

#[test]
fn nothing_from_outside_acts_on_the_terminal() {
    let mut model = Model::new(Duration::from_secs(1));
    let mut read = snapshot(0, &[]);
    read.status.causes = vec!["cause \u{1b}[31m".into()];
    read.status.interfaces[0].name = "if\u{1b}[2J".into();
    model.observe(read);
    let mut bad = event(
        1,
        "a\u{1b}]0;x\u{7}\n\u{9b}",
        "q\u{202e}evil\u{200b}.example.",
    );
    bad.unit = Some("\u{1b}c".into());
    model.note(Entry::Packet(Box::new(bad)));
    let text = picture(&model, 200, 40);
    for character in text.chars().filter(|character| *character != '\n') {
        assert!(
            !character.is_control() && !('\u{200b}'..='\u{202e}').contains(&character),
            "{character:?}:\n{text}"
        );
    }
    assert!(text.contains("\\u{1b}]0;x"), "{text}");
    assert!(text.contains("\\u{202e}evil"), "{text}");
}
