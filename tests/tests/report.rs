//! The page that is made of recorded events, in a real browser that cannot reach anything.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use leakguard::lab::{Netns, Query, address, output_within, wait_until};
use leakguard_tests::{Bench, agent_binary, resident};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(1);

const SCRIPT: &str = "<script>document.title = 'it ran'</script>";

/// Runs the browser on a page, in a network namespace without a way out.
fn browse(directory: &Path, page: &Path, arguments: &[&str]) -> String {
    let nowhere = Netns::new("browser").unwrap();
    let profile = tempfile::tempdir_in(directory).unwrap();
    let mut browser = nowhere.command("chromium");
    browser
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .stderr(Stdio::null());
    let output = output_within(browser, PATIENCE).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The text of the element with this id, of one that holds nothing but text.
fn text_of<'a>(dom: &'a str, id: &str) -> &'a str {
    let start = dom.find(&format!("id=\"{id}\"")).unwrap();
    let rest = &dom[start..];
    let rest = &rest[rest.find('>').unwrap() + 1..];
    &rest[..rest.find('<').unwrap()]
}

fn report(arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(agent_binary());
    command.arg("report").args(arguments);
    output_within(command, Duration::from_mins(5)).unwrap()
}

#[test]
fn a_page_of_real_drops_is_shown_and_nothing_in_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let mut bench = Bench::new();
    bench.protect(&[]);
    for number in 0..3 {
        Query::new(
            address::ISP_RESOLVER_V4,
            &format!("tracker{number}.example.com"),
            "A",
        )
        .timeout(Duration::from_secs(1))
        .run(bench.topology.host(), Some(&bench.cgroup))
        .unwrap();
    }
    wait_until("they are reported", PATIENCE, || {
        Ok(bench.agent().events_json()?.len() >= 3)
    })
    .unwrap();
    let mut events = bench.agent().events_json().unwrap();
    // What a hostile process would be called, and would ask for.
    let mut hostile = events[0].clone();
    hostile["seq"] = json!(events.len() + 1);
    hostile["process"]["name"] = json!(SCRIPT);
    hostile["query"] = json!({"name": "a\"onmouseover=\"document.title='it ran'\".", "type": "A"});
    events.push(hostile);
    let record = path("events.ndjson");
    let mut lines: Vec<String> = events.iter().map(ToString::to_string).collect();
    lines.push("half a li".into());
    fs::write(&record, lines.join("\n")).unwrap();

    let page = path("report.html");
    let output = report(&[&record, "-o", &page]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        fs::metadata(&page).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let page = Path::new(&page);
    let dom = browse(directory.path(), page, &["--dump-dom"]);
    assert_eq!(text_of(&dom, "events"), events.len().to_string());
    assert_eq!(text_of(&dom, "unreadable"), "1 line");
    for words in [
        "tracker2.example.com.",
        "dig",
        "198.51.100.53",
        "eth0 (uplink)",
    ] {
        assert!(dom.contains(words), "{words}: {dom}");
    }
    assert!(dom.contains("<title>leakguard report</title>"), "{dom}");
    assert!(dom.contains("&lt;script&gt;"), "{dom}");
    assert!(!dom.contains("<script"), "{dom}");
    assert!(!dom.contains(" onmouseover="), "{dom}");

    // Control: this browser runs scripts, and the page's own policy stops one that got into it all the same.
    let bare = directory.path().join("bare.html");
    fs::write(&bare, format!("<title>leakguard report</title>{SCRIPT}")).unwrap();
    let ran = browse(directory.path(), &bare, &["--dump-dom"]);
    assert!(ran.contains("<title>it ran</title>"), "{ran}");
    let spiked = directory.path().join("spiked.html");
    let html = fs::read_to_string(page).unwrap();
    fs::write(&spiked, html.replace("<main>", &format!("<main>{SCRIPT}"))).unwrap();
    let stopped = browse(directory.path(), &spiked, &["--dump-dom"]);
    assert!(
        stopped.contains("<title>leakguard report</title>"),
        "{stopped}"
    );

    let picture = directory.path().join("page.png");
    browse(
        directory.path(),
        page,
        &[
            "--window-size=1200,1600",
            &format!("--screenshot={}", picture.display()),
        ],
    );
    let bytes = fs::read(&picture).unwrap();
    assert!(bytes.starts_with(b"\x89PNG"), "it is a picture");
    assert!(bytes.len() > 30_000, "{} bytes: an empty page", bytes.len());
}

