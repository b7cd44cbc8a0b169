//! The resolver cluster of `deploy/resolver-cluster` under dnsperf: what each node adds, and what a node's death costs.
//!
//! Everything runs on one machine, where more nodes are no more processors. So each node may use the same small share of one
//! (cgroup quota), which makes the nodes what there is least of, as they are where each has a machine.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use leakguard::lab::{Netns, Topology, address, output_within};
use leakguard_tests::{Bounded, Cluster};

use crate::report::{Report, Table};
use crate::rounds::{Contender, Samples, interleave};

/// How many nodes the largest cluster has.
const NODES: usize = 3;
/// How many names are asked for; all are in the caches before anything is measured.
const NAMES: usize = 500;
/// What a node may use of one processor: so many microseconds, each time in so many.
const QUOTA: (u32, u32) = (4_000, 50_000);
/// Questions a second where latency is measured, and where nodes die: less than one node can answer.
const RATE: u32 = 100;
/// How long a run of dnsperf lasts, in seconds.
const RUN: u32 = 5;
/// The same where a node dies, and when it does.
const DEADLY_RUN: u32 = 16;
const DEATH: Duration = Duration::from_secs(5);
/// How long health checks take to notice at most, in seconds.
const NOTICED: u32 = 3;
/// How many seconds a day has.
const DAY: f64 = 86_400.0;
/// How many runs show a death.
const DEATHS: usize = 5;

/// Measures clusters of one node and more.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let topologies: Vec<_> = (0..NODES).map(|_| topology()).collect::<Result<_>>()?;
    let mut sites = Vec::new();
    for (index, topology) in topologies.iter().enumerate() {
        sites.push(Site::new(topology.vpn(), index + 1)?);
    }
    throughput(&sites, rounds, report)?;
    latency(&sites, rounds, report)?;
    let largest = sites.last_mut().context("there are clusters")?;
    deaths(largest, report)
}

/// The lab without a tunnel: dnsperf runs where dnsdist does, so that nothing is measured that is not the cluster.
fn topology() -> Result<Topology> {
    let topology = Topology::new()?;
    topology.vpn().ip_batch(&format!(
        "addr add {}/32 dev lo\naddr add {}/128 dev lo\n",
        address::TUNNEL_RESOLVER_V4,
        address::TUNNEL_RESOLVER_V6
    ))?;
    Ok(topology)
}

