//! The resolver cluster of `deploy/resolver-cluster`: it resolves, validates, survives its nodes and writes everything down.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has to fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leakguard::lab::{Netns, Query, address, output_within, wait_until};
use leakguard_tests::{Bench, Cluster, Kdig, Place, SignedZones, Transport, assert_metrics, isp};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// What a run of dnsperf may take.
const LIMIT: Duration = Duration::from_mins(1);
/// What a line of the audit log waits for that has no answer, and some more.
const GIVEN_UP: Duration = Duration::from_secs(20);

/// Asks a cluster over TLS with dnsperf, every name once; gives how many answers there were.
fn ask_all(netns: &Netns, names: &[String], directory: &Path) -> usize {
    let file = directory.join("names");
    let lines = names.iter().fold(String::new(), |mut lines, name| {
        writeln!(lines, "{name} A").unwrap();
        lines
    });
    fs::write(&file, lines).unwrap();
    let mut dnsperf = netns.command("dnsperf");
    dnsperf.args(["-m", "dot", "-n", "1", "-c", "4", "-q", "20", "-s"]);
    dnsperf
        .arg(address::TUNNEL_RESOLVER_V4.to_string())
        .arg("-d")
        .arg(file);
    let output = output_within(dnsperf, LIMIT).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Queries completed:"));
    let count = line.and_then(|line| line.split_whitespace().next());
    count.unwrap().parse().unwrap()
}

fn names(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("n{number}.good.lab"))
        .collect()
}

#[test]
fn a_guarded_host_reaches_the_cluster_and_no_other_resolver() {
    let mut bench = Bench::with_bare_tunnel();
    let (listener, plain) = (bench.listen(isp(0, 853)), isp(0, 53));
    // Without leakguard the uplink carries both.
    let connect = || TcpStream::connect_timeout(&isp(0, 853), Duration::from_secs(1)).is_ok();
    assert!(bench.topology.host().run_in(connect).unwrap());
    assert_eq!(bench.seen(Place::Host, Transport::Udp, plain, 3), 3);
    drop(listener.accept().unwrap());

    let (v4, v6) = (address::TUNNEL_RESOLVER_V4, address::TUNNEL_RESOLVER_V6);
    bench.protect(&["--redirect", &v4.to_string(), "--redirect", &v6.to_string()]);
    drop(bench.frames(Place::Host));
    let cluster = Cluster::new(bench.topology.vpn(), 2, 0);
    let (host, cgroup) = (bench.topology.host(), Some(&bench.cgroup));

    let signed = cluster.ask(host, cgroup, SignedZones::SIGNED, 5);
    assert_eq!(signed.status().as_deref(), Some("NOERROR"), "{signed:?}");
    assert!(signed.is_authentic(), "{signed:?}");
    let bogus = cluster.ask(host, cgroup, SignedZones::BOGUS, 5);
    assert_eq!(bogus.status().as_deref(), Some("SERVFAIL"), "{bogus:?}");
    let over_v6 = Kdig::ask(host, cgroup, v6.into(), SignedZones::SIGNED, 5, &[]);
    assert_eq!(over_v6.status().as_deref(), Some("NOERROR"), "{over_v6:?}");
    let authority = format!("+tls-ca={}", cluster.authority().display());
    let stranger = [authority.as_str(), "+tls-hostname=resolver.example"];
    let unsure = Kdig::ask(host, cgroup, v4.into(), SignedZones::SIGNED, 5, &stranger);
    assert_eq!(
        unsure.status(),
        None,
        "the certificate has another name: {unsure:?}"
    );

    // A program that asks whom it likes gets its answer from the cluster.
    let redirected = Query::new(address::ISP_RESOLVER_V4, SignedZones::SIGNED, "A");
    assert!(redirected.run(host, cgroup).unwrap().is("192.0.2.80"));
    let direct = Kdig::ask(
        host,
        cgroup,
        address::ISP_RESOLVER_V4.into(),
        SignedZones::SIGNED,
        1,
        &[],
    );
    assert_eq!(direct.status(), None, "{direct:?}");
    let frames = bench.frames(Place::Host);
    let is_dns = |frame: &Vec<u8>| {
        let parsed = etherparse::SlicedPacket::from_ethernet(frame);
        let transport = parsed.ok().and_then(|packet| packet.transport);
        let port = match transport {
            Some(etherparse::TransportSlice::Udp(udp)) => udp.destination_port(),
            Some(etherparse::TransportSlice::Tcp(tcp)) => tcp.destination_port(),
            _ => 0,
        };
        [53, 853].contains(&port)
    };
    assert_eq!(frames.iter().filter(|frame| is_dns(frame)).count(), 0);
    assert!(!frames.is_empty(), "the tunnel's carrier is seen");
}

