//! The options of every command.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{
    ArgAction, Args, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use jiff::SignedDuration;
use leakguard_common::abi::Class;

use crate::{
    config::{
        Config, EventsLayer, Ipv6Policy, KillSwitchLayer, KillSwitchMode, Layer, MetricsLayer,
        Mode, PacketSockets, Preflight, Source, class_named,
    },
    error::{Exit, WithExit as _},
    interfaces::Pattern,
    outputs::audit::Hash,
    status::Level,
};

mod doctor;
mod resolver;
mod verify;

pub use self::{
    doctor::DoctorArgs,
    resolver::{
        ResolverApplyArgs, ResolverArgs, ResolverCommand, ResolverPlanArgs, ResolverRevertArgs,
        ResolverSettingsArgs, ResolverStatusArgs, RootArgs,
    },
    verify::VerifyArgs,
};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_CONTROL: &str = "/run/leakguard/control.sock";

/// Where a bpffs is mounted unless told otherwise.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";

/// The heading over options that say where something is.
const PATHS: &str = "Paths";

/// Options of `leakguard run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Enforcement stays when the agent ends, unless the file says on_exit = \"release\";
`leakguard release` lifts it.

Exit codes: 0 stopped, 2 bad usage or configuration, 4 the kernel or a privilege lacks something,
  5 somebody has released: start it again only if that is wanted

Examples:
  leakguard run --tunnel wg0
  leakguard run --tunnel 'tun*' --mode observe    only report what would be dropped
  leakguard run --tunnel auto --block dns,dot     any WireGuard or tun device; two classes")]
pub struct RunArgs {
    /// What to enforce.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// The least level at which systemd is told that the agent is ready
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = Level::Full)]
    pub min_level: Level,
    /// Where events and metrics go.
    #[command(flatten)]
    pub outputs: OutputArgs,
    /// Where to attach.
    #[command(flatten)]
    pub cgroup: CgroupArgs,
    /// Where to pin.
    #[command(flatten)]
    pub bpffs: BpffsArgs,
    /// Where to listen.
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Where events and metrics go.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Outputs (each option replaces the setting of the configuration file)"
)]
pub struct OutputArgs {
    /// Also write events to this file, one JSON object per line; SIGHUP opens it anew
    #[arg(long, value_name = "FILE", value_parser = whole_path)]
    pub events: Option<PathBuf>,
    /// Also write events to this file, each line with the hash of the one before, for `leakguard audit verify`
    #[arg(long, value_name = "FILE", value_parser = whole_path)]
    pub audit_log: Option<PathBuf>,
    /// Serve metrics for Prometheus here, such as 127.0.0.1:9853
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
}

impl OutputArgs {
    /// What the command line sets besides the policy.
    fn over(&self, layer: Layer) -> Layer {
        Layer {
            events: EventsLayer {
                file: self.events.clone(),
                audit_log: self.audit_log.clone(),
                ..EventsLayer::default()
            },
            metrics: MetricsLayer {
                listen: self.metrics,
                ..MetricsLayer::default()
            },
            ..layer
        }
    }
}

impl RunArgs {
    /// The configuration that applies; an error is marked as one of usage.
    pub fn load(&self) -> anyhow::Result<Config> {
        let layer = self.outputs.over(self.policy.layer());
        Config::load(&self.policy.source.source(), layer).with_exit(Exit::Usage)
    }
}

/// Options of `leakguard apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
Says `unchanged` if all of it is enforced already. It does not watch interfaces:
a tunnel that comes up later needs another `apply`, or use `leakguard run`.

Examples:
  leakguard apply --tunnel wg0
  leakguard apply --tunnel wg0 --confirm 60s    over SSH: undone by itself unless you can still confirm")]
pub struct ApplyArgs {
    /// What to enforce.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// If the configuration cannot be used, block on every interface, and fail
    #[arg(long)]
    pub fail_closed: bool,
    /// Where to attach.
    #[command(flatten)]
    pub cgroup: CgroupArgs,
    /// Where to pin.
    #[command(flatten)]
    pub bpffs: BpffsArgs,
    /// Where the confirmation is waited for.
    #[command(flatten)]
    pub control: ControlArgs,
    /// Go back to what was enforced before unless `leakguard confirm` is run within this time, such as 60s or 5m
    #[arg(long, value_name = "TIME", value_parser = trial_limit)]
    pub confirm: Option<Duration>,
}

/// Options of `leakguard confirm`.
#[derive(Debug, Args)]
#[command(after_help = "\
Fails if nothing waits for it, for example because it came too late.

Example:
  leakguard apply --tunnel wg0 --confirm 60s && leakguard confirm")]
