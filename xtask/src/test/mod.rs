//! `cargo xtask test`: every tier of tests, with one line per suite and `N passed, N failed` at the
//! end.

pub(crate) mod libtest;
mod run;
mod table;

use std::{io, path::PathBuf, process::ExitCode, thread, time::Duration};

use anyhow::{Result, ensure};
use clap::ValueEnum;

use self::{libtest::Tally, run::Runner};
use crate::{
    build, process,
    report::{self, say},
    setup,
    workspace::{self, Metadata},
};

/// What one test binary may take.
const SUITE_LIMIT: Duration = Duration::from_mins(15);

/// What one may take in its long form.
const SOAK_LIMIT: Duration = Duration::from_mins(30);

/// How many tests of the netns tier run at once: they wait more than they compute.
const TESTS_PER_PROCESSOR: usize = 2;

/// The package of the tests that need root.
const PRIVILEGED_PACKAGE: &str = "leakguard-tests";

/// Its test targets that depend on what the kernel has; they run on other kernels too (`cargo xtask vm-test`).
pub(crate) const KERNEL_TARGETS: &[&str] = &["attribution", "budgets", "kernel", "verdicts"];

/// Those for what the machine's kernel need not have; they run on other kernels only (`cargo xtask vm-test`).
pub(crate) const GUEST_TARGETS: &[&str] = &["carriers", "devices", "ipvlan"];

/// The one for a kernel that leakguard refuses; it runs on such a one only (`cargo xtask vm-test no-btf`).
pub(crate) const NO_BTF_TARGET: &str = "without_btf";

/// Those of the netns tier whose programs no other target loads; they run on other kernels too (`cargo xtask vm-test`).
pub(crate) const REDIRECT_TARGETS: &[&str] = &["redirect_forwarded", "redirection"];

/// What continuous integration runs on another kernel.
pub(crate) const QUICK_TARGETS: &[&str] = &[
    "attribution",
    "budgets",
    "carriers",
    "ipvlan",
    "kernel",
    "verdicts",
];

/// Whether a target sets up a tunnel or a resolver of the lab.
pub(crate) fn has_tunnel(target: &str) -> bool {
    target == "devices" || REDIRECT_TARGETS.contains(&target)
}

/// Those that have a long form (`cargo xtask soak`), which `leakguard_tests::soaks` asks for.
const SOAK_TARGETS: &[&str] = &[
    "agent_life",
    "leases",
    "lost_events",
    "takeover",
    "tunnel_life",
];

/// Those that write tables of packets sent and seen (`--report`).
const REPORT_TARGETS: &[&str] = &["forms", "redirect"];

/// The variable that asks the tests for their long form.
const SOAK_VARIABLE: &str = "LEAKGUARD_SOAK";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this.
    filter: Option<String>,
    /// Run only this tier.
    #[arg(long, value_enum, default_value_t)]
    tier: TierChoice,
    /// Run only the tests that count what leaves the host in every form by every path, and print the tables.
    #[arg(long, conflicts_with = "tier")]
    report: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum TierChoice {
    /// Unit and property tests; no privileges.
    Unit,
    /// Programs run by the kernel on given packets; root.
    Kernel,
    /// Real sockets in network namespaces; root.
    Netns,
    #[default]
    All,
}

impl TierChoice {
    fn tiers(self) -> &'static [Tier] {
        match self {
            Self::Unit => &[Tier::Unit],
            Self::Kernel => &[Tier::Kernel],
            Self::Netns => &[Tier::Netns],
            Self::All => &[Tier::Unit, Tier::Kernel, Tier::Netns],
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tier {
    Unit,
    Kernel,
    Netns,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Kernel => "kernel",
            Self::Netns => "netns",
        }
    }