fn throughput(sites: &[Site<'_>], rounds: usize, report: &mut Report) -> Result<()> {
    let mut contenders: Vec<_> = sites
        .iter()
        .map(|site| {
            Contender::new(site.title(), || {
                let run = site.perform(RUN, &["-q", "100"])?;
                Ok(run.latencies.len() as f64 / f64::from(RUN))
            })
        })
        .collect();
    let rows = interleave(rounds, &mut contenders)?;
    report.add(&Table {
        title: "Answers of a resolver cluster over TLS".into(),
        unit: "1/s",
        rows,
        baseline: Some(0),
        note: format!(
            "dnsperf with 8 connections and up to 100 questions at a time, names in the cache. {}",
            limits()
        ),
    })
}

fn latency(sites: &[Site<'_>], rounds: usize, report: &mut Report) -> Result<()> {
    const PARTS: [(&str, f64); 3] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];
    let tails = RefCell::new(vec![Vec::new(); sites.len()]);
    let rate = RATE.to_string();
    let mut contenders: Vec<_> = sites
        .iter()
        .enumerate()
        .map(|(index, site)| {
            let (tails, rate) = (&tails, &rate);
            Contender::new(site.title(), move || {
                let run = site.perform(RUN, &["-q", "1000", "-Q", rate])?;
                ensure!(run.lost == 0, "{} answers are missing", run.lost);
                tails.borrow_mut()[index].push(run.latencies);
                Ok(0.0)
            })
        })
        .collect();
    interleave(rounds, &mut contenders)?;
    drop(contenders);
    let mut rows = Vec::new();
    for (site, runs) in sites.iter().zip(tails.into_inner()) {
        for (name, part) in PARTS {
            // The first only warms.
            let values = runs
                .iter()
                .skip(1)
                .map(|run| Samples::new("", run.clone()).quantile(part) * 1e3);
            rows.push(Samples::new(
                format!("{}, {name}", site.title()),
                values.collect(),
            ));
        }
    }
    report.add(&Table {
        title: "Latency of a resolver cluster over TLS".into(),
        unit: "ms",
        rows,
        baseline: None,
        note: format!(
            "dnsperf at {RATE} questions a second, names in the cache. {}",
            limits()
        ),
    })
}

fn deaths(site: &mut Site<'_>, report: &mut Report) -> Result<()> {
    let rate = RATE.to_string();
    let (mut rates, mut lost) = ([const { Vec::new() }; 3], Vec::new());
    for _ in 0..DEATHS {
        let victim = site.cluster.node(0).pid();
        let (run, killed) = thread::scope(|scope| {
            let killer = scope.spawn(move || {
                thread::sleep(DEATH);
                kill(victim)
            });
            let run = site.perform(DEADLY_RUN, &["-q", "10000", "-Q", &rate, "-t", "2"]);
            (run, killer.join())
        });
        let killed = killed.ok().context("nobody killed the node")??;
        lost.push(run?.lost as f64);
        site.cluster.await_node(0, false);
        let counted = site.answers_around(killed)?;
        for (rates, counted) in rates.iter_mut().zip(counted) {
            rates.push(counted);
        }
        site.revive(0);
    }
    let note = format!(
        "dnsperf, which repeats no question, at {RATE} questions a second; counted in the audit log. {}",
        limits()
    );
    let phases = [
        "the 3 s before".to_owned(),
        format!("the {NOTICED} s after, in which health checks notice"),
        "the 6 s after those".to_owned(),
    ];
    let rows = phases
        .into_iter()
        .zip(rates)
        .map(|(name, values)| Samples::new(name, values));
    report.add(&Table {
        title: "Answers around the death of one node of three".into(),
        unit: "1/s",
        rows: rows.collect(),
        baseline: Some(0),
        note: note.clone(),
    })?;
    report.add(&Table {
        title: "Questions that the death of one node of three leaves without an answer".into(),
        unit: "questions",
        rows: vec![Samples::new(format!("of {}", RATE * DEADLY_RUN), lost)],
        baseline: None,
        note,
    })
}

/// Kills a node; gives when, in seconds of the day.
fn kill(pid: u32) -> Result<f64> {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).context("cannot kill a node")?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(now.as_secs_f64().rem_euclid(DAY))
}

/// `2026-11-30T09:37:36.149044Z` in seconds of the day.
fn seconds_of_day(time: &str) -> Option<f64> {
    let (_, clock) = time.strip_suffix('Z')?.split_once('T')?;
    clock.split(':').try_fold(0.0, |seconds, part| {
        part.parse::<f64>().ok().map(|part| seconds * 60.0 + part)
    })
}

fn limits() -> String {
    let (quota, period) = QUOTA;
    let share = f64::from(quota) / f64::from(period) * 100.0;
    format!("Each node may use {share:.1} % of one processor ({quota} of every {period} µs).")
}

/// A cluster, and what it is asked.
struct Site<'lab> {
    // Declared in the order in which they go: a cgroup can be removed when nobody is in it.
    cluster: Cluster<'lab>,
    quotas: Vec<Bounded>,
    nodes: usize,
    directory: tempfile::TempDir,
    vpn: &'lab Netns,
}

