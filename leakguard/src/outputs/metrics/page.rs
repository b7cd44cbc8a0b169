//! What is measured, as the page that Prometheus reads.

use std::collections::{BTreeMap, HashMap};

use leakguard_common::abi::{Outcome, Role, Verdict};
use leakguard_common::counter::Series;
use prometheus::core::Collector;
use prometheus::{Counter, Gauge, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use super::process::Usage;
use super::series;
use crate::config::Labels;
use crate::daemon::HealthReport;
use crate::status::Level;
use crate::verify::Verified;

/// Everything that the page says, at one time.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The counters that are not 0.
    pub(super) packets: Vec<(Series, u64)>,
    /// What became of events in the kernel.
    pub(super) events: Vec<(Outcome, u64)>,
    /// How much is enforced.
    pub(super) level: Level,
    /// Whether it drops; absent when nothing is enforced.
    pub(super) enforcing: Option<bool>,
    /// Whether the kill switch is engaged; absent when nothing is enforced.
    pub(super) engaged: Option<bool>,
    /// The tunnels by name, and whether they are up.
    pub(super) tunnels: BTreeMap<String, bool>,
    /// How many interfaces have each role.
    pub(super) roles: Vec<(Role, i64)>,
    /// The agent's own counters.
    pub(super) health: HealthReport,
    /// The kernel's release.
    pub(super) kernel: String,
    /// What the agent's own leak tests have found.
    pub(super) verified: Verified,
    /// What the agent takes.
    pub(super) usage: Usage,
}

/// Writes the page.
pub(super) fn render(seen: &Seen, labels: &Labels) -> Result<String, prometheus::Error> {
    let Seen {
        packets,
        events,
        level,
        enforcing,
        engaged,
        tunnels,
        roles,
        health,
        kernel,
        verified,
        usage,
    } = seen;
    let labels: HashMap<String, String> = labels
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let page = Page(Registry::new_custom(None, Some(labels))?);

    let counters = page.counters(
        "leakguard_packets_total",
        "Judged packets; segments of one buffer count one by one.",
        &["class", "verdict", "family", "protocol", "role", "hook"],
    )?;
    let count = |series: Series, count| {
        let Series {
            hook,
            role,
            reason,
            verdict,
            family,
            protocol,
        } = series;
        counters
            .with_label_values(&[
                reason.name(),
                verdict.name(),
                family.name(),
                protocol.name(),
                role.name(),
                hook.name(),
            ])
            .inc_by(count);
    };
    for series in series::all() {
        count(series, 0);
    }
    for &(series, packets) in packets {
        count(series, packets);
    }

    let counters = page.counters(
        "leakguard_redirected_total",
        "Calls to port 53 that reach the tunnel's resolver in place of whom they named.",
        &["family", "protocol"],
    )?;
    let redirected = |series: Series, calls| {
        if series.verdict == Verdict::Redirect {
            counters
                .with_label_values(&[series.family.name(), series.protocol.name()])
                .inc_by(calls);
        }
    };
    for series in series::all() {
        redirected(series, 0);
    }
    for &(series, calls) in packets {
        redirected(series, calls);
    }

    let counters = page.counters(
        "leakguard_events_total",
        "Packets worth an event: told of, suppressed (others of the same kind were told of enough), or lost (the ring was full).",
        &["outcome"],
    )?;
    for &(outcome, events) in events {
        let name = match outcome {
            Outcome::Submitted => "delivered",
            Outcome::Lost | Outcome::Suppressed => outcome.name(),
        };
        counters.with_label_values(&[name]).inc_by(events);
    }
    let counters = page.counters(
        "leakguard_output_events_total",
        "Events by output: delivered, lagged (lost, too slow), failed (lost, could not be written).",
        &["output", "outcome"],
    )?;
    for (output, report) in &health.outputs {
        for (outcome, events) in report.outcomes() {
            counters
                .with_label_values(&[output.as_str(), outcome])
                .inc_by(events);
        }
    }
    let counters = page.counters(
        "leakguard_repairs_total",
        "Parts of the enforcement that were changed from outside and brought in line again.",
        &["part"],
    )?;
    for (part, repairs) in &health.repairs {
        counters
            .with_label_values(&[part.as_str()])
            .inc_by(*repairs);
    }
    page.counters(
        "leakguard_netlink_resyncs_total",
        "How often netlink lost events, so that everything was read again.",
        &[],
    )?
    .with_label_values::<&str>(&[])
    .inc_by(health.netlink_resyncs);
    page.counters(
        "leakguard_resolver_restores_total",
        "How often a file that says whom the host asks for names was changed by others and put back.",
        &[],
    )?
    .with_label_values::<&str>(&[])
    .inc_by(health.resolver_restores);

    let gauges = page.gauges(
        "leakguard_enforcement_level",
        "1 for the level that is in place, as it was read back from the kernel.",
        &["level"],
    )?;
    for known in [Level::None, Level::Reduced, Level::Full] {
        gauges
            .with_label_values(&[known.name()])
            .set((known == *level).into());
    }
    if let Some(enforcing) = enforcing {
        page.gauge(
            "leakguard_mode",
            "1: enforce, 0: observe, which drops nothing.",
            *enforcing,
        )?;
    }
    if let Some(engaged) = engaged {
        page.gauge(
            "leakguard_kill_switch_engaged",
            "1 while uplinks carry nothing but what is exempt.",
            *engaged,
        )?;
    }
    let gauges = page.gauges(
        "leakguard_tunnel_up",
        "1 for a tunnel that is up and has a carrier, 0 for one that is down or not there.",
        &["interface"],
    )?;
    for (name, up) in tunnels {
        gauges.with_label_values(&[name.as_str()]).set((*up).into());
    }
    let gauges = page.gauges(
        "leakguard_interfaces",
        "Interfaces of the managed namespace by role.",
        &["role"],
    )?;
    for &(role, interfaces) in roles {
        gauges.with_label_values(&[role.name()]).set(interfaces);
    }
    let (latency, counters) = verified.families();
    page.add(latency)?;
    for counters in counters {
        page.add(counters)?;
    }
    page.usage(usage)?;
    page.gauges(
        "leakguard_build_info",
        "1; what runs here.",
        &["version", "kernel"],
    )?
    .with_label_values(&[env!("CARGO_PKG_VERSION"), kernel.as_str()])
    .set(1);

    TextEncoder::new().encode_to_string(&page.0.gather())
}