pub struct ConfirmArgs {
    /// Where the confirmation is waited for.
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `leakguard status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exits 0 if the host is protected, 3 if it is not at the level asked for, or if
observe mode drops nothing.

Example:
  leakguard status --json --min-level reduced")]
pub struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The least level of enforcement that counts as protected
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = Level::Full)]
    pub min_level: Level,
    /// Whether an agent has to run as well, and to get on with its work: what a probe asks for
    #[arg(long)]
    pub require_agent: bool,
    /// Where to look.
    #[command(flatten)]
    pub bpffs: BpffsArgs,
    /// The agent to ask for.
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `leakguard events`.
#[derive(Debug, Args)]
#[command(after_help = "\
Needs a running agent. Counters, which are exact, are in `leakguard status`.
A client that reads nothing for five minutes is dropped; one that is too slow is
told how many events it missed.

Examples:
  leakguard events --follow --json | jq .process.name
  leakguard events --pcap leaks.pcapng               each packet with its process in a comment
  leakguard events --follow --pcap - | wireshark -k -i -
  leakguard events --pcap - | tshark -r - -T fields -e dns.qry.name -e frame.comment")]
pub struct EventsArgs {
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    /// Keep printing events as they come
    #[arg(short, long)]
    pub follow: bool,
    /// Write the packets to a pcapng file in place of printing; `-` is standard output; replaces a file
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub pcap: Option<PathBuf>,
    /// Whom to ask.
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `leakguard top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: q, Esc or Ctrl-C quit; p pauses; c clears senders and events; + and - change
the interval. Without an agent it shows what the kernel knows: level, interfaces
and counters, but no senders.

Example:
  leakguard top --interval 500ms")]
pub struct TopArgs {
    /// How often the counters are read, from 250ms to 60s
    #[arg(long, value_name = "TIME", value_parser = crate::cli::top::interval, default_value = "1s")]
    pub interval: Duration,
    /// Where to look.
    #[command(flatten)]
    pub bpffs: BpffsArgs,
    /// Whom to ask for events.
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `leakguard report`.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads what `leakguard events --json` printed, files of events, and audit logs; the
files may overlap in no event, and come in any order. Lines that cannot be read
are counted and named in the report. The report is one HTML file without scripts
that fetches nothing; only its owner may read it.

Examples:
  leakguard events --json > events.ndjson && leakguard report events.ndjson
  leakguard report /var/log/leakguard/events*.ndjson -o week.html
  zcat events.ndjson.*.gz | leakguard report - -o - > year.html")]
pub struct ReportArgs {
    /// Files of events, one JSON object per line; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The file to write, in place of one that is there; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,
}

/// Options of `leakguard explain`.
#[derive(Debug, Args)]
#[command(override_usage = "\
leakguard explain [OPTIONS] PROTOCOL [SOURCE] DESTINATION
       leakguard explain [OPTIONS] --pcap FILE")]
#[command(after_help = "\
Runs the kernel programs over packets without sending them: no counter and no
event comes of it. Judges by what is enforced now; where nothing is, or if a
policy option is given, by what `leakguard run` would enforce. It exits 0
whatever the verdict is.

Examples:
  leakguard explain udp 8.8.8.8:53
  leakguard explain tcp [2001:db8::10]:40000 [2001:db8::53]:853 --interface eth0
  leakguard explain udp 8.8.8.8:53 --tunnel wg0 --kill-switch always    what if
  leakguard explain --pcap leak.pcapng --forwarded --json | jq .why")]
pub struct ExplainArgs {
    /// The packet: protocol, source (optional) and destination, as in `udp 8.8.8.8:53`
    #[arg(
        value_name = "PACKET",
        num_args = 1..=3,
        required_unless_present = "pcap",
        conflicts_with = "pcap"
    )]
    pub packet: Vec<String>,
    /// Judge the packets of a pcap or pcapng file (Ethernet, IP, Linux cooked, PPP)
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// The interface that they leave by [default: what the kernel's routes say]
    #[arg(long, value_name = "IFACE", value_parser = interface_name)]
    pub interface: Option<String>,
    /// They come in by another interface, as a container's do, and are not sent by this host
    #[arg(long)]
    pub forwarded: bool,
    /// Their mark, as in 0xca6c
    #[arg(long, value_name = "MARK", value_parser = mark, default_value = "0", hide_default_value = true)]
    pub mark: u32,
    /// Print one JSON object per line: each packet, then the summary
    #[arg(long)]
    pub json: bool,
    /// What to judge by, in place of what is enforced.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Where to look.
    #[command(flatten)]
    pub bpffs: BpffsArgs,
}

/// Options of `leakguard allow`.
#[derive(Debug, Args)]
#[command(after_help = "\
An interface may be of any kind here; another kind that takes its name later
is not let through. A change lasts until the agent starts anew, also for an
interface of the same name and kind that comes later, or without an agent
until the interface goes; what is to stay belongs into the configuration file.