#[test]
fn every_question_has_one_line_in_the_audit_log() {
    const COUNT: usize = 1000;
    let bench = Bench::with_bare_tunnel();
    let cluster = Cluster::new(bench.topology.vpn(), 2, COUNT);
    let (host, directory) = (bench.topology.host(), tempfile::tempdir().unwrap());
    let asked = names(COUNT);
    let answers = ask_all(host, &asked, directory.path());
    let refused = Query::new(address::TUNNEL_RESOLVER_V4, "transfer.good.lab", "AXFR").over_tcp();
    refused.run(host, None).unwrap();
    let hostile = Query::new(
        address::TUNNEL_RESOLVER_V4,
        "a\\\"b\\010\\\\c.good.lab",
        "A",
    );
    hostile.run(host, None).unwrap();
    let bogus = cluster.ask(host, None, SignedZones::BOGUS, 5);
    assert_eq!(bogus.status().as_deref(), Some("SERVFAIL"));
    // Nobody answers, and it is written down all the same.
    for number in 0..2 {
        signal::kill(
            Pid::from_raw(cluster.node(number).pid().cast_signed()),
            Signal::SIGSTOP,
        )
        .unwrap();
    }
    let silent = cluster.ask(host, None, "silent.good.lab", 1);
    assert_eq!(silent.status(), None);
    let line = |name: &str| {
        let lines = cluster.audit();
        let mut lines = lines.into_iter().filter(|line| line["name"] == name);
        (lines.next(), lines.count())
    };
    wait_until(
        "the question that has no answer is given up",
        GIVEN_UP,
        || Ok(line("silent.good.lab.").0.is_some()),
    )
    .unwrap();

    let lines = cluster.audit();
    assert_eq!(answers, COUNT);
    assert_eq!(lines.len(), COUNT + 4, "and four besides");
    let once: BTreeSet<&str> = lines
        .iter()
        .map(|line| line["name"].as_str().unwrap())
        .collect();
    assert_eq!(once.len(), lines.len(), "no name is there twice");
    for name in &asked {
        assert!(once.contains(format!("{name}.").as_str()), "{name}");
    }
    let first = &lines[0];
    assert_eq!(first["client"], address::TUNNEL_HOST_V4.to_string());
    assert_eq!(first["region"], "lab");
    assert_eq!(first["protocol"], "dot");
    assert_eq!(first["type"], "A");
    assert_eq!(first["rcode"], "NOERROR");
    assert!(
        first["node"].as_str().unwrap().starts_with("lab/node-"),
        "{first}"
    );
    assert!(first["latency_us"].as_u64().unwrap() > 0, "{first}");
    let (refused, _) = line("transfer.good.lab.");
    assert_eq!(refused.unwrap()["rcode"], "REFUSED");
    let (bogus, _) = line("www.bogus.lab.");
    assert_eq!(bogus.unwrap()["rcode"], "SERVFAIL");
    let (silent, _) = line("silent.good.lab.");
    assert_eq!(silent.unwrap()["rcode"], "UNANSWERED");
    assert!(
        cluster
            .metrics()
            .contains("resolver_cluster_audit_lines_lost_total{region=\"lab\"} 0")
    );
}

