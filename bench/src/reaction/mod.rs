//! How soon the agent does what it is to do, beside what the kernel takes for it, and what it takes when there is nothing to
//! do.

mod announced;
mod idle;
mod start;
mod tunnel;
mod uplinks;

use anyhow::Result;

use crate::report::Report;

/// Measures all of it.
pub(crate) fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    start::measure(rounds, report)?;
    tunnel::measure(rounds, report)?;
    uplinks::measure(rounds, report)?;
    idle::measure(report)
}
