//! What this process may do and see.

use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;
use crate::kernel::requirements::effective_capabilities;

/// Facts about this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Privileges {
    /// `CapEff`.
    pub(super) effective: u64,
    /// How many files may be open at most.
    pub(super) open_files: Option<u64>,
    /// What is there and could not be read.
    pub(super) unseen: Vec<String>,
}

/// Capabilities that leakguard needs, or is better with; the numbers are the kernel's.
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
const SYS_ADMIN: u32 = 21;
const SYS_PTRACE: u32 = 19;
const SYS_RESOURCE: u32 = 24;

/// Each uplink and each client of `events` takes a descriptor or two.
const FILES_MIN: u64 = 2048;

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Privileges,
        severity,
        title,
        why,
    }
}

pub(super) const NOT_ROOT: Rule = rule(
    "privilege-missing",
    Severity::Warning,
    "this process may not look into the kernel",
    "what is enforced cannot be read, so this report is of the rest only; `run` and `apply` would fail",
);
pub(super) const NO_PTRACE: Rule = rule(
    "cap-sys-ptrace-missing",
    Severity::Note,
    "CAP_SYS_PTRACE is missing",
    "packet sockets of other processes cannot be asked whether they bypass TC",
);
pub(super) const NO_RESOURCE: Rule = rule(
    "cap-sys-resource-missing",
    Severity::Note,
    "CAP_SYS_RESOURCE is missing",
    "limits cannot be raised; kernels before 5.11 may refuse maps for want of locked memory",
);
pub(super) const FEW_FILES: Rule = rule(
    "open-files-limited",
    Severity::Warning,
    "few files may be open",
    "each uplink and each client of `events` takes one: with many interfaces the agent fails",
);
pub(super) const UNSEEN: Rule = rule(
    "not-seen",
    Severity::Note,
    "something is there that could not be read",
    "what it says is not part of this report",
);

pub(super) const RULES: &[&Rule] = &[&NOT_ROOT, &NO_PTRACE, &NO_RESOURCE, &FEW_FILES, &UNSEEN];

pub(super) fn collect(root: &Root) -> Privileges {
    let status = root.read("/proc/self/status").unwrap_or_default();
    let limits = root.read("/proc/self/limits").unwrap_or_default();
    let open_files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
    Privileges {
        effective: effective_capabilities(&status).unwrap_or_default(),
        open_files,
        unseen: Vec::new(),
    }
}

pub(super) fn judge(privileges: &Privileges) -> Vec<Finding> {
    let Privileges {
        effective,
        open_files,
        unseen,
    } = privileges;
    let has = |capability: u32| effective & (1 << capability) != 0;
    let mut found = Vec::new();
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(number, _)| !has(*number) && (*number == 12 || !has(SYS_ADMIN)))
        .map(|(_, name)| format!("CapEff lacks {name}"))
        .collect();
    if missing.is_empty() {
        let shown = || [format!("CapEff: {effective:016x}")];
        if !has(SYS_PTRACE) {
            found.push(NO_PTRACE.found(shown(), "sudo leakguard doctor"));
        }
        if !has(SYS_RESOURCE) {
            found.push(NO_RESOURCE.found(
                shown(),
                "in a container: --cap-add SYS_RESOURCE; elsewhere nothing has to be done",
            ));
        }
    } else {
        found.push(NOT_ROOT.found(missing, "sudo leakguard doctor"));
    }
    if let Some(limit) = open_files.filter(|limit| *limit < FILES_MIN) {
        found.push(FEW_FILES.found(
            [format!(
                "/proc/self/limits: Max open files: hard limit {limit}"
            )],
            "ulimit -Hn 65536, or LimitNOFILE=65536 in the unit",
        ));
    }
    if !unseen.is_empty() {
        found.push(UNSEEN.found(unseen.iter().cloned(), "sudo leakguard doctor"));
    }
    found
}
