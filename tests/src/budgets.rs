//! What leakguard may cost, by what does not depend on how fast or how busy a machine is.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What a kernel program may cost at most.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramBudget {
    /// How many instructions the verifier walks.
    pub verified: u32,
    /// Bytes of machine code.
    pub jited: u32,
    /// What needs them.
    pub reason: String,
}

/// What a piece of work in user space may cost at most.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkBudget {
    /// How many instructions are executed for it.
    pub instructions: u64,
    /// What needs them.
    pub reason: String,
}

/// `tests/budgets.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// By the program's name.
    pub programs: BTreeMap<String, ProgramBudget>,
    /// By the name that `leakguard-work` knows it by.
    pub work: BTreeMap<String, WorkBudget>,
}

impl Budgets {
    /// What the file says.
    pub fn read() -> Self {
        toml::from_str(include_str!("../budgets.toml")).unwrap()
    }
}
