//! The options of `leakguard doctor`.

use std::path::PathBuf;

use clap::Args;

use super::{BpffsArgs, ControlArgs, PolicyArgs};

/// Options of `leakguard doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Changes nothing, and sends nothing but a question to each resolver behind a
tunnel. Without root it says what it could not see.

Exits 0, or 3 if there is a problem; with --error 1 if the message is not known.

Examples:
  sudo leakguard doctor
  sudo leakguard doctor --json | jq -r '.findings[] | .id + \": \" + .remedy'
  sudo leakguard doctor --error 'Temporary failure in name resolution'")]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Say what a message means that a program prints, and whether leakguard is the cause
    // What wget prints begins with a hyphen.
    #[arg(
        long,
        visible_alias = "explain",
        value_name = "TEXT",
        allow_hyphen_values = true
    )]
    pub error: Option<String>,
    /// Look for files in this directory in place of /; interfaces and enforcement are those of this host
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/",
        hide_default_value = true
    )]
    pub root: PathBuf,
    /// What leakguard would be told.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Where to look.
    #[command(flatten)]
    pub bpffs: BpffsArgs,
    /// The agent to ask for.
    #[command(flatten)]
    pub control: ControlArgs,
}