Example:
  leakguard allow add wg1")]
pub struct AllowArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AllowCommand,
}

/// What `leakguard allow` does.
#[derive(Debug, Subcommand)]
pub enum AllowCommand {
    /// Let an interface carry DNS
    Add(AllowChangeArgs),
    /// Stop an interface from carrying DNS
    Remove(AllowChangeArgs),
    /// List the interfaces that may carry DNS
    List(AllowListArgs),
}

/// Options of `leakguard allow add` and `remove`.
#[derive(Debug, Args)]
pub struct AllowChangeArgs {
    /// The name of an existing interface
    #[arg(value_name = "IFACE", value_parser = interface_name)]
    pub interface: String,
    /// Where to change it.
    #[command(flatten)]
    pub bpffs: BpffsArgs,
    /// The agent to tell.
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `leakguard allow list`.
#[derive(Debug, Args)]
pub struct AllowListArgs {
    /// Where to look.
    #[command(flatten)]
    pub bpffs: BpffsArgs,
}

/// Options of `leakguard audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AuditCommand,
}

/// What `leakguard audit` does.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Say whether a file is as `leakguard run --audit-log` has written it
    Verify(AuditVerifyArgs),
}

/// Options of `leakguard audit verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Finds lines that were removed, changed, inserted or moved, and says which. It
cannot find that the end was cut off, unless it is told the last hash; nor that
somebody has written the whole file anew. Keep the hash that it prints elsewhere.

Exit codes: 0 intact, 2 the file cannot be verified, 3 not intact

Example:
  leakguard audit verify /var/log/leakguard/audit.ndjson --expect-last 9f86d0…")]
pub struct AuditVerifyArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The hash that the last line must have, from an earlier run or from the agent's log
    #[arg(long, value_name = "HASH")]
    pub expect_last: Option<Hash>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Options of `leakguard release`.
#[derive(Debug, Args)]
#[command(
    after_help = "After this, DNS can leave by any interface, until `leakguard run` or `leakguard apply`. A running agent ends,\n\
                  and the unit leakguard.service does not start it again."
)]
pub struct ReleaseArgs {
    /// What to lift.
    #[command(flatten)]
    pub bpffs: BpffsArgs,
    /// The agent to tell.
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `leakguard purge`.
#[derive(Debug, Args)]
#[command(after_help = "\
Removes enforcement, pins, nftables tables, filters, sockets and directories, and
the bpffs if leakguard has mounted it. The configuration file, and what events
were written to, is yours and stays.

Before the package or the binary is removed:
  leakguard purge")]
pub struct PurgeArgs {
    /// What to remove.
    #[command(flatten)]
    pub bpffs: BpffsArgs,
    /// The agent to end, and the socket to remove.
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `leakguard config`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  leakguard config check ./leakguard.toml
  leakguard config show --tunnel wg0 > leakguard.toml")]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What `leakguard config` does.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether a file is valid and in safe hands
    Check(ConfigCheckArgs),
    /// Print the configuration that applies, as a file
    Show(ConfigShowArgs),
}

/// Options of `leakguard config check`.
#[derive(Debug, Args)]
pub struct ConfigCheckArgs {
    /// The file to check [default: /etc/leakguard/leakguard.toml]
    #[arg(value_name = "FILE", conflicts_with = "config")]
    pub file: Option<PathBuf>,
    /// The same file as an option.
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Options of `leakguard config show`.
#[derive(Debug, Args)]
pub struct ConfigShowArgs {
    /// What to show.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// Where the configuration file is.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// Configuration file, which must exist if it is named here [default: /etc/leakguard/leakguard.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl SourceArgs {
    /// The file to read.
    pub fn source(&self) -> Source {
        Source::named_or_default(self.config.clone())
    }
}

/// What is enforced: the configuration file, and what the command line puts over it.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Policy (each option replaces the setting of the configuration file)"
)]
pub struct PolicyArgs {
    /// Where the configuration file is.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Interfaces that may carry DNS.
    #[arg(
        long,
        value_name = "PATTERN",
        value_delimiter = ',',
        help = "Interface that may carry DNS: a name, a glob such as 'tun*', or `auto` for WireGuard and tun \
                devices; of a kind that can be a tunnel, unless a kind is said, as in veth:vpn0 or any:vpn0; repeat \
                it or separate by commas"
    )]
    pub tunnel: Option<Vec<Pattern>>,
    /// Interface whose packets stay on this host, besides those that are detected
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub local: Option<Vec<Pattern>>,
    /// Interface that leads off this host, besides those that are detected; wins over --local
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub uplink: Option<Vec<Pattern>>,
    /// Whether to drop DNS off the tunnel or only to report it
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// What to do if, before enforcing, no resolver is found behind a tunnel [default: warn]
    #[arg(long, value_enum)]
    pub preflight: Option<Preflight>,
    /// What to block off the tunnel, separated by commas [default: all of them]
    #[arg(long, value_name = "CLASS", value_delimiter = ',', value_parser = class_parser())]
    pub block: Option<Vec<Class>>,
    /// Send questions on port 53 to this resolver behind the tunnel, whomever a process asks; one per family
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub redirect: Option<Vec<IpAddr>>,
    /// When uplinks carry nothing but what the file exempts (VPN endpoints, DHCP, LAN) [default: off]
    #[arg(long, value_name = "MODE", value_enum)]
    pub kill_switch: Option<KillSwitchMode>,
    /// What uplinks carry of IPv6 [default: dns-only]
    #[arg(long, value_name = "POLICY", value_enum)]
    pub ipv6: Option<Ipv6Policy>,
    /// What to do about packet sockets that bypass the queueing layer, and `AF_XDP` sockets [default: deny-new]
    #[arg(long, value_name = "CHOICE", value_enum)]
    pub packet_sockets: Option<PacketSockets>,
}