#[test]
fn rotated_files_come_in_any_order() {
    let directory = tempfile::tempdir().unwrap();
    let line = |seq: u32| {
        json!({"seq": seq, "time": format!("2026-11-23T10:00:0{seq}Z"), "verdict": "drop", "reason": "dns"})
            .to_string()
    };
    let file = |name: &str, lines: &[u32]| {
        let path = directory.path().join(name);
        let text: Vec<String> = lines.iter().map(|seq| line(*seq)).collect();
        fs::write(&path, text.join("\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (old, new) = (file("events.1", &[1, 2, 3]), file("events", &[4, 5]));
    let output = report(&[&new, &old, "-o", "-"]);
    let html = String::from_utf8(output.stdout).unwrap();
    assert!(html.contains("The record is complete"), "{html}");

    // By a pipe, as a shell's `<(zcat …)` is one.
    let mut shell = Command::new("bash");
    shell
        .arg("-c")
        .arg("\"$0\" report <(cat \"$1\") -o -")
        .arg(agent_binary())
        .arg(&old);
    let output = output_within(shell, PATIENCE).unwrap();
    let html = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text_of(&html, "events"), "3");

    let output = report(&[&new, "/nonexistent/file", "-o", "-"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with("error: cannot read /nonexistent/file"),
        "{error}"
    );
    let empty = file("empty", &[]);
    let output = report(&[&empty, "-o", "-"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let packed = directory.path().join("events.2.gz");
    fs::write(&packed, b"\x1f\x8b\x08").unwrap();
    let output = report(&[packed.to_str().unwrap(), "-o", "-"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("zcat"));
}

#[test]
fn a_report_does_not_replace_the_record_it_is_made_of() {
    let directory = tempfile::tempdir().unwrap();
    let (record, link) = (
        directory.path().join("events"),
        directory.path().join("link"),
    );
    let line =
        json!({"seq": 1, "time": "2026-11-23T10:00:01Z", "verdict": "drop", "reason": "dns"});
    fs::write(&record, line.to_string()).unwrap();
    fs::hard_link(&record, &link).unwrap();
    let name = record.to_str().unwrap();
    for output in [name, link.to_str().unwrap()] {
        let refused = report(&[name, "-o", output]);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert_eq!(fs::read_to_string(&record).unwrap(), line.to_string());
    }
}

#[test]
fn a_million_lines_take_bounded_memory() {
    const LINES: u64 = 1_000_000;
    let directory = tempfile::tempdir().unwrap();
    let record = directory.path().join("events.ndjson");
    let mut file = BufWriter::new(File::create(&record).unwrap());
    for seq in 1..=LINES {
        // Each name is new, as of a tunnel through DNS.
        writeln!(
            file,
            "{{\"v\":1,\"seq\":{seq},\"time\":\"2026-11-{:02}T{:02}:00:00.000000001Z\",\"kind\":\"packet\",\"verdict\":\"drop\",\
             \"reason\":\"dns\",\"hook\":\"cgroup_skb\",\"interface\":{{\"index\":2,\"name\":\"eth0\",\"role\":\"uplink\"}},\
             \"netns\":\"host\",\"family\":\"ipv4\",\"protocol\":\"udp\",\"source\":\"192.0.2.10:40112\",\
             \"destination\":\"198.51.{}.{}:53\",\"length\":71,\"query\":{{\"name\":\"x{seq}.tunnel.example.\",\"type\":\"TXT\"}},\
             \"process\":{{\"pid\":{seq},\"name\":\"p{}\",\"exe\":\"/usr/bin/dig\",\"uid\":0,\"user\":\"root\"}},\
             \"cgroup\":null,\"unit\":null,\"container\":null,\"suppressed\":1}}",
            1 + seq * 28 / (LINES + 1),
            seq % 24,
            seq / 256 % 256,
            seq % 256,
            seq % 50_000,
        )
        .unwrap();
    }
    file.into_inner().unwrap().sync_all().unwrap();
    let page = directory.path().join("report.html");
    let started = Instant::now();
    let mut child = Command::new(agent_binary())
        .arg("report")
        .arg(&record)
        .arg("-o")
        .arg(&page)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut most = 0;
    let status = loop {
        if let Some(held) = resident(child.id()) {
            most = held.most;
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        // The pace of the readings, not a wait for anything.
        thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success());
    let html = fs::read_to_string(&page).unwrap();
    println!(
        "{LINES} lines of {} MiB in {:.1?}, at most {most} KiB, a page of {} KiB",
        fs::metadata(&record).unwrap().len() >> 20,
        started.elapsed(),
        html.len() >> 10
    );
    assert_eq!(text_of(&html, "packets"), "2\u{202f}000\u{202f}000");
    assert!(html.contains("There are too many to keep all"));
    assert!(most > 0 && most < 128 * 1024, "{most} KiB");
    assert!(html.len() < 512 * 1024);
}