    fn needs_root(self) -> bool {
        self != Self::Unit
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    Ok(tally(args)?.conclude())
}

/// Runs the chosen tiers and counts.
pub(crate) fn tally(args: &Args) -> Result<Tally> {
    if args.report {
        return tabulate(args.filter.clone());
    }
    let tiers = args.tier.tiers();
    if tiers.iter().any(|tier| tier.needs_root()) {
        setup::ensure_all()?;
    } else {
        setup::ensure_build_tools()?;
    }

    let mut session = Session::new(args.filter.clone())?;
    let mut total = Tally::default();
    for &tier in tiers {
        total += session.run_tier(tier).unwrap_or_else(|error| {
            // What cannot be built or started has failed; the other tiers still say what they know.
            report::error(&error.context(format!("the {} tier did not run", tier.name())));
            Tally::FAILED
        });
    }
    if total == Tally::default() {
        say("test", "nothing was run");
    }
    Ok(total)
}

/// Runs the tests that write tables, prints these, and counts.
fn tabulate(filter: Option<String>) -> Result<Tally> {
    setup::ensure_all()?;
    let mut session = Session::new(filter)?;
    session.scope = Scope::Report;
    let tally = session.run_tier(Tier::Netns)?;
    for line in table::lines(&session.log_dir.join(table::DIRECTORY))? {
        report::line(line);
    }
    Ok(tally)
}

/// Runs the long forms of the tests that have one, and counts.
pub(crate) fn soak(filter: Option<String>) -> Result<Tally> {
    setup::ensure_all()?;
    let mut session = Session::new(filter)?;
    session.scope = Scope::Long;
    let tally = session.run_tier(Tier::Netns)?;
    let log = session.log_dir.join(format!("{SOAK_LOG}.log"));
    say("soak", format_args!("what was counted: {}", log.display()));
    Ok(tally)
}

/// The log of the long forms.
const SOAK_LOG: &str = "soak";

/// A test binary.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) name: String,
    pub(crate) binary: PathBuf,
}

/// Builds the test binaries of these targets, for other kernels.
pub(crate) fn guest_binaries(targets: &[&str]) -> Result<Vec<Suite>> {
    let cargo = || {
        workspace::cargo("test")
            .args(["--locked", "--no-run", "--package", PRIVILEGED_PACKAGE])
            .args(targets.iter().map(|target| format!("--test={target}")))
    };
    say("test", "suites for other kernels: building");
    cargo().arg("--quiet").run()?;
    let messages = cargo()
        .args(["--quiet", "--message-format=json"])
        .output()?;
    let suites: Vec<Suite> = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        // The package's programs are built with its tests.
        .filter(|message: &serde_json::Value| message["profile"]["test"] == true)
        .filter_map(|message| {
            Some(Suite {
                name: message["target"]["name"].as_str()?.to_owned(),
                binary: message["executable"].as_str()?.into(),
            })
        })
        .collect();
    ensure!(
        suites.len() == targets.len(),
        "cargo names {} test binaries instead of {}",
        suites.len(),
        targets.len()
    );
    Ok(suites)
}

/// What all tiers of one invocation share.
struct Session {
    metadata: Metadata,
    filter: Option<String>,
    log_dir: PathBuf,
    /// The agent under test, once it is built.
    agent: Option<PathBuf>,
    /// The one with the next ABI.
    next_agent: Option<PathBuf>,
    scope: Scope,
}

/// Which of a tier's tests are run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    All,
    /// The long forms of those that have one.
    Long,
    /// Those that write tables.
    Report,
}

impl Scope {
    fn includes(self, target: &str) -> bool {
        match self {
            Self::All => true,
            Self::Long => SOAK_TARGETS.contains(&target),
            Self::Report => REPORT_TARGETS.contains(&target),
        }
    }
}

impl Session {
    fn new(filter: Option<String>) -> Result<Self> {
        let metadata = Metadata::load()?;
        let log_dir = metadata.target_dir()?.join("test-logs");
        Ok(Self {
            metadata,
            filter,
            log_dir,
            agent: None,
            next_agent: None,
            scope: Scope::All,
        })
    }

