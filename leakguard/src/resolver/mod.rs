//! Whom this host asks for names: set up so that nothing changes it, and put back to the byte.
//!
//! [`Plan`] works out, from what there [is](Host) and from the settings, what has to be where; it changes nothing.
//! [`apply`] carries it out and [`revert`] takes it back, by a [journal](Journal) of what was there before. Everything is
//! below a [`Root`], so that images and tests are treated as the host is.

mod attributes;
mod bytes;
mod change;
mod error;
mod execute;
mod host;
mod journal;
mod json;
mod node;
mod plan;
mod root;
mod seam;
mod state;
mod surroundings;
mod texts;
mod units;
mod watch;

pub(crate) use self::attributes::is_immutable;
pub use self::{
    change::Change,
    error::ResolverError,
    execute::{Done, Foreign, apply, plan, revert},
    host::Host,
    journal::Journal,
    plan::Plan,
    root::Root,
    state::{Drift, State},
    surroundings::Surroundings,
    watch::{Found, Watch},
};
