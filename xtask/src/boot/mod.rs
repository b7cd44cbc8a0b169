//! `cargo xtask boot`: the units on a real Debian with systemd, watched from power-on to power-off.
//!
//! A guest asks for names all the time, in every way that is blocked; its network card is a tap device in a namespace
//! of this test's own, where everything is captured. It boots without protection first: what is seen then shows that
//! silence means something. The kernel, the root file system and the emulator are those of `cargo xtask vm-test`, or are
//! made by the same means.

mod machine;
pub(crate) mod rootfs;

use std::{fmt::Write as _, fs, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};
use clap::builder::PossibleValuesParser;
use serde_json::Value;

use self::machine::{Life, Machine, initramfs};
use crate::{
    build,
    report::{self, line, say},
    setup,
    test::libtest::Tally,
    vm::kernel::Kernel,
    workspace::Metadata,
};

/// The series of the kernel: the newest of Debian's.
const KERNEL: &str = "6.12";

/// What is asked of one life of the machine.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    /// The units that are enabled.
    enabled: &'static str,
    /// More words of the kernel's command line.
    append: &'static str,
    /// Whether the agent runs and enforces everything when the machine is up.
    protected: bool,
    /// In which phases names may be asked for; `None` if that is only reported.
    leaks: [Option<bool>; 3],
}

/// What the machine lives through: first without protection and with it, then why there are two units, and that there
/// is a way out.
const SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "without",
        enabled: "",
        append: "",
        protected: false,
        leaks: [Some(true); 3],
    },
    Scenario {
        name: "early-and-agent",
        enabled: "leakguard-early,leakguard",
        append: "",
        protected: true,
        leaks: [Some(false); 3],
    },
    Scenario {
        name: "agent-only",
        enabled: "leakguard",
        append: "",
        protected: true,
        // Nothing orders the network after it: who is first is a matter of luck.
        leaks: [None, Some(false), Some(false)],
    },
    Scenario {
        name: "agent-late",
        enabled: "leakguard",
        append: "guest.late",
        protected: true,
        // What gets out until the agent is there is the reason for the other unit.
        leaks: [Some(true), Some(false), Some(false)],
    },
    Scenario {
        name: "leakguard.off",
        enabled: "leakguard-early,leakguard",
        append: "leakguard.off",
        protected: false,
        leaks: [Some(true); 3],
    },
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to live through [default: everything]
    #[arg(
        value_name = "SCENARIO",
        value_parser = PossibleValuesParser::new(SCENARIOS.map(|scenario| scenario.name))
    )]
    scenarios: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let wanted = |name: &str| args.scenarios.is_empty() || args.scenarios.iter().any(|n| n == name);
    Ok(tally(wanted)?.conclude())
}

