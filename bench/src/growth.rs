//! How the agent's cost grows: with interfaces, tunnels, known resolvers, and namespaces that each have an agent.

use std::fmt::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use leakguard::lab::Agent;
use leakguard_tests::{Tun, write_config};

use crate::host::{Host, elapsed_until, milliseconds, resident};
use crate::report::{Report, Table};
use crate::rounds::Samples;

const INTERFACES: [usize; 5] = [1, 10, 100, 1000, 5000];
const TUNNELS: [usize; 5] = [1, 4, 16, 64, 256];
const RESOLVERS: [usize; 5] = [10, 100, 1000, 10_000, 100_000];
const NAMESPACES: [usize; 4] = [1, 4, 16, 64];

/// How long agents are left alone while what they take is measured: four times the interval of their watchdog.
const QUIET: Duration = Duration::from_secs(20);

/// Measures all of it.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    interfaces(rounds, report)?;
    tunnels(rounds, report)?;
    resolvers(rounds, report)?;
    namespaces(report)
}

/// What is measured of an agent.
#[derive(Default)]
struct Figures {
    starts: Vec<Samples>,
    readings: Vec<Samples>,
    memory: Vec<Samples>,
}

impl Figures {
    /// Starts an agent several times, and asks each for what changes nothing.
    fn take(&mut self, name: &str, host: &Host, arguments: &[&str], rounds: usize) -> Result<()> {
        let [mut starts, mut readings, mut memory] = [(); 3].map(|()| Vec::new());
        for round in 0..=rounds {
            let probe = host.probe(53);
            let start = Instant::now();
            let mut agent = host.spawn(arguments)?;
            let mut ended = None;
            let refused = elapsed_until("local DNS is refused", start, || {
                ended = agent.exit_status().transpose();
                ended.is_some() || probe.is_refused()
            })?;
            ensure!(ended.is_none(), "the agent has ended: {}", agent.stderr());
            drop(agent);
            if round > 0 {
                starts.push(refused);
            }
        }
        let agent = host.protect(arguments)?;
        for round in 0..=rounds {
            let reading = reading(host, &agent)?;
            if round > 0 {
                readings.push(reading);
                memory.push(resident(agent.pid())?);
            }
        }
        agent.release()?;
        self.starts.push(Samples::new(name, starts));
        self.readings.push(Samples::new(name, readings));
        self.memory.push(Samples::new(name, memory));
        Ok(())
    }

    fn report(self, of: &str, report: &mut Report) -> Result<()> {
        let Self {
            starts,
            readings,
            memory,
        } = self;
        for (title, unit, rows, note) in [
            (
                format!("From exec to local DNS being refused, by {of}"),
                "ms",
                starts,
                "",
            ),
            (
                format!("Reading everything again, by {of}"),
                "ms of CPU",
                readings,
                "Nothing has changed.",
            ),
            (format!("Resident memory, by {of}"), "MiB", memory, ""),
        ] {
            report.add(&Table {
                title,
                unit,
                rows,
                baseline: Some(0),
                note: note.into(),
            })?;
        }
        Ok(())
    }
}

/// What the agent takes to read links and routes once and to find that nothing has changed.
///
/// Whoever asks it to permit a tunnel that is permitted makes it read them twice.
fn reading(host: &Host, agent: &Agent) -> Result<f64> {
    const TIMES: u32 = 5;

    let before = host.cpu()?;
    for _ in 0..TIMES {
        let output = agent.output(&["allow", "add", Host::TUNNEL])?;
        ensure!(output.status.success(), "{output:?}");
    }
    Ok((host.cpu()? - before) / f64::from(2 * TIMES))
}

fn interfaces(rounds: usize, report: &mut Report) -> Result<()> {
    let mut figures = Figures::default();
    for count in INTERFACES {
        let host = Host::new()?;
        let _tun = Tun::new(&host.netns, Host::TUNNEL);
        // Loopback, the uplink, the tunnel and a gateway are there in any case.
        host.add_pairs("v", count.saturating_sub(4).div_ceil(2))?;
        let arguments = ["--local", "v*", "--local", "peer-*"];
        figures.take(&count.to_string(), &host, &arguments, rounds)?;
    }
    figures.report("interfaces", report)
}

fn tunnels(rounds: usize, report: &mut Report) -> Result<()> {
    let mut figures = Figures::default();
    let host = Host::new()?;
    let mut tunnels = vec![Tun::new(&host.netns, Host::TUNNEL)];
    for count in TUNNELS {
        for number in tunnels.len()..count {
            tunnels.push(Tun::new(&host.netns, &format!("tun{number}")));
        }
        figures.take(&count.to_string(), &host, &["--tunnel", "tun*"], rounds)?;
    }
    figures.report("tunnels that may carry DNS", report)
}

fn resolvers(rounds: usize, report: &mut Report) -> Result<()> {
    let mut figures = Figures::default();
    for count in RESOLVERS {
        let host = Host::new()?;
        let _tun = Tun::new(&host.netns, Host::TUNNEL);
        let mut list = String::new();
        for number in 0..count {
            let (high, low) = (number >> 8 & 0xff, number & 0xff);
            // Writing to a string does not fail.
            let _infallible = writeln!(list, "20.{}.{high}.{low}", number >> 16);
        }
        let list = write_config(&list);
        let config = format!("[dns]\ndoh_resolvers = \"{}\"\n", list.path().display());
        let config = write_config(&config);
        let path = config.path().to_str().context("a path of plain text")?;
        figures.take(&count.to_string(), &host, &["--config", path], rounds)?;
    }
    figures.report("known resolvers", report)
}

/// Each namespace has an agent of its own.
fn namespaces(report: &mut Report) -> Result<()> {
    let mut guarded: Vec<(Host, Agent)> = Vec::new();
    let [mut shares, mut memory] = [(); 2].map(|()| Vec::new());
    for count in NAMESPACES {
        while guarded.len() < count {
            let host = Host::new()?;
            let agent = host.protect(&[])?;
            guarded.push((host, agent));
        }
        let taken = || -> Result<f64> { guarded.iter().map(|(host, _)| host.cpu()).sum() };
        let (before, start) = (taken()?, Instant::now());
        // Nothing is awaited: this is how long is measured.
        sleep(QUIET);
        let share = 100.0 * (taken()? - before) / milliseconds(start.elapsed());
        let agents = guarded.iter().map(|(_, agent)| resident(agent.pid()));
        let resident = agents.sum::<Result<f64>>()?;
        shares.push(Samples::new(count.to_string(), vec![share]));
        memory.push(Samples::new(count.to_string(), vec![resident]));
    }
    for (title, unit, rows) in [
        ("Nothing to do, by namespaces", "% of a core", shares),
        ("Resident memory, by namespaces", "MiB", memory),
    ] {
        report.add(&Table {
            title: title.into(),
            unit,
            rows,
            baseline: Some(0),
            note: "One agent for each namespace; of all together, once.".into(),
        })?;
    }
    Ok(())
}
