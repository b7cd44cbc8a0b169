//! Guards side by side, and what they add to the same packets.

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;

use super::{Guard, Load, Scene};
use crate::processor::pinned;
use crate::report::{Report, Table};
use crate::rounds::{Contender, Samples, interleave};

/// How many turns of a contender make a round: a turn takes a millisecond, and what disturbs one should not make a round.
const TURNS: usize = 15;

/// A host, and what its guard is called.
pub(crate) type Host = (&'static str, Scene);

/// What they are compared in.
pub(crate) struct Contest {
    /// What is measured.
    pub(crate) title: &'static str,
    /// Of a turn's value.
    pub(crate) unit: &'static str,
    /// Whose value is taken off the others', and whose remainder they are told as multiples of; without it, the values
    /// themselves are told, as multiples of the former's.
    pub(crate) added: Option<&'static str>,
    /// How many datagrams are sent between two looks at the clock.
    pub(crate) burst: u32,
    /// What the reader has to know.
    pub(crate) note: fn(&[Host]) -> String,
}

/// Builds hosts under a guard each; all stand at once.
pub(crate) fn hosts(guards: Vec<(&'static str, Guard)>) -> Result<Vec<Host>> {
    let hosts = guards.into_iter().map(|(name, guard)| {
        let scene = Scene::new(&guard).with_context(|| format!("the host under {name}"))?;
        Ok((name, scene))
    });
    hosts.collect()
}

impl Contest {
    /// Measures a load at each of the hosts; the first is what the others are compared with.
    pub(crate) fn hold(
        &self,
        hosts: &[Host],
        load: impl Fn(&Scene) -> Result<Load>,
        rounds: usize,
        report: &mut Report,
    ) -> Result<()> {
        let mut contenders = Vec::new();
        for (name, scene) in hosts {
            let mut load = load(scene)?;
            contenders.push(Contender::new(*name, move || {
                scene.settle()?;
                load.turn(self.burst)
            }));
        }
        let turns = in_peace(|| interleave(rounds * TURNS, &mut contenders))?;
        let Contest {
            title,
            unit,
            added,
            burst: _,
            note,
        } = *self;
        report.add(&Table {
            title: title.into(),
            unit,
            rows: turns.iter().map(|row| row.medians(TURNS)).collect(),
            baseline: Some(0),
            note: note(hosts),
        })?;
        let Some(added) = added else {
            return Ok(());
        };
        let rows: Vec<Samples> = turns[1..]
            .iter()
            .map(|row| row.minus(&turns[0]).medians(TURNS))
            .collect();
        report.add(&Table {
            title: format!("{title}: what is added"),
            unit,
            baseline: rows.iter().position(|row| row.name == added),
            rows,
            note: format!("The difference to {} in the same turn.", turns[0].name),
        })
    }
}

/// Calls `measure` while the calling thread stays on one CPU, so that what its packets cause in the kernel is done there too,
/// and while others rarely interrupt it.
fn in_peace<T>(measure: impl FnOnce() -> Result<T>) -> Result<T> {
    pinned(0, || {
        favour(-20)?;
        let measured = measure();
        favour(0)?;
        measured
    })?
}

/// Sets how nice the calling thread is to others.
fn favour(niceness: i32) -> Result<()> {
    // SAFETY: three numbers; 0 is the calling thread.
    let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    Errno::result(set)?;
    Ok(())
}
