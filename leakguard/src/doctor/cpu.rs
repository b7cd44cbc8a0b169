//! Whether the processor is fit to encrypt.

use leakguard_common::abi::Role;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;

/// Facts about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cpu {
    /// What it has, as `/proc/cpuinfo` says; absent where that does not tell.
    pub(super) features: Option<String>,
    /// How often it was throttled for its heat, by counter.
    pub(super) throttled: Vec<(String, u64)>,
    /// The governor and the driver of the first one.
    pub(super) governor: Option<String>,
    pub(super) driver: Option<String>,
}

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Cpu,
        severity,
        title,
        why,
    }
}

pub(super) const NO_AES: Rule = rule(
    "cpu-without-aes",
    Severity::Note,
    "the processor has no instructions for AES",
    "IPsec and OpenVPN with AES are several times slower, and answers of DNS wait behind other packets; WireGuard uses \
     ChaCha20, which needs none",
);
pub(super) const THROTTLED: Rule = rule(
    "cpu-throttled",
    Severity::Warning,
    "the processor was slowed down for its heat",
    "encryption and answers take longer while that lasts",
);
pub(super) const POWERSAVE: Rule = rule(
    "cpu-powersave",
    Severity::Note,
    "the processor is kept at its lowest speed",
    "encryption and answers take longer",
);

pub(super) const RULES: &[&Rule] = &[&NO_AES, &THROTTLED, &POWERSAVE];

pub(super) fn collect(root: &Root) -> Cpu {
    const CPUS: &str = "/sys/devices/system/cpu";
    let info = root.read("/proc/cpuinfo").unwrap_or_default();
    let features = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        ["flags", "Features"]
            .contains(&key.trim())
            .then(|| value.trim().to_owned())
    });
    let mut throttled = Vec::new();
    for name in root.list(CPUS) {
        let is_cpu = name.strip_prefix("cpu").is_some_and(|number| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        for counter in ["core_throttle_count", "package_throttle_count"] {
            let path = format!("{CPUS}/{name}/thermal_throttle/{counter}");
            let count = is_cpu.then(|| root.number(&path)).flatten();
            throttled.extend(count.filter(|count| *count > 0).map(|count| (path, count)));
        }
    }
    let scaling = |key: &str| root.word(&format!("{CPUS}/cpu0/cpufreq/scaling_{key}"));
    Cpu {
        features,
        throttled,
        governor: scaling("governor"),
        driver: scaling("driver"),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Cpu {
        features,
        throttled,
        governor,
        driver,
    } = &facts.cpu;
    let mut found = Vec::new();
    if let Some(features) = features
        && !features.split_whitespace().any(|feature| feature == "aes")
    {
        let tunnels: Vec<String> = facts
            .network
            .of_role(Role::Tunnel)
            .map(|tunnel| {
                let cipher = match tunnel.kind.as_deref() {
                    Some("wireguard") => "ChaCha20-Poly1305",
                    _ => "a cipher that cannot be seen",
                };
                format!("{} is encrypted with {cipher}", tunnel.name)
            })
            .collect();
        found.push(NO_AES.found(
            std::iter::once("/proc/cpuinfo: no aes".to_owned()).chain(tunnels),
            "use WireGuard, or data-ciphers CHACHA20-POLY1305 in OpenVPN",
        ));
    }
    if !throttled.is_empty() {
        let counts = throttled
            .iter()
            .map(|(path, count)| format!("{path}: {count} since boot"));
        found.push(THROTTLED.found(
            counts,
            "sensors # shows its temperature; see to its cooling",
        ));
    }
    // These drivers call the usual governor so, which goes up to full speed.
    let usual = driver
        .as_deref()
        .is_some_and(|driver| ["intel_pstate", "amd-pstate", "amd-pstate-epp"].contains(&driver));
    if governor.as_deref() == Some("powersave") && !usual {
        found.push(POWERSAVE.found(
            [format!(
                "scaling_governor: powersave, of {}",
                driver.as_deref().unwrap_or("an unknown driver")
            )],
            "echo schedutil | tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        ));
    }
    found
}
