//! The page for Prometheus: exact, clean, read by the real thing, and out of reach of whoever wants to do harm.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use leakguard::lab::{Agent, AgentConfig, Daemon, Netns, wait_until};
use leakguard_tests::{Bench, agent_binary, assert_metrics};
use serde_json::Value;

use super::{Desk, LIMIT};

const PAGE: &str = "127.0.0.1:9853";
const PROMETHEUS: &str = "127.0.0.1:9099";

/// Sends bytes to a port in a namespace, and reads until the other end closes.
fn exchange(netns: &Netns, address: &str, bytes: &[u8]) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    netns
        .run_in(|| {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            match stream.write_all(bytes) {
                Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        })
        .unwrap()
}

/// The body of a page; an error unless the server says 200.
fn get(netns: &Netns, address: &str, path: &str) -> Result<String, String> {
    let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = exchange(netns, address, ask.as_bytes()).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if head.starts_with("HTTP/1.1 200 ") {
        Ok(body.to_owned())
    } else {
        Err(head.to_owned())
    }
}

/// The sum of the samples of a metric that have all of these labels.
fn sum(page: &str, metric: &str, labels: &[&str]) -> u64 {
    page.lines()
        .filter(|line| line.starts_with(metric) && labels.iter().all(|label| line.contains(label)))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

#[test]
fn the_page_counts_exactly_and_promtool_finds_nothing_wrong_with_it() {
    let mut desk = Desk::new();
    desk.start(
        "",
        &format!("listen = {PAGE:?}\nlabels = {{ node = \"a1\" }}"),
    );
    let page = |desk: &Desk| get(desk.bench.topology.host(), PAGE, "/metrics").unwrap();
    let before = page(&desk);
    let dropped = [
        "class=\"dns\"",
        "verdict=\"drop\"",
        "family=\"ipv4\"",
        "hook=\"cgroup_skb\"",
    ];
    assert_eq!(sum(&before, "leakguard_packets_total", &dropped), 0);
    assert!(
        before
            .lines()
            .any(|line| line.starts_with("leakguard_packets_total")
                && dropped.iter().all(|l| line.contains(l))),
        "there from the start"
    );
    desk.leak(137);
    let after = page(&desk);
    assert_eq!(sum(&after, "leakguard_packets_total", &dropped), 137);
    assert_eq!(
        sum(&after, "leakguard_packets_total", &["verdict=\"drop\""]),
        137
    );
    let settled = desk.settle("stdout", 137);
    let after = page(&desk);
    assert_eq!(
        sum(
            &after,
            "leakguard_output_events_total",
            &["output=\"stdout\"", "outcome=\"delivered\""]
        ),
        settled.delivered
    );
    assert_eq!(
        sum(&after, "leakguard_events_total", &["outcome=\"delivered\""]),
        137
    );
    assert_eq!(
        sum(&after, "leakguard_tunnel_up", &["interface=\"wg0\""]),
        0
    );
    assert!(
        after.contains("leakguard_tunnel_up{interface=\"wg0\",node=\"a1\"} 0"),
        "{after}"
    );
    wait_until("the level was read back", LIMIT, || {
        let page = page(&desk);
        Ok(sum(&page, "leakguard_enforcement_level", &["level=\"full\""]) == 1)
    })
    .unwrap();
    assert_eq!(sum(&after, "leakguard_mode", &[]), 1);
    assert!(
        after
            .lines()
            .filter(|line| !line.starts_with('#'))
            .all(|line| line.contains("node=\"a1\""))
    );

    let file = desk.path("page");
    fs::write(&file, &after).unwrap();
    assert_metrics(&file);
    println!(
        "{} lines of metrics",
        after.lines().filter(|line| !line.starts_with('#')).count()
    );
}

#[test]
fn prometheus_reads_what_the_kernel_counts() {
    let mut desk = Desk::new();
    desk.start("", &format!("listen = {PAGE:?}"));
    let config = desk.path("prometheus.yml");
    fs::write(
        &config,
        format!(
            "global: {{ scrape_interval: 500ms }}\nscrape_configs:\n- job_name: leakguard\n  static_configs: [{{ targets: ['{PAGE}'] }}]\n"
        ),
    )
    .unwrap();
    let mut command = desk.bench.topology.host().command("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            desk.path("tsdb").display()
        ))
        .arg(format!("--web.listen-address={PROMETHEUS}"));
    let logs = desk.path("logs");
    fs::create_dir(&logs).unwrap();
    let mut prometheus = Daemon::start(command, &logs).unwrap();
    let host = desk.bench.topology.host();
    let query = |expression: &str| -> Option<f64> {
        let path = format!("/api/v1/query?query={expression}");
        let body = get(host, PROMETHEUS, &path).ok()?;
        // The answer may come in chunks.
        let json = &body[body.find('{')?..=body.rfind('}')?];
        let answer: Value = serde_json::from_str(json).ok()?;
        answer["data"]["result"][0]["value"][1]
            .as_str()?
            .parse()
            .ok()
    };
    let drops = "sum(leakguard_packets_total%7Bverdict=%22drop%22%7D)";
    wait_until("prometheus has read the page", LIMIT, || {
        prometheus.check_running()?;
        Ok(query(drops) == Some(0.0))
    })
    .unwrap();
    desk.leak(42);
    wait_until("prometheus has counted the drops", LIMIT, || {
        Ok(query(drops) == Some(42.0))
    })
    .unwrap();
    let rise =
        "sum(increase(leakguard_packets_total%7Bclass=%22dns%22,verdict=%22drop%22%7D%5B1m%5D))";
    wait_until("an alert on the increase would fire", LIMIT, || {
        Ok(query(rise).is_some_and(|rise| rise > 0.0))
    })
    .unwrap();
}