impl PolicyArgs {
    /// What the command line sets.
    pub fn layer(&self) -> Layer {
        Layer {
            mode: self.mode,
            preflight: self.preflight,
            tunnel: self.tunnel.clone(),
            local: self.local.clone(),
            uplink: self.uplink.clone(),
            block: self
                .block
                .as_ref()
                .map(|classes| classes.iter().copied().collect()),
            redirect: self.redirect.clone(),
            kill_switch: KillSwitchLayer {
                mode: self.kill_switch,
                ..KillSwitchLayer::default()
            },
            ipv6: self.ipv6,
            packet_sockets: self.packet_sockets,
            ..Layer::default()
        }
    }

    /// Whether anything was given.
    pub fn is_given(&self) -> bool {
        self.source.config.is_some() || self.layer() != Layer::default()
    }

    /// The configuration that applies; an error is marked as one of usage.
    pub fn load(&self) -> anyhow::Result<Config> {
        Config::load(&self.source.source(), self.layer()).with_exit(Exit::Usage)
    }
}

/// Which cgroup is guarded.
#[derive(Debug, Args)]
#[command(next_help_heading = PATHS)]
pub struct CgroupArgs {
    /// Guard only this cgroup2 directory and what is below it [default: the root of the cgroup2 mount]
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
}

/// Where the state lives that outlasts the agent.
#[derive(Debug, Args)]
#[command(next_help_heading = PATHS)]
pub struct BpffsArgs {
    /// Directory on a bpffs that holds the enforcement
    #[arg(long, value_name = "PATH", default_value = DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
}

/// Where the agent listens.
#[derive(Debug, Args)]
#[command(next_help_heading = PATHS)]
pub struct ControlArgs {
    /// The agent's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    pub control: PathBuf,
}

/// How much is logged, and in which form; always on standard error.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Form of the log on standard error, and of the events that `run` prints
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
    /// Log more; twice for everything
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: `level: message`
    Text,
    /// For machines: one JSON object per line
    Json,
}

fn class_parser() -> impl clap::builder::TypedValueParser<Value = Class> {
    PossibleValuesParser::new(Class::ALL.iter().map(|class| class.name()))
        .try_map(|name| class_named(&name))
}

/// Completes the path of a file by the directory that this runs in.
fn whole_path(text: &str) -> Result<PathBuf, std::io::Error> {
    std::path::absolute(text)
}

/// Accepts a time from one second to one day.
fn trial_limit(text: &str) -> Result<Duration, &'static str> {
    const RANGE: std::ops::RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_hours(24);

    let parsed: SignedDuration = text
        .parse()
        .or(Err("not a time; write it with its unit, such as 60s or 5m"))?;
    Duration::try_from(parsed)
        .ok()
        .filter(|limit| RANGE.contains(limit))
        .ok_or("not between 1s and 24h")
}

/// Accepts a mark as `ip` and `wg` do, in decimal or with `0x`.
fn mark(text: &str) -> Result<u32, &'static str> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
    .ok_or("not a mark; write a number up to 0xffffffff")
}

/// Accepts what the kernel accepts as the name of an interface (`dev_valid_name` in `net/core/dev.c`).
fn interface_name(text: &str) -> Result<String, &'static str> {
    /// `IFNAMSIZ` less the terminating NUL.
    const MAX_BYTES: usize = 15;

    let refused = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
    if text.is_empty() || matches!(text, "." | "..") || text.contains(refused) {
        Err("not the name of an interface")
    } else if text.len() > MAX_BYTES {
        Err("longer than any name of an interface (15 bytes)")
    } else {
        Ok(text.to_owned())
    }
}
