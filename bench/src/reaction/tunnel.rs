//! From a tunnel's end to the kill switch.

use std::io::{BufRead as _, BufReader, Read};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use leakguard::lab::{Netns, output_within};
use leakguard_tests::{Tun, write_config};

use crate::host::{Host, Probe, elapsed_until, milliseconds, settle};
use crate::report::{Report, Table};
use crate::rounds::Samples;

const LIMIT: Duration = Duration::from_secs(10);

/// How often: the slowest of a hundred count.
const REPETITIONS: usize = 220;

pub(super) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let host = Host::new()?;
    let repetitions = REPETITIONS.max(rounds);
    let [mut kernel, mut deleted, mut down] = [(); 3].map(|()| Vec::new());
    {
        let config = write_config("[kill_switch]\nmode = \"tunnel-down\"\n");
        let path = config.path().to_str().context("a path of plain text")?;
        let mut tun = Tun::new(&host.netns, Host::TUNNEL);
        up(&host.netns)?;
        let _agent = host.protect(&["--config", path])?;
        let probe = host.probe(443);
        settle("the tunnel counts as up", || !probe.is_refused())?;
        for _ in 0..repetitions {
            let (gone, refused) = delete(tun, &probe)?;
            kernel.push(gone);
            deleted.push(refused);
            tun = Tun::new(&host.netns, Host::TUNNEL);
            up(&host.netns)?;
            settle("the tunnel counts as up", || !probe.is_refused())?;
            down.push(set_down(&host.netns, &probe)?);
            up(&host.netns)?;
            settle("the tunnel counts as up", || !probe.is_refused())?;
        }
    }
    let script = script(&host, rounds)?;
    let rows = vec![
        Samples::new("the kernel removes the tunnel", kernel),
        Samples::new("leakguard: tunnel deleted", deleted),
        Samples::new("leakguard: tunnel down", down),
        Samples::new("a script with ip monitor and nft: tunnel deleted", script),
    ];
    let p99: Vec<String> = rows
        .iter()
        .map(|row| format!("{}: {:.2}", row.name, row.quantile(0.99)))
        .collect();
    report.add(&Table {
        title:
            "From the call that ends the tunnel to the first packet that is refused on the uplink"
                .into(),
        unit: "ms",
        rows,
        baseline: None,
        note: format!("{repetitions} times each; p99 in ms: {}.", p99.join("; ")),
    })
}

fn up(netns: &Netns) -> Result<()> {
    netns.ip(&["link", "set", Host::TUNNEL, "up"])?;
    Ok(())
}

/// Closes the tunnel, which deletes it; says when that was done, and when a packet was refused.
fn delete(tun: Tun, probe: &Probe) -> Result<(f64, f64)> {
    thread::scope(|scope| {
        let start = Instant::now();
        let closing = scope.spawn(move || {
            drop(tun);
            milliseconds(start.elapsed())
        });
        let refused = elapsed_until("the kill switch engages", start, || probe.is_refused())?;
        let gone = closing.join().ok().context("the thread panicked")?;
        Ok((gone, refused))
    })
}

fn set_down(netns: &Netns, probe: &Probe) -> Result<f64> {
    let mut command = netns.command("ip");
    command.args(["link", "set", Host::TUNNEL, "down"]);
    let start = Instant::now();
    let mut child = command.spawn()?;
    let refused = elapsed_until("the kill switch engages", start, || probe.is_refused())?;
    child.wait()?;
    Ok(refused)
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
            delete(tun, &probe)?.1
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