#[test]
fn a_name_always_has_the_same_node() {
    const COUNT: usize = 200;
    const TIMES: usize = 5;
    let bench = Bench::with_bare_tunnel();
    let mut cluster = Cluster::new(bench.topology.vpn(), 3, COUNT);
    let (host, directory) = (bench.topology.host(), tempfile::tempdir().unwrap());
    for time in 0..TIMES {
        assert_eq!(ask_all(host, &names(COUNT), directory.path()), COUNT);
        if time == 1 {
            // What decides is the same after it.
            cluster.restart();
        }
    }
    let mut nodes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in cluster.audit() {
        let text = |field: &str| line[field].as_str().unwrap().to_owned();
        nodes.entry(text("name")).or_default().insert(text("node"));
    }
    assert_eq!(nodes.len(), COUNT);
    let moved: Vec<_> = nodes.iter().filter(|(_, nodes)| nodes.len() > 1).collect();
    assert!(moved.is_empty(), "{moved:?}");
    let mut total = 0.0;
    for number in 0..3 {
        let node = cluster.node(number);
        let statistics = node.statistics();
        let asked = statistics["total.num.queries"];
        println!(
            "{}: {asked} questions, {} of them out of the cache",
            node.name(),
            statistics["total.num.cachehits"]
        );
        // Health checks are answered like what is cached.
        assert!(asked > 0.0);
        total += statistics["total.num.cachemiss"];
    }
    assert!(
        (total - 200.0).abs() < 0.5,
        "each name is looked up once in all: {total}"
    );
}