/// The families of the page; each is made anew for each page, because the kernel is what counts.
struct Page(Registry);

impl Page {
    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str, value: bool) -> Result<(), prometheus::Error> {
        let gauges = self.gauges(name, help, &[])?;
        gauges.with_label_values::<&str>(&[]).set(value.into());
        Ok(())
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "Prometheus has floating point only"
    )]
    fn usage(&self, usage: &Usage) -> Result<(), prometheus::Error> {
        let Usage {
            cpu,
            resident,
            open_fds,
            max_fds,
            started,
        } = *usage;
        if let Some(cpu) = cpu {
            self.add(Counter::new(
                "process_cpu_seconds_total",
                "Time on processors, in user space and in the kernel.",
            )?)?
            .inc_by(cpu.as_secs_f64());
        }
        let mut gauges = vec![(
            "process_start_time_seconds",
            "When the agent began, since 1970.",
            started.as_secs_f64(),
        )];
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "What is in memory.",
                resident,
            ),
            ("process_open_fds", "Open descriptors.", open_fds),
            (
                "process_max_fds",
                "How many descriptors may be open.",
                max_fds,
            ),
        ] {
            gauges.extend(value.map(|value| (name, help, value as f64)));
        }
        for (name, help, value) in gauges {
            self.add(Gauge::new(name, help)?)?.set(value);
        }
        Ok(())
    }

    fn add<C: Collector + Clone + 'static>(&self, family: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use leakguard_common::abi::{Family, Hook, Protocol, Reason, Verdict};

    use super::*;
    use crate::daemon::Health;

    #[test]
    fn the_page_has_every_series_from_the_start_with_the_labels_of_the_host() {
        let counted = Series {
            hook: Hook::Tc,
            role: Role::Uplink,
            reason: Reason::Dns,
            verdict: Verdict::Drop,
            family: Family::Ipv4,
            protocol: Protocol::Udp,
        };
        let seen = Seen {
            packets: vec![(counted, 7)],
            events: vec![(Outcome::Submitted, 5), (Outcome::Lost, 0)],
            level: Level::Reduced,
            enforcing: Some(true),
            engaged: Some(false),
            tunnels: [("wg\"0".to_owned(), true), ("wg1".to_owned(), false)].into(),
            roles: vec![(Role::Tunnel, 1), (Role::Local, 1), (Role::Uplink, 2)],
            health: Health::default().report(),
            kernel: "6.18.0".to_owned(),
            verified: Verified::new().unwrap(),
            usage: Usage {
                cpu: Some(Duration::from_millis(1500)),
                resident: Some(20 << 20),
                open_fds: Some(40),
                max_fds: None,
                started: Duration::from_secs(1_790_000_000),
            },
        };
        let mut labels = Labels::default();
        labels.add("node", "a1").unwrap();
        let page = render(&seen, &labels).unwrap();
        for line in [
            "leakguard_packets_total{class=\"dns\",family=\"ipv4\",hook=\"tc\",protocol=\"udp\",role=\"uplink\",verdict=\"drop\",node=\"a1\"} 7",
            "leakguard_packets_total{class=\"dot\",family=\"ipv6\",hook=\"cgroup_skb\",protocol=\"tcp\",role=\"uplink\",verdict=\"drop\",node=\"a1\"} 0",
            "leakguard_events_total{outcome=\"delivered\",node=\"a1\"} 5",
            "leakguard_events_total{outcome=\"lost\",node=\"a1\"} 0",
            "leakguard_enforcement_level{level=\"full\",node=\"a1\"} 0",
            "leakguard_enforcement_level{level=\"reduced\",node=\"a1\"} 1",
            "leakguard_mode{node=\"a1\"} 1",
            "leakguard_kill_switch_engaged{node=\"a1\"} 0",
            "leakguard_tunnel_up{interface=\"wg\\\"0\",node=\"a1\"} 1",
            "leakguard_tunnel_up{interface=\"wg1\",node=\"a1\"} 0",
            "leakguard_interfaces{role=\"uplink\",node=\"a1\"} 2",
            "leakguard_repairs_total{part=\"tc\",node=\"a1\"} 0",
            "leakguard_netlink_resyncs_total{node=\"a1\"} 0",
            "leakguard_resolver_restores_total{node=\"a1\"} 0",
            "leakguard_probe_escaped_total{class=\"doh\",node=\"a1\"} 0",
            "leakguard_resolver_latency_seconds_bucket{node=\"a1\",le=\"0.05\"} 0",
            "leakguard_verify_runs_total{result=\"pass\",node=\"a1\"} 0",
            "process_cpu_seconds_total{node=\"a1\"} 1.5",
            "process_resident_memory_bytes{node=\"a1\"} 20971520",
            "process_open_fds{node=\"a1\"} 40",
            "process_start_time_seconds{node=\"a1\"} 1790000000",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        assert!(page.contains("kernel=\"6.18.0\""));
        assert!(!page.contains("process_max_fds"), "nobody could read it");
    }
}