#[test]
fn whoever_asks_for_nonsense_does_no_harm() {
    let mut desk = Desk::new();
    desk.start("", &format!("listen = {PAGE:?}"));
    let host = desk.bench.topology.host();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    for nonsense in [
        b"\0\xff\x16\x03\x01 nonsense\r\n\r\n".as_slice(),
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        long.as_bytes(),
    ] {
        match exchange(host, PAGE, nonsense) {
            Ok(answer) => assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}"),
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ),
                "{error}"
            ),
        }
    }
    for (ask, status) in [
        ("POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
    ] {
        let answer = exchange(host, PAGE, ask.as_bytes()).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    // Many that say nothing take every place, but not for long.
    let address: SocketAddr = PAGE.parse().unwrap();
    let silent: Vec<TcpStream> = host
        .run_in(|| {
            (0..64)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect()
        })
        .unwrap();
    wait_until("the page is served all the same", LIMIT, || {
        Ok(get(host, PAGE, "/metrics").is_ok())
    })
    .unwrap();
    drop(silent);
    assert!(desk.bench.agent().is_enforcing().unwrap());
}

#[test]
fn an_address_that_comes_late_keeps_nobody_from_enforcing() {
    for address in ["192.0.2.77:9853", "[2001:db8::77]:9853"] {
        let mut desk = Desk::new();
        desk.start("", &format!("listen = {address:?}\npublic = true"));
        assert!(desk.bench.agent().is_enforcing().unwrap());
        let host = desk.bench.topology.host();
        assert!(
            get(host, address, "/metrics").is_err(),
            "control: it is not there"
        );
        host.ip_batch("addr add 192.0.2.77/32 dev lo\naddr add 2001:db8::77/128 dev lo nodad\n")
            .unwrap();
        wait_until("the page is served", LIMIT, || {
            Ok(get(host, address, "/metrics").is_ok())
        })
        .unwrap();
    }
}

#[test]
fn an_address_that_others_reach_is_refused_with_the_remedy() {
    let desk = Desk::new();
    let start = |arguments: &[&str]| {
        let mut agent = Agent::spawn(&AgentConfig {
            binary: agent_binary(),
            netns: desk.bench.topology.host(),
            cgroup: &desk.bench.cgroup,
            bpffs: &desk.bench.bpffs,
            tunnels: vec![Bench::TUNNEL.to_owned()],
            arguments: arguments.iter().map(Into::into).collect(),
        })
        .unwrap();
        wait_until("it ends", LIMIT, || Ok(agent.exit_status()?.is_some())).unwrap();
        let code = agent.exit_status().unwrap().unwrap().code();
        (code, agent.stderr())
    };
    let (code, said) = start(&["--metrics", "0.0.0.0:9853"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("public = true in [metrics]"), "{said}");
    let host = desk.bench.topology.host();
    let _taken = host
        .run_in(|| std::net::TcpListener::bind(PAGE).unwrap())
        .unwrap();
    let (code, said) = start(&["--metrics", PAGE]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("cannot serve metrics at 127.0.0.1:9853"),
        "{said}"
    );
}