/// Lives through the scenarios that are wanted, and counts those that went as they should.
pub(crate) fn tally(wanted: impl Fn(&str) -> bool) -> Result<Tally> {
    setup::ensure_all()?;
    setup::ensure_boot()?;
    let agent = build::agent(true)?;
    let kernel = Kernel::find(KERNEL)?;
    let image = rootfs::image(&kernel)?;
    let work_dir = Metadata::load()?.target_dir()?.join("boot");
    fs::create_dir_all(&work_dir)
        .with_context(|| format!("cannot create {}", work_dir.display()))?;
    let start = work_dir.join("initramfs.cpio");
    initramfs(&start, &kernel, &agent)?;
    let machine = Machine {
        kernel: &kernel,
        initramfs: &start,
        image: &image,
        work_dir: &work_dir,
    };

    let mut total = Tally::default();
    let mut table = format!(
        "  {:<16} {:>8} {:>12} {:>9} {:>15}\n",
        "", "packets", "DNS: booting", "when up", "after power-off"
    );
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        let started = Instant::now();
        say("boot", format_args!("{}: starting", scenario.name));
        let failures = match live(&machine, scenario) {
            Ok(life) => {
                let Life { packets, dns, .. } = &life;
                writeln!(
                    table,
                    "  {:<16} {packets:>8} {:>12} {:>9} {:>15}",
                    scenario.name, dns[0], dns[1], dns[2]
                )?;
                judge(scenario, &life)
            }
            Err(error) => {
                report::error(&error);
                vec!["it did not live".to_owned()]
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        let outcome = if failures.is_empty() { "ok" } else { "FAILED" };
        say(
            "boot",
            format_args!("{}: {outcome} ({seconds:.1} s)", scenario.name),
        );
        for failure in &failures {
            line(format_args!("  {failure}"));
        }
        total += if failures.is_empty() {
            Tally {
                passed: 1,
                failed: 0,
            }
        } else {
            Tally::FAILED
        };
    }
    line(table.trim_end());
    Ok(total)
}

fn live(machine: &Machine<'_>, scenario: &Scenario) -> Result<Life> {
    let Scenario {
        name,
        enabled,
        append,
        ..
    } = scenario;
    let life = machine.live(name, &format!("guest.enable={enabled} {append}"))?;
    for said in &life.said {
        line(format_args!("    {said}"));
    }
    Ok(life)
}

/// What went otherwise than it should; one sentence each.
fn judge(scenario: &Scenario, life: &Life) -> Vec<String> {
    let mut failures = Vec::new();
    let phases = ["while it booted", "when it was up", "after power-off"];
    for ((phase, expected), seen) in phases.iter().zip(scenario.leaks).zip(life.dns) {
        match expected {
            Some(true) if seen == 0 => {
                failures.push(format!(
                    "nobody asked for a name {phase}: silence would prove nothing"
                ));
            }
            Some(false) if seen > 0 => failures.push(format!("{seen} packets of DNS {phase}")),
            _ => {}
        }
    }
    let wanted = if scenario.protected { "full" } else { "none" };
    let levels: Vec<String> = life.said.iter().filter_map(|said| level(said)).collect();
    if levels.is_empty() || levels.iter().any(|level| level != wanted) {
        failures.push(format!("the level was {levels:?}, not {wanted}"));
    }
    for unit in ["leakguard-early", "leakguard"] {
        let enabled = scenario.enabled.split(',').any(|name| name == unit);
        let wanted = if enabled && scenario.protected {
            "active"
        } else {
            "inactive"
        };
        let state = life.word(&format!("unit {unit} ")).unwrap_or("unknown");
        if state != wanted {
            failures.push(format!("{unit}.service was {state}, not {wanted}"));
        }
    }
    let restarted = life
        .word("restarted ")
        .is_some_and(|how| how.ends_with(": active"));
    if restarted != scenario.protected {
        failures.push("the agent was not restarted as it should".to_owned());
    }
    if !failures.is_empty() {
        failures.push(format!("the console is in {}", life.console.display()));
    }
    failures
}

/// The level in what `leakguard status --json` printed.
fn level(said: &str) -> Option<String> {
    let json = said.strip_prefix("status ")?;
    let level = serde_json::from_str::<Value>(json)
        .ok()
        .and_then(|status| status["level"].as_str().map(str::to_owned));
    Some(level.unwrap_or_else(|| "unknown".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(said: &[&str], dns: [usize; 3]) -> Life {
        Life {
            said: said.iter().map(|&said| said.to_owned()).collect(),
            dns,
            ..Life::default()
        }
    }

    const GOOD: [&str; 4] = [
        "unit leakguard-early active",
        "unit leakguard active",
        "restarted from 1 to 2: active",
        r#"status {"level":"full"}"#,
    ];

    #[test]
    fn a_protected_machine_is_silent() {
        let [without, protected, ..] = SCENARIOS;
        assert_eq!(judge(&protected, &life(&GOOD, [0; 3])), [""; 0]);
        assert!(!judge(&protected, &life(&GOOD, [0, 0, 1])).is_empty());
        assert!(!judge(&without, &life(&GOOD, [1; 3])).is_empty());
    }

    #[test]
    fn silence_without_protection_is_a_failure() {
        let open = [
            "unit leakguard-early inactive",
            "unit leakguard inactive",
            r#"status {"level":"none"}"#,
        ];
        let [without, ..] = SCENARIOS;
        assert_eq!(judge(&without, &life(&open, [3, 2, 1])), [""; 0]);
        assert!(!judge(&without, &life(&open, [3, 2, 0])).is_empty());
    }

    #[test]
    fn a_status_that_is_not_json_is_no_level() {
        assert_eq!(level(r#"status {"level":"full"}"#).unwrap(), "full");
        assert_eq!(level("status error: no").unwrap(), "unknown");
        assert_eq!(level("unit leakguard active"), None);
    }
}
