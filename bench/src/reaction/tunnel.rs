//! From a tunnel's end to the kill switch.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use leakguard::lab::{Netns, output_within};
use leakguard_tests::{Tun, write_config};

use super::announced::Announcement;
use crate::host::{Host, Probe, elapsed_until, milliseconds, settle};
use crate::report::{Report, Table};
use crate::rounds::Samples;

const LIMIT: Duration = Duration::from_secs(10);

/// How often: the slowest of a hundred count.
const REPETITIONS: usize = 220;

pub(super) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let host = Host::new()?;
    let repetitions = REPETITIONS.max(rounds);
    let mut ends = Ends::default();
    {
        let config = write_config("[kill_switch]\nmode = \"tunnel-down\"\n");
        let path = config.path().to_str().context("a path of plain text")?;
        let mut tun = Tun::new(&host.netns, Host::TUNNEL);
        up(&host.netns)?;
        let agent = host.protect(&["--config", path])?;
        let probe = host.probe(443);
        // Who answers has done all that the tunnel's coming calls for.
        let at_rest = || -> Result<()> {
            settle("the tunnel counts as up", || !probe.is_refused())?;
            agent.status_json()?;
            Ok(())
        };
        at_rest()?;
        for _ in 0..repetitions {
            let announced = Announcement::of(&host.netns, Host::TUNNEL)?;
            ends.deleted(&delete(tun, &probe)?, announced)?;
            tun = Tun::new(&host.netns, Host::TUNNEL);
            up(&host.netns)?;
            at_rest()?;
            let announced = Announcement::of(&host.netns, Host::TUNNEL)?;
            ends.down(&set_down(&host.netns, &probe)?, announced)?;
            up(&host.netns)?;
            at_rest()?;
        }
    }
    let script = script(&host, rounds)?;
    ends.report(repetitions, script, report)
}

/// How a tunnel ended, in milliseconds from the call that ends it.
struct End {
    start: Instant,
    /// When the call was done.
    done: f64,
    /// When the first packet was refused.
    refused: f64,
}

impl End {
    /// How much later than the kernel's word for it packets were refused, in milliseconds.
    fn since(&self, announced: Announcement) -> Result<f64> {
        let said = milliseconds(announced.heard()?.duration_since(self.start));
        Ok((self.refused - said).max(0.0))
    }
}

/// All that were seen.
#[derive(Default)]
struct Ends {
    kernel: Vec<f64>,
    deleted: Vec<f64>,
    down: Vec<f64>,
    after_deleted: Vec<f64>,
    after_down: Vec<f64>,
}

impl Ends {
    fn deleted(&mut self, end: &End, announced: Announcement) -> Result<()> {
        self.kernel.push(end.done);
        self.deleted.push(end.refused);
        self.after_deleted.push(end.since(announced)?);
        Ok(())
    }

    fn down(&mut self, end: &End, announced: Announcement) -> Result<()> {
        self.down.push(end.refused);
        self.after_down.push(end.since(announced)?);
        Ok(())
    }

    fn report(self, repetitions: usize, script: Vec<f64>, report: &mut Report) -> Result<()> {
        let rows = vec![
            Samples::new("the kernel removes the tunnel", self.kernel),
            Samples::new("leakguard: tunnel deleted", self.deleted),
            Samples::new("leakguard: tunnel down", self.down),
            Samples::new("a script with ip monitor and nft: tunnel deleted", script),
        ];
        report.add(&Table {
            title:
                "From the call that ends the tunnel to the first packet that is refused on the uplink"
                    .into(),
            unit: "ms",
            note: format!("{repetitions} times each; {}", p99(&rows)),
            rows,
            baseline: None,
        })?;
        let rows = vec![
            Samples::new("tunnel deleted", self.after_deleted),
            Samples::new("tunnel down", self.after_down),
        ];
        report.add(&Table {
            title: "From the kernel's word that the tunnel has gone to the first packet that is refused"
                .into(),
            unit: "ms",
            note: format!(
                "As another listener hears it; 0 if that was later. {repetitions} times each; {}",
                p99(&rows)
            ),
            rows,
            baseline: None,
        })
    }
}

fn p99(rows: &[Samples]) -> String {
    let each = rows
        .iter()
        .map(|row| format!("{}: {:.2}", row.name, row.quantile(0.99)));
    format!("p99 in ms: {}.", each.collect::<Vec<_>>().join("; "))
}