#[test]
fn a_node_that_is_killed_costs_a_retry_and_no_answer() {
    /// How often a question is asked at most.
    const TRIES: usize = 3;
    /// How many questions are asked before, and after health checks have noticed.
    const ENOUGH: usize = 60;
    let mut bench = Bench::with_bare_tunnel();
    let tunnel = address::TUNNEL_RESOLVER_V4.to_string();
    bench.protect(&["--redirect", &tunnel]);
    let cluster = Cluster::new(bench.topology.vpn(), 2, 500);
    let (host, cgroup) = (bench.topology.host(), Some(&bench.cgroup));
    let victim = cluster.node(0).pid();
    let (killed, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (began, asked) = (Instant::now(), AtomicUsize::new(0));
    // How many tries each question took, before and after.
    let mut tries = thread::scope(|scope| {
        let (cluster, killed, over, asked) = (&cluster, &killed, &over, &asked);
        let askers: Vec<_> = (0..3)
            .map(|asker| {
                scope.spawn(move || {
                    let mut tries = Vec::new();
                    for number in (asker..).step_by(3) {
                        // Also if what is awaited does not come.
                        if over.load(Ordering::Relaxed) || began.elapsed() > 2 * LIMIT {
                            break;
                        }
                        let late = killed.load(Ordering::Relaxed);
                        let name = format!("n{}.good.lab", number % 500);
                        let answered = (1..=TRIES).find(|_| {
                            let answer = cluster.ask(host, cgroup, &name, 2);
                            answer.status().as_deref() == Some("NOERROR")
                        });
                        tries.push((late, answered));
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    tries
                })
            })
            .collect();
        let await_more = || {
            let before = asked.load(Ordering::Relaxed);
            wait_until("questions are asked", LIMIT, || {
                Ok(asked.load(Ordering::Relaxed) >= before + ENOUGH)
            })
            .unwrap();
        };
        await_more();
        killed.store(true, Ordering::Relaxed);
        let pid = Pid::from_raw(victim.cast_signed());
        signal::kill(pid, Signal::SIGKILL).unwrap();
        cluster.await_node(0, false);
        await_more();
        over.store(true, Ordering::Relaxed);
        let found = askers.into_iter().flat_map(|asker| asker.join().unwrap());
        found.collect::<Vec<_>>()
    });
    tries.sort_unstable();
    let count = |late: bool, tries_of_it: Option<usize>| {
        tries
            .iter()
            .filter(|one| **one == (late, tries_of_it))
            .count()
    };
    for late in [false, true] {
        println!(
            "{}: {} answered at once, {} at the second try, {} at the third, {} never",
            if late { "after the kill" } else { "before" },
            count(late, Some(1)),
            count(late, Some(2)),
            count(late, Some(3)),
            count(late, None)
        );
    }
    assert!(count(false, Some(1)) > 20 && count(true, Some(1)) > 20);
    assert!(count(true, Some(2)) > 0, "somebody was hit");
    for late in [false, true] {
        assert_eq!(
            count(late, Some(3)) + count(late, None),
            0,
            "one retry is enough"
        );
    }
    let lines = cluster.audit();
    let again = lines.iter().filter(|line| line["attempt"] == 2);
    assert!(again.clone().all(|line| line["node"] == "lab/node-2"));
    assert!(again.count() > 0);
}

#[test]
fn a_node_leaves_and_comes_back_by_its_health() {
    const HEALTH: &str = "node.cluster-health.";
    let bench = Bench::with_bare_tunnel();
    let mut cluster = Cluster::new(bench.topology.vpn(), 2, 0);
    let host = bench.topology.host();
    let resolves = |cluster: &Cluster<'_>| {
        let answer = cluster.ask(host, None, SignedZones::SIGNED, 5);
        answer.status().as_deref() == Some("NOERROR")
    };

    let began = Instant::now();
    cluster.kill(0);
    cluster.await_node(0, false);
    println!("down {} ms after the kill", began.elapsed().as_millis());
    assert!(resolves(&cluster));
    let began = Instant::now();
    cluster.revive(0);
    cluster.await_node(0, true);
    println!("up {} ms after its start", began.elapsed().as_millis());

    // Drained: it is there, and asked no more.
    cluster.node(0).control(&["local_data_remove", HEALTH]);
    cluster.await_node(0, false);
    assert!(resolves(&cluster));
    cluster
        .node(0)
        .control(&["local_data", HEALTH, "1", "IN", "A", "127.0.0.1"]);
    cluster.await_node(0, true);

    // Somebody with its address, but not its certificate.
    cluster.kill(0);
    cluster.impersonate(0);
    cluster.revive(0);
    cluster.await_node(0, false);
    assert!(resolves(&cluster));

    // Without any node there is an answer at once.
    cluster.kill(1);
    cluster.await_node(1, false);
    let nobody = cluster.ask(host, None, SignedZones::SIGNED, 5);
    assert_eq!(nobody.status().as_deref(), Some("SERVFAIL"));
}

#[test]
fn the_audit_log_goes_on_after_it_was_moved() {
    let bench = Bench::with_bare_tunnel();
    let cluster = Cluster::new(bench.topology.vpn(), 1, 0);
    let host = bench.topology.host();
    let log = cluster.audit_log();
    drop(cluster.ask(host, None, "before.good.lab", 5));
    let moved = log.with_extension("1");
    fs::rename(&log, &moved).unwrap();
    wait_until("it is opened anew", GIVEN_UP, || Ok(log.exists())).unwrap();
    drop(cluster.ask(host, None, "after.good.lab", 5));
    let mut count = Command::new("grep");
    count.args(["-c", "before.good.lab"]).arg(moved);
    assert_eq!(output_within(count, LIMIT).unwrap().stdout, b"1\n");
    let lines = cluster.audit();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["name"], "after.good.lab.");
}

