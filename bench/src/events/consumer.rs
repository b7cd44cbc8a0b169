//! Those who write down what was dropped, or sent: leakguard, and what could be used in its place.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use leakguard::lab::{Daemon, Netns, Topology, output_within, wait_until};
use leakguard_tests::{Bench, Resident, resident};
use nix::fcntl::{FallocateFlags, fallocate};
use serde_json::Value;
use tempfile::TempDir;

use super::cpu;
use super::flood::{Sender, Sent};
use crate::processor::pinned;

/// How long anything may take to start or to end.
const LIMIT: Duration = Duration::from_secs(20);
/// The processors of who sends and who consumes.
const SENDING: usize = 0;
const CONSUMING: usize = 1;
/// The group of the kernel's log that packets go to.
const GROUP: u16 = 5;
/// A name that every question asks for.
const ZONE: &str = "flood.lab.test";

/// What is written of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A line, which holds this once.
    Line(&'static str),
    /// A record of a capture.
    Capture,
}

/// One that consumes, on a network of its own.
pub(super) struct Consumer {
    pub(super) name: &'static str,
    // Declared in the order in which they go.
    _daemon: Option<Daemon>,
    bench: Bench,
    sender: Sender,
    pids: Vec<u32>,
    output: PathBuf,
    /// How much of the output is of earlier turns.
    seen: u64,
    form: Form,
    _directory: TempDir,
}

/// What one turn came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) delivered: u64,
    /// Of the consumer.
    pub(super) cpu: Duration,
}

/// Which output of leakguard is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The agent's standard output, as JSON.
    Stdout,
    /// The file of the configuration, beside the text on standard output.
    File,
    /// What `leakguard events --follow --json` prints.
    Follower,
}

impl Consumer {
    /// leakguard, with so many events in a second of each sender and destination; 0 for all.
    pub(super) fn leakguard(name: &'static str, kind: Kind, rate: u32) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut bench = Bench::new();
        let file = directory.path().join("events.ndjson");
        let written = (kind == Kind::File).then(|| format!("file = \"{}\"\n", file.display()));
        let written = written.unwrap_or_default();
        let config = format!("[events]\nrate_per_key = {rate}\n{written}");
        let path = write(directory.path(), "leakguard.toml", &config)?;
        let mut arguments = vec!["--config", path.to_str().context("a path")?];
        if kind == Kind::Stdout {
            arguments.extend(["--log-format", "json"]);
        }
        let agent = bench.protect(&arguments);
        let mut pids = vec![agent.pid()];
        let (daemon, output) = match kind {
            Kind::Stdout => (None, fs::read_link(format!("/proc/{}/fd/1", pids[0]))?),
            Kind::File => (None, file),
            Kind::Follower => {
                let command = agent.command(&["events", "--follow", "--json"]);
                let daemon = Daemon::start(command, directory.path())?;
                pids.push(daemon.pid());
                let output = fs::read_link(format!("/proc/{}/fd/1", daemon.pid()))?;
                (Some(daemon), output)
            }
        };
        Self::new(
            name,
            bench,
            daemon,
            pids,
            output,
            Form::Line(ZONE),
            directory,
        )
    }

    /// nftables logs and drops; ulogd reads that, and writes it by the module of this name.
    pub(super) fn nflog(name: &'static str, module: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let bench = Bench::new();
        let output = directory.path().join("ulogd.out");
        let config = format!(
            "[global]\nlogfile=\"{log}\"\nloglevel=5\n\
             plugin=\"{modules}/ulogd_inppkt_NFLOG.so\"\n\
             plugin=\"{modules}/ulogd_raw2packet_BASE.so\"\n\
             plugin=\"{modules}/ulogd_filter_IFINDEX.so\"\n\
             plugin=\"{modules}/ulogd_filter_IP2STR.so\"\n\
             plugin=\"{modules}/ulogd_filter_PRINTPKT.so\"\n\
             plugin=\"{modules}/ulogd_output_LOGEMU.so\"\n\
             plugin=\"{modules}/ulogd_output_JSON.so\"\n\
             stack=log:NFLOG,base:BASE,ifi:IFINDEX,ip2str:IP2STR,{stack}\n\
             [log]\ngroup={GROUP}\n\
             netlink_socket_buffer_size=4194304\nnetlink_socket_buffer_maxsize=4194304\n\
             [out]\nfile=\"{output}\"\n",
            log = directory.path().join("ulogd.log").display(),
            modules = modules()?.display(),
            stack = match module {
                "LOGEMU" => "print:PRINTPKT,out:LOGEMU".to_owned(),
                module => format!("out:{module}"),
            },
            output = output.display(),
        );
        let path = write(directory.path(), "ulogd.conf", &config)?;
        let host = bench.topology.host();
        drop_dns(host, directory.path(), &format!("log group {GROUP} drop"))?;
        let mut command = host.command("ulogd");
        command.arg("-c").arg(path);
        let daemon = Daemon::start(command, directory.path())?;
        let pids = vec![daemon.pid()];
        // JSON is without what is in the packet, too.
        let form = Form::Line(if module == "JSON" {
            "\"dest_port\": 53"
        } else {
            "DPT=53"
        });
        let consumer = Self::new(name, bench, Some(daemon), pids, output, form, directory)?;
        Ok(consumer)
    }

    /// nftables drops, and tells nobody.
    pub(super) fn silent(name: &'static str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let bench = Bench::new();
        drop_dns(bench.topology.host(), directory.path(), "drop")?;
        let output = write(directory.path(), "nothing", "")?;
        Self::new(
            name,
            bench,
            None,
            Vec::new(),
            output,
            Form::Line(ZONE),
            directory,
        )
    }

