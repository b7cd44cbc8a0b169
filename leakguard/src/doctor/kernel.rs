//! What the kernel can do for leakguard.

use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;
use crate::host::find_program;

/// Facts about the kernel.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what is there and what is not are facts, not states"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) release: String,
    pub(super) btf: bool,
    /// `net.core.bpf_jit_enable`.
    pub(super) jit: Option<u64>,
    /// Whether a cgroup2 hierarchy and a bpffs are mounted.
    pub(super) cgroup2: bool,
    pub(super) bpffs: bool,
    /// `/sys/kernel/security/lockdown`.
    pub(super) lockdown: Option<String>,
    /// Whether the program `nft` is there.
    pub(super) nft: bool,
    /// Why the programs cannot be loaded; looked at only where nothing is enforced and it may be tried.
    pub(super) refusal: Option<String>,
}

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Kernel,
        severity,
        title,
        why,
    }
}

pub(super) const TOO_OLD: Rule = rule(
    "kernel-too-old",
    Severity::Problem,
    "the kernel is older than 5.8",
    "it has no BPF ring buffer, so leakguard cannot start",
);
pub(super) const NO_BTF: Rule = rule(
    "kernel-without-btf",
    Severity::Warning,
    "the kernel has no type information (BTF)",
    "programs cannot read the kernel's own structures: events may not name who sent",
);
pub(super) const NO_JIT: Rule = rule(
    "bpf-jit-off",
    Severity::Warning,
    "BPF programs are interpreted",
    "every packet costs several times as much as with the compiler",
);
pub(super) const NO_TCX: Rule = rule(
    "kernel-without-tcx",
    Severity::Note,
    "the kernel is older than 6.6: clsact is used in place of TCX",
    "another filter of the same priority can go before leakguard's",
);
pub(super) const NO_CGROUP2: Rule = rule(
    "cgroup2-not-mounted",
    Severity::Problem,
    "no cgroup2 hierarchy is mounted",
    "local sockets are judged by a program that is attached to one",
);
pub(super) const NO_BPFFS: Rule = rule(
    "bpffs-not-mounted",
    Severity::Note,
    "no bpffs is mounted",
    "leakguard mounts one when it starts; where it may not, enforcement ends with the agent",
);
pub(super) const LOCKED: Rule = rule(
    "kernel-locked-down",
    Severity::Warning,
    "the kernel is locked down for confidentiality",
    "it refuses BPF programs that read kernel memory",
);
pub(super) const NO_NFT: Rule = rule(
    "nft-missing",
    Severity::Warning,
    "there is no nft",
    "forwarded DNS over an interface that has just come is not caught; the level is reduced",
);
pub(super) const REFUSED: Rule = rule(
    "bpf-refused",
    Severity::Problem,
    "the kernel does not take leakguard's programs",
    "nothing can be enforced",
);

pub(super) const RULES: &[&Rule] = &[
    &TOO_OLD,
    &NO_BTF,
    &NO_JIT,
    &NO_TCX,
    &NO_CGROUP2,
    &NO_BPFFS,
    &LOCKED,
    &NO_NFT,
    &REFUSED,
];

pub(super) fn collect(root: &Root) -> Kernel {
    // A disk has no kernel that could lack something.
    let mounts = root.read("/proc/self/mountinfo");
    let mounted = |kind: &str| {
        let mounts = mounts.as_ref();
        mounts.is_none_or(|mounts| mounts.contains(&format!(" - {kind} ")))
    };
    Kernel {
        release: root.word("/proc/sys/kernel/osrelease").unwrap_or_default(),
        btf: mounts.is_none() || root.exists("/sys/kernel/btf/vmlinux"),
        jit: root.number("/proc/sys/net/core/bpf_jit_enable"),
        cgroup2: mounted("cgroup2"),
        bpffs: mounted("bpf"),
        lockdown: root.word("/sys/kernel/security/lockdown"),
        nft: find_program("nft").is_some(),
        refusal: None,
    }
}

pub(super) fn judge(kernel: &Kernel) -> Vec<Finding> {
    let Kernel {
        release,
        btf,
        jit,
        cgroup2,
        bpffs,
        lockdown,
        nft,
        refusal,
    } = kernel;
    let mut found = Vec::new();
    let uname = [format!("uname -r: {release}")];
    if let Some(version) = version(release) {
        if version < (5, 8) {
            found.push(TOO_OLD.found(
                uname,
                "apt-get install --only-upgrade linux-image-amd64 && reboot",
            ));
        } else if version < (6, 6) {
            found.push(NO_TCX.found(
                uname,
                "nothing has to be done; `leakguard status` says `tc clsact`",
            ));
        }
    }
    if !btf {
        found.push(NO_BTF.found(
            ["/sys/kernel/btf/vmlinux: absent".to_owned()],
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions build it",
        ));
    }
    if *jit == Some(0) {
        found.push(NO_JIT.found(
            ["net.core.bpf_jit_enable = 0".to_owned()],
            "sysctl -w net.core.bpf_jit_enable=1",
        ));
    }
    if !cgroup2 {
        found.push(NO_CGROUP2.found(
            ["/proc/self/mountinfo: no cgroup2".to_owned()],
            "mkdir -p /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ));
    }
    if !bpffs {
        found.push(NO_BPFFS.found(
            ["/proc/self/mountinfo: no bpf".to_owned()],
            "mount -t bpf bpf /sys/fs/bpf",
        ));
    }
    if lockdown
        .as_ref()
        .is_some_and(|modes| modes.contains("[confidentiality]"))
    {
        found.push(LOCKED.found(
            [format!(
                "/sys/kernel/security/lockdown: {}",
                lockdown.as_deref().unwrap_or_default()
            )],
            "boot with lockdown=integrity",
        ));
    }
    if !nft {
        found.push(NO_NFT.found(["nft: not in PATH".to_owned()], "apt-get install nftables"));
    }
    if let Some(refusal) = refusal {
        found.push(REFUSED.found([refusal.clone()], "leakguard -v apply"));
    }
    found
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_no_kernel_that_lacks_anything() {
        let disk = tempfile::tempdir().unwrap();
        let found = judge(&collect(&Root::open(disk.path()).unwrap()));
        let found: Vec<_> = found
            .iter()
            .map(|finding| finding.rule.id)
            .filter(|id| *id != NO_NFT.id)
            .collect();
        assert!(found.is_empty(), "{found:?}");
    }
}