    fn run_tier(&mut self, tier: Tier) -> Result<Tally> {
        let selection = match tier {
            // The workspace's default members.
            Tier::Unit => Vec::new(),
            Tier::Kernel | Tier::Netns => self.privileged_targets(tier)?,
        };
        if tier.needs_root() && selection.is_empty() {
            say(
                "test",
                format_args!("{} tier: there are no tests", tier.name()),
            );
            return Ok(Tally::default());
        }

        let mut envs = Vec::new();
        if tier.needs_root() {
            let agent = match &self.agent {
                Some(agent) => agent,
                None => self.agent.insert(build::agent(true)?),
            };
            envs.push(("LEAKGUARD_BIN", agent.to_string_lossy().into_owned()));
        }
        // Only the tests of an upgrade need it, and none of them writes a table.
        if tier == Tier::Netns && self.scope != Scope::Report {
            let next = match &self.next_agent {
                Some(next) => next,
                None => self.next_agent.insert(build::next_agent()?),
            };
            envs.push(("LEAKGUARD_NEXT_BIN", next.to_string_lossy().into_owned()));
        }
        if tier == Tier::Netns && self.scope == Scope::All {
            let rotel = setup::rotel::ensure()?;
            envs.push(("LEAKGUARD_ROTEL", rotel.to_string_lossy().into_owned()));
            let work = build::measurements()?.join("leakguard-work");
            envs.push(("LEAKGUARD_WORK", work.to_string_lossy().into_owned()));
        }
        if tier == Tier::Netns {
            let rows = table::prepare(&self.log_dir)?;
            envs.push((table::VARIABLE, rows.to_string_lossy().into_owned()));
        }
        let (name, limit) = match self.scope {
            Scope::All => (tier.name(), SUITE_LIMIT),
            Scope::Report => (table::DIRECTORY, SUITE_LIMIT),
            Scope::Long => {
                envs.push((SOAK_VARIABLE, "1".to_owned()));
                (SOAK_LOG, SOAK_LIMIT)
            }
        };

        say("test", format_args!("{} tier: building", tier.name()));
        workspace::cargo("test")
            .args(&selection)
            .arg("--no-run")
            .arg("--quiet")
            .run()?;

        let mut cargo = workspace::cargo("test")
            .arg("--no-fail-fast")
            .args(&selection)
            .arg("--config")
            .arg(runner_config(&runner_words(tier, &envs, limit)?))
            .env("CARGO_TERM_COLOR", "never");
        for (key, value) in envs {
            cargo = cargo.env(key, value);
        }
        cargo = cargo.arg("--");
        if tier == Tier::Netns && self.scope == Scope::All {
            let threads = TESTS_PER_PROCESSOR * thread::available_parallelism()?.get();
            cargo = cargo.arg(format!("--test-threads={threads}"));
        }
        if let Some(filter) = &self.filter {
            cargo = cargo.arg(filter);
        }
        if self.scope == Scope::Long {
            cargo = cargo.arg("--show-output");
        }
        say(
            "test",
            format_args!(
                "{} tier{}",
                tier.name(),
                if tier.needs_root() { ", as root" } else { "" }
            ),
        );
        Runner::new(io::stdout(), &self.log_dir, name)?.run(&cargo)
    }

    /// The arguments that make cargo run the privileged package's test targets of `tier`; none if
    /// it has none.
    fn privileged_targets(&self, tier: Tier) -> Result<Vec<String>> {
        let mut arguments = Vec::new();
        for package in self.metadata.packages()? {
            if package.name != PRIVILEGED_PACKAGE {
                continue;
            }
            for target in package.test_targets {
                if GUEST_TARGETS.contains(&target.as_str()) || target == NO_BTF_TARGET {
                    continue;
                }
                let is_kernel = KERNEL_TARGETS.contains(&target.as_str());
                if is_kernel == (tier == Tier::Kernel) && self.scope.includes(&target) {
                    arguments.push(format!("--test={target}"));
                }
            }
        }
        if tier == Tier::Netns && self.scope == Scope::All {
            // The harness's own tests enter namespaces too.
            arguments.push("--lib".to_owned());
        }
        if !arguments.is_empty() {
            arguments.push(format!("--package={PRIVILEGED_PACKAGE}"));
        }
        Ok(arguments)
    }
}

/// The words in front of every test binary: they make it root where the tier needs that, and bound
/// its time.
fn runner_words(tier: Tier, envs: &[(&str, String)], limit: Duration) -> Result<Vec<String>> {
    let mut words = Vec::new();
    if tier.needs_root() && !process::is_root()? {
        ensure!(
            process::find_program("sudo").is_some(),
            "the {} tier needs root and there is no sudo; run `cargo xtask test` as root",
            tier.name()
        );
        words.extend(["sudo", "-E", "env"].map(str::to_owned));
        words.extend(envs.iter().map(|(key, value)| format!("{key}={value}")));
    }
    words.extend(process::bound(limit).map(|word| word.to_string_lossy().into_owned()));
    Ok(words)
}

/// Makes cargo start every test binary with `words` in front.
fn runner_config(words: &[String]) -> String {
    // A JSON array of strings is a TOML array too.
    let words = serde_json::Value::from(words.to_vec());
    format!("target.'cfg(all())'.runner={words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_is_toml() {
        let config = runner_config(&["sudo".to_owned(), "A=b \"c\"".to_owned()]);
        assert_eq!(config, r#"target.'cfg(all())'.runner=["sudo","A=b \"c\""]"#);
    }

    #[test]
    fn only_the_unit_tier_is_unprivileged() {
        let privileged: Vec<&str> = TierChoice::All
            .tiers()
            .iter()
            .filter(|tier| tier.needs_root())
            .map(|tier| tier.name())
            .collect();
        assert_eq!(privileged, ["kernel", "netns"]);
    }
}