/// They were a page in Lua, which dnsdist ran beside its other Lua, and did not outlive for long.
#[test]
fn dnsdist_outlives_the_reading_of_its_metrics() {
    const COUNT: usize = 1000;
    const TIMES: usize = 3;
    let bench = Bench::with_bare_tunnel();
    let mut cluster = Cluster::new(bench.topology.vpn(), 1, COUNT);
    let (host, vpn) = (bench.topology.host(), bench.topology.vpn());
    let _exporter = cluster.export(vpn);
    let page = || {
        let mut curl = vpn.command("curl");
        curl.args(["--silent", "--globoff", "--max-time", "20"]);
        curl.arg("http://127.0.0.1:9100/metrics?collect[]=textfile");
        String::from_utf8(output_within(curl, LIMIT).unwrap().stdout).unwrap()
    };
    let up = "resolver_cluster_node_up{node=\"node-1\",region=\"lab\"} 1\n";
    wait_until(
        "node_exporter listens",
        GIVEN_UP,
        || Ok(page().contains(up)),
    )
    .unwrap();

    let (over, directory) = (AtomicBool::new(false), tempfile::tempdir().unwrap());
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut readings = 0;
            while !over.load(Ordering::Relaxed) {
                let page = page();
                assert!(page.contains(up), "{page}");
                readings += 1;
            }
            readings
        });
        let names = names(COUNT);
        for _ in 0..TIMES {
            assert_eq!(ask_all(host, &names, directory.path()), COUNT);
        }
        over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 10);
    });
    cluster.check_dnsdist();

    let total = format!(
        "resolver_cluster_questions_total{{node=\"node-1\",rcode=\"NOERROR\",region=\"lab\"}} {}",
        TIMES * COUNT
    );
    let mut last = String::new();
    let counted = wait_until(&total, GIVEN_UP, || {
        last = page();
        Ok(last.lines().any(|line| line == total))
    });
    assert!(counted.is_ok(), "{last}");
    assert!(last.contains("\nnode_textfile_scrape_error 0\n"), "{last}");
    assert_metrics(&cluster.metrics_file());
}

/// A node called `ca` got the authority's own files.
#[test]
fn certificates_are_made_for_no_node_whose_files_are_others() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/resolver-cluster/make-certificates.sh");
    let directory = tempfile::tempdir().unwrap();
    let make = |node: &str| {
        let mut command = Command::new(&script);
        command.arg(directory.path());
        command.args(["resolver.lab", "10.8.0.1", "node-1", node]);
        output_within(command, LIMIT).unwrap()
    };
    for node in ["ca", "cluster", "../node", "-node", ""] {
        let refused = make(node);
        assert_eq!(refused.status.code(), Some(2), "{node:?}: {refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("a node cannot be called"), "{said}");
        assert!(!directory.path().join("ca.key").exists(), "{node:?}");
    }
    assert!(make("node-2").status.success(), "control");
    assert!(directory.path().join("node-2.key").exists());
}

#[test]
fn a_new_certificate_is_taken_without_a_restart() {
    let bench = Bench::with_bare_tunnel();
    let cluster = Cluster::new(bench.topology.vpn(), 1, 0);
    let before = cluster.fingerprint();
    cluster.renew();
    wait_until("the certificate is another", GIVEN_UP, || {
        Ok(cluster.fingerprint() != before)
    })
    .unwrap();
    let answer = cluster.ask(bench.topology.host(), None, SignedZones::SIGNED, 5);
    assert_eq!(answer.status().as_deref(), Some("NOERROR"), "{answer:?}");
}

#[test]
fn a_line_that_cannot_be_written_is_counted_and_the_question_answered() {
    const NONE: &str = "resolver_cluster_audit_lines_lost_total{region=\"lab\"} 0";
    let bench = Bench::with_bare_tunnel();
    let cluster = Cluster::new(bench.topology.vpn(), 1, 0);
    let full = cluster.audit_log().with_extension("full");
    symlink("/dev/full", &full).unwrap();
    fs::rename(&full, cluster.audit_log()).unwrap();
    // It is opened within a second; what is asked before is written to what was there.
    wait_until("a line is lost", GIVEN_UP, || {
        let answer = cluster.ask(bench.topology.host(), None, SignedZones::SIGNED, 5);
        assert_eq!(answer.status().as_deref(), Some("NOERROR"), "{answer:?}");
        let metrics = cluster.metrics();
        Ok(metrics.contains("audit_lines_lost_total{") && !metrics.contains(NONE))
    })
    .unwrap();
}