    /// tcpdump at the uplink, where nothing is dropped.
    pub(super) fn tcpdump(name: &'static str, arguments: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let bench = Bench::new();
        let mut command = bench.topology.host().command("tcpdump");
        command
            .args(["-i", Topology::UPLINK, "-n", "-Z", "root"])
            .args(arguments)
            .arg("udp dst port 53");
        let daemon = Daemon::start(command, directory.path())?;
        let pids = vec![daemon.pid()];
        let output = fs::read_link(format!("/proc/{}/fd/1", daemon.pid()))?;
        let form = match arguments {
            ["-w", ..] => Form::Capture,
            _ => Form::Line(ZONE),
        };
        wait_until("tcpdump listens", LIMIT, || {
            Ok(daemon.stderr().contains("listening on"))
        })?;
        Self::new(name, bench, Some(daemon), pids, output, form, directory)
    }

    fn new(
        name: &'static str,
        bench: Bench,
        daemon: Option<Daemon>,
        pids: Vec<u32>,
        output: PathBuf,
        form: Form,
        directory: TempDir,
    ) -> Result<Self> {
        for &pid in &pids {
            cpu::pin(pid, CONSUMING)?;
        }
        let sender = Sender::new(&bench);
        Ok(Self {
            name,
            _daemon: daemon,
            bench,
            sender,
            pids,
            output,
            seen: 0,
            form,
            _directory: directory,
        })
    }

    /// Whether it drops what it tells of.
    fn drops(&self) -> bool {
        self.form != Form::Capture && !self.name.starts_with("tcpdump")
    }

    /// Sends so many packets, and waits until all that was buffered is written.
    pub(super) fn turn(&mut self, packets: u32) -> Result<Turn> {
        let before = self.at_rest()?;
        self.flood(packets)?;
        let after = self.at_rest()?;
        Ok(Turn {
            delivered: self.count()?,
            cpu: after.saturating_sub(before),
        })
    }

    /// What leakguard's agent says of itself.
    pub(super) fn status(&mut self) -> Result<Value> {
        Ok(self.bench.agent().status_json()?)
    }

    /// The most memory that leakguard's agent has had, and what it has now, in KiB.
    pub(super) fn memory(&mut self) -> Result<Resident> {
        resident(self.bench.agent().pid()).context("the agent has ended")
    }

    /// How many packets the events in the output stand for, also as suppressed.
    pub(super) fn told(&self) -> Result<u64> {
        let mut told = 0;
        for line in BufReader::new(File::open(&self.output)?).lines() {
            let event: Value = serde_json::from_str(&line?)?;
            let packets = event["packets"].as_u64().unwrap_or_default();
            told += packets + event["suppressed"].as_u64().unwrap_or_default();
        }
        Ok(told)
    }

    /// Floods, and does not look at what is written.
    pub(super) fn flood(&self, packets: u32) -> Result<Sent> {
        pinned(SENDING, || self.sender.flood(packets, self.drops()))?
    }

    /// Waits until all that is buffered is written; returns the time that the consumer has run.
    pub(super) fn at_rest(&self) -> Result<Duration> {
        cpu::at_rest(&self.pids)
    }

    /// Counts what was written since the last time, and gives its space back.
    fn count(&mut self) -> Result<u64> {
        let mut file = File::options().read(true).write(true).open(&self.output)?;
        file.seek(SeekFrom::Start(self.seen))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (count, whole) = match self.form {
            Form::Line(mark) => {
                let text = String::from_utf8_lossy(&bytes);
                // A program that buffers has written part of a line: it is of the next turn.
                let whole = text.rfind('\n').map_or(0, |end| end + 1);
                let lines = text[..whole].lines();
                (
                    lines.filter(|line| line.contains(mark)).count() as u64,
                    whole,
                )
            }
            Form::Capture => records(&bytes, self.seen == 0),
        };
        self.seen += whole as u64;
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if let Ok(length @ 1..) = i64::try_from(self.seen) {
            fallocate(&file, punch, 0, length)?;
        }
        Ok(count)
    }
}

/// How many whole records there are, and where they end.
fn records(bytes: &[u8], begins: bool) -> (u64, usize) {
    const FILE_HEADER: usize = 24;
    const RECORD_HEADER: usize = 16;

    let mut at = if begins { FILE_HEADER } else { 0 };
    let mut count = 0;
    while let Some(length) = bytes.get(at + 8..at + 12) {
        let length = length.try_into().map_or(0, u32::from_le_bytes) as usize;
        if at + RECORD_HEADER + length > bytes.len() {
            break;
        }
        at += RECORD_HEADER + length;
        count += 1;
    }
    (count, at.min(bytes.len()))
}

/// Where ulogd's modules are.
fn modules() -> Result<PathBuf> {
    let library = PathBuf::from("/usr/lib");
    let mut places = vec![library.join("ulogd")];
    for entry in fs::read_dir(&library)? {
        places.push(entry?.path().join("ulogd"));
    }
    let found = places
        .into_iter()
        .find(|place| place.join("ulogd_output_JSON.so").exists());
    found.context("ulogd's modules are missing: the packages ulogd2 and ulogd2-json")
}

/// Writes a file that nobody else may change.
fn write(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(path)
}

/// Has nftables do this with DNS that the host sends.
fn drop_dns(host: &Netns, directory: &Path, verdict: &str) -> Result<()> {
    let rules = format!(
        "table inet drop_dns {{\n chain out {{\n type filter hook output priority 0;\n\
         udp dport 53 {verdict}\n }}\n}}\n"
    );
    let mut nft = host.command("nft");
    nft.arg("-f").arg(write(directory, "rules.nft", &rules)?);
    let output = output_within(nft, LIMIT)?;
    ensure!(output.status.success(), "nft: {output:?}");
    Ok(())
}
