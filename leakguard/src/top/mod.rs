//! The live view: a pure model that snapshots and events change, and a pure picture of it. The command that runs them
//! is in `cli`.

mod model;
mod view;

pub use model::{ClassRow, Deed, Model, Offender, Snapshot};
pub use view::draw;

#[cfg(test)]
mod tests;