fn up(netns: &Netns) -> Result<()> {
    netns.ip(&["link", "set", Host::TUNNEL, "up"])?;
    Ok(())
}

/// Closes the tunnel, which deletes it.
fn delete(tun: Tun, probe: &Probe) -> Result<End> {
    thread::scope(|scope| {
        let start = Instant::now();
        let closing = scope.spawn(move || {
            drop(tun);
            milliseconds(start.elapsed())
        });
        let refused = elapsed_until("the kill switch engages", start, || probe.is_refused())?;
        let done = closing.join().ok().context("the thread panicked")?;
        Ok(End {
            start,
            done,
            refused,
        })
    })
}

/// Sets the tunnel down, by a program that has started before.
fn set_down(netns: &Netns, probe: &Probe) -> Result<End> {
    let mut command = netns.command("ip");
    command.args(["-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut commands = child.stdin.take().context("it has a pipe")?;
    let answers = child.stdout.take().context("it has a pipe")?;
    commands.write_all(b"link show dev lo\n")?;
    let mut answer = String::new();
    BufReader::new(answers).read_line(&mut answer)?;
    let start = Instant::now();
    commands.write_all(format!("link set {} down\n", Host::TUNNEL).as_bytes())?;
    drop(commands);
    let refused = elapsed_until("the kill switch engages", start, || probe.is_refused())?;
    child.wait()?;
    let done = milliseconds(start.elapsed());
    Ok(End {
        start,
        done,
        refused,
    })
}

/// What people write instead: something that hears of links and then calls nft.
fn script(host: &Host, rounds: usize) -> Result<Vec<f64>> {
    nft(host, &["add", "table", "inet", "bench"])?;
    let chain = "{ type filter hook output priority 0; }";
    nft(host, &["add", "chain", "inet", "bench", "output", chain])?;
    let mut monitor = host.netns.command("ip");
    monitor.args(["monitor", "link"]).stdout(Stdio::piped());
    let mut monitor = monitor.spawn()?;
    let events = monitor.stdout.take().context("it has a pipe")?;
    let values = thread::scope(|scope| {
        scope.spawn(|| react(host, events));
        let values = repeat(host, rounds);
        // That ends the other thread too.
        let ended = monitor.kill().and_then(|()| monitor.wait());
        ended.map_err(Into::into).and(values)
    })?;
    nft(host, &["delete", "table", "inet", "bench"])?;
    Ok(values)
}

fn nft(host: &Host, arguments: &[&str]) -> Result<()> {
    let mut command = host.netns.command("nft");
    command.args(arguments);
    output_within(command, LIMIT)?;
    Ok(())
}

/// Shuts the uplink whenever the tunnel has gone.
fn react(host: &Host, events: impl Read) {
    let lines = BufReader::new(events).lines().map_while(Result::ok);
    for line in lines {
        if line.contains("Deleted") && line.contains(Host::TUNNEL) {
            let rule = "add rule inet bench output oifname eth0 drop";
            let words: Vec<&str> = rule.split(' ').collect();
            // Without the rule no packet is refused, which is noticed.
            let _noticed = nft(host, &words);
        }
    }
}

fn repeat(host: &Host, rounds: usize) -> Result<Vec<f64>> {
    let probe = host.probe(443);
    let mut values = Vec::new();
    for round in 0..=rounds {
        // It cannot be asked whether it listens: the first round, which does not count, finds out.
        let refused = if round == 0 {
            first(host, &probe)?
        } else {
            let tun = Tun::new(&host.netns, Host::TUNNEL);
            up(&host.netns)?;
            delete(tun, &probe)?.refused
        };
        if round > 0 {
            values.push(refused);
        }
        // One that was late may still come.
        settle("packets pass again", || {
            nft(host, &["flush", "chain", "inet", "bench", "output"]).is_ok() && !probe.is_refused()
        })?;
    }
    Ok(values)
}

/// Ends tunnels until it is noticed.
fn first(host: &Host, probe: &Probe) -> Result<f64> {
    let start = Instant::now();
    settle("the script listens", || {
        drop(Tun::new(&host.netns, Host::TUNNEL));
        probe.is_refused()
    })?;
    Ok(milliseconds(start.elapsed()))
}
