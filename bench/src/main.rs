//! What leakguard costs, beside what could be used in its place: `cargo xtask bench`.
//!
//! Every figure comes from rounds in which all contenders take turns, in one run; comparisons are ratios of those.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are rounded in the end"
)]

mod cluster;
mod drops;
mod events;
mod growth;
mod host;
mod kill_switch;
mod plot;
mod processor;
mod programs;
mod reaction;
mod report;
mod rounds;
mod scene;
mod sockets;
mod traffic;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use report::Report;

/// Measures what leakguard costs.
#[derive(Debug, Parser)]
struct Cli {
    /// What to measure; everything if nothing is named.
    sections: Vec<Section>,
    /// How many rounds count.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u16).range(3..))]
    rounds: u16,
    /// Where the report and its diagrams go.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// What the resolver cluster answers with one node and more, and when a node dies.
    Cluster,
    /// What one run of each kernel program takes.
    Programs,
    /// What the calls of sockets take.
    Sockets,
    /// What a packet takes through the real kernel.
    Traffic,
    /// What a packet takes that is dropped.
    Drops,
    /// What a packet takes while everything but the tunnel is shut.
    KillSwitch,
    /// How soon the agent does what it is to do.
    Reaction,
    /// How the agent's cost grows with what it looks after.
    Growth,
    /// What telling of dropped packets takes.
    Events,
}

impl Section {
    fn measure(self, rounds: usize, report: &mut Report) -> Result<()> {
        match self {
            Self::Cluster => cluster::measure(rounds, report),
            Self::Programs => programs::measure(rounds, report),
            Self::Sockets => sockets::measure(rounds, report),
            Self::Traffic => traffic::measure(rounds, report),
            Self::Drops => drops::measure(rounds, report),
            Self::KillSwitch => kill_switch::measure(rounds, report),
            Self::Reaction => reaction::measure(rounds, report),
            Self::Growth => growth::measure(rounds, report),
            Self::Events => events::measure(rounds, report),
        }
    }
}

fn main() -> Result<()> {
    let Cli {
        mut sections,
        rounds,
        output,
    } = Cli::parse();
    if sections.is_empty() {
        sections = Section::value_variants().to_vec();
    }
    let mut report = Report::new(&output)?;
    for section in sections {
        section.measure(rounds.into(), &mut report)?;
    }
    Ok(())
}