impl<'lab> Site<'lab> {
    fn new(vpn: &'lab Netns, nodes: usize) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut questions = String::new();
        for number in 0..NAMES {
            writeln!(questions, "n{number}.good.lab A")?;
        }
        fs::write(directory.path().join("questions"), questions)?;
        let mut site = Self {
            cluster: Cluster::new(vpn, nodes, NAMES),
            nodes,
            quotas: Vec::new(),
            directory,
            vpn,
        };
        // Before the nodes are slowed down, all names into the caches.
        let run = site.perform(2 * RUN, &["-q", "50"])?;
        ensure!(run.latencies.len() >= NAMES, "the cluster does not answer");
        for number in 0..nodes {
            site.limit(number);
        }
        Ok(site)
    }

    fn title(&self) -> String {
        match self.nodes {
            1 => "1 node".into(),
            nodes => format!("{nodes} nodes"),
        }
    }

    fn limit(&mut self, number: usize) {
        let quota = bound(self.cluster.node(number).pid());
        self.quotas.push(quota);
    }

    /// Answers a second in the 3 s before a moment, while it is noticed, and in the 6 s after that.
    fn answers_around(&self, moment: f64) -> Result<[f64; 3]> {
        let noticed = f64::from(NOTICED);
        let phases = [(-3.0, 0.0), (0.0, noticed), (noticed, noticed + 6.0)];
        let mut counts = [0.0; 3];
        for line in self.cluster.audit() {
            let time = line["time"].as_str().and_then(seconds_of_day);
            let time = time.context("a line without its time")?;
            // It may have been midnight.
            let distance = (time - moment + DAY / 2.0).rem_euclid(DAY) - DAY / 2.0;
            for (count, (from, to)) in counts.iter_mut().zip(phases) {
                if line["rcode"] == "NOERROR" && (from..to).contains(&distance) {
                    *count += 1.0 / (to - from);
                }
            }
        }
        Ok(counts)
    }

    fn revive(&mut self, number: usize) {
        self.cluster.revive(number);
        self.cluster.await_node(number, true);
        self.limit(number);
    }

    /// Asks over TLS for so many seconds.
    fn perform(&self, seconds: u32, options: &[&str]) -> Result<Run> {
        let mut dnsperf = self.vpn.command("dnsperf");
        let server = address::TUNNEL_RESOLVER_V4.to_string();
        dnsperf.args(["-m", "dot", "-c", "8", "-v", "-s", &server]);
        dnsperf.args(["-l", &seconds.to_string(), "-d"]);
        dnsperf
            .arg(self.directory.path().join("questions"))
            .args(options);
        let limit = Duration::from_secs(u64::from(seconds) + 30);
        let output = output_within(dnsperf, limit)?;
        ensure!(output.status.success(), "dnsperf: {output:?}");
        Run::parse(&String::from_utf8(output.stdout)?)
    }
}

/// What dnsperf found.
struct Run {
    /// Of each answer without an error, in seconds.
    latencies: Vec<f64>,
    lost: usize,
}

impl Run {
    fn parse(text: &str) -> Result<Self> {
        // > NOERROR n1.good.lab A 0.000123
        let latencies = text.lines().filter_map(|line| {
            let line = line.strip_prefix("> NOERROR ")?;
            line.split_whitespace().next_back()?.parse().ok()
        });
        let lost = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Queries lost:"))
            .and_then(|line| line.split_whitespace().next())
            .context("dnsperf does not say what was lost")?;
        Ok(Self {
            latencies: latencies.collect(),
            lost: lost.parse()?,
        })
    }
}

/// Bounds what a process may use of the processors, until the cgroup is dropped.
fn bound(pid: u32) -> Bounded {
    let (quota, period) = QUOTA;
    let cgroup = Bounded::new("cpu", "cpu.cfs_quota_us", &format!("node-{pid}"));
    if cgroup.is_unified() {
        cgroup.set("cpu.max", &format!("{quota} {period}"));
    } else {
        cgroup.set("cpu.cfs_period_us", &period.to_string());
        cgroup.set("cpu.cfs_quota_us", &quota.to_string());
    }
    cgroup.add(pid);
    cgroup
}
