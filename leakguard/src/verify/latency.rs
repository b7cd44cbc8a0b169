//! How fast the tunnel's resolver answers, under a rising rate.

use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::report::{Check, Latency, Part, Verdict};
use super::tunnel::{LIMIT, Server};
use crate::config::Verify;
use crate::preflight::probe::{answer, towards};

/// Questions per second, and for how long each rate is held.
const CACHED: [u32; 3] = [10, 50, 100];
const UNCACHED: [u32; 2] = [5, 20];
const HELD: Duration = Duration::from_secs(1);
/// The same for a quick run.
const QUICK: u32 = 20;
const QUICK_HELD: Duration = Duration::from_millis(500);

/// One of so many questions may stay without an answer.
const LOST_OF: usize = 50;

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) checks: Vec<Check>,
    pub(super) latency: Vec<Latency>,
    pub(super) times: Vec<f64>,
}

/// Asks at rising rates: first what every resolver has in its cache, then what none has.
pub(super) async fn measure(server: &Server, verify: &Verify, run: &str, quick: bool) -> Measured {
    let mut measured = Measured::default();
    let root = |_| Name::root();
    // Once before, so that it is cached.
    let warm = step(server, QUICK, Duration::from_millis(50), root).await;
    log::debug!("before: {warm:?}");
    let (rates, held) = if quick {
        (&[QUICK][..], QUICK_HELD)
    } else {
        (&CACHED[..], HELD)
    };
    for &rate in rates {
        let times = step(server, rate, held, root).await;
        measured.add("cached", rate, times);
    }
    measured.checks.push(judge(
        "latency-cached",
        &measured.latency,
        Some(verify.latency_max),
    ));
    let below = verify.signed_name.as_ref();
    match below {
        Some(zone) if !quick => {
            let first = measured.latency.len();
            let mut serial = 0;
            for rate in UNCACHED {
                let times = step(server, rate, HELD, |_| {
                    serial += 1;
                    Name::from_ascii(format!("{run}-u{serial}"))
                        .and_then(|name| name.append_domain(zone))
                        .unwrap_or_default()
                })
                .await;
                measured.add("uncached", rate, times);
            }
            let uncached = measured.latency.get(first..).unwrap_or_default();
            let check = judge("latency-uncached", uncached, None);
            measured.checks.push(check);
        }
        _ => measured.checks.push(Check::new(
            Part::Tunnel,
            "latency-uncached",
            Verdict::Skipped,
            if quick {
                "a quick run asks for nothing that is not cached"
            } else {
                "signed_name is empty"
            },
        )),
    }
    for check in &mut measured.checks {
        check.interface = Some(server.tunnel.clone());
    }
    measured
}

/// Asks at one rate; says how long each answer took, and of the missing ones nothing.
async fn step(
    server: &Server,
    rate: u32,
    held: Duration,
    mut name: impl FnMut(u32) -> Name,
) -> Vec<Option<Duration>> {
    let count = (f64::from(rate) * held.as_secs_f64()).ceil();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut asked = JoinSet::new();
    let mut number = 0;
    while f64::from(number) < count {
        ticks.tick().await;
        let (server, name) = (server.clone(), name(number));
        asked.spawn(async move { one(&server, name).await });
        number += 1;
    }
    asked.join_all().await
}

async fn one(server: &Server, name: Name) -> Option<Duration> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, RecordType::NS));
    let started = Instant::now();
    let exchange = async {
        let socket = towards(server.address, &server.tunnel).ok()?;
        let bytes = answer(&socket, &message).await.ok()?;
        let took = started.elapsed();
        let code = Message::from_vec(&bytes).ok()?.metadata.response_code;
        (code != ResponseCode::ServFail).then_some(took)
    };
    timeout(LIMIT, exchange).await.ok()?
}

impl Measured {
    fn add(&mut self, names: &'static str, rate: u32, times: Vec<Option<Duration>>) {
        let asked = times.len();
        let mut answered: Vec<f64> = times
            .into_iter()
            .flatten()
            .map(|time| time.as_secs_f64())
            .collect();
        answered.sort_by(f64::total_cmp);
        self.latency.push(Latency {
            names,
            rate,
            asked,
            answered: answered.len(),
            p50: percentile(&answered, 50),
            p95: percentile(&answered, 95),
            p99: percentile(&answered, 99),
        });
        self.times.append(&mut answered);
    }
}

/// The least value that so many of a hundred do not exceed; 0 of none.
fn percentile(sorted: &[f64], hundredths: usize) -> f64 {
    let rank = (sorted.len() * hundredths).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn judge(name: &str, steps: &[Latency], limit: Option<Duration>) -> Check {
    let lost = steps
        .iter()
        .find(|step| step.asked - step.answered > step.asked / LOST_OF);
    let slow = limit.and_then(|limit| steps.iter().find(|step| step.p95 > limit.as_secs_f64()));
    let described = |step: &Latency| {
        format!(
            "p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms at {} questions/s",
            step.p50 * 1e3,
            step.p95 * 1e3,
            step.p99 * 1e3,
            step.rate
        )
    };
    let (result, reason) = match (lost, slow, steps.last()) {
        (Some(step), _, _) => (
            Verdict::Fail,
            format!(
                "{} of {} questions at {}/s were not answered within {LIMIT:?}",
                step.asked - step.answered,
                step.asked,
                step.rate
            ),
        ),
        (None, Some(step), _) => (
            Verdict::Fail,
            format!(
                "{}, above latency_max = {:?}",
                described(step),
                limit.unwrap_or_default()
            ),
        ),
        (None, None, Some(step)) => (Verdict::Pass, described(step)),
        (None, None, None) => (Verdict::Skipped, "nothing was asked".to_owned()),
    };
    Check::new(Part::Tunnel, name, result, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        for (hundredths, expected) in [(50, 50.0), (95, 95.0), (99, 99.0)] {
            let found = percentile(&values, hundredths);
            assert!((found - expected).abs() < f64::EPSILON, "{found}");
        }
        assert!(percentile(&[], 50).abs() < f64::EPSILON);
        assert!((percentile(&[7.0], 99) - 7.0).abs() < f64::EPSILON);
    }

    #[test]
    fn slow_answers_and_missing_ones_are_failures() {
        let mut measured = Measured::default();
        measured.add("cached", 10, vec![Some(Duration::from_millis(10)); 100]);
        let limit = Some(Duration::from_millis(50));
        let result = |measured: &Measured| judge("x", &measured.latency, limit).result;
        assert_eq!(result(&measured), Verdict::Pass);
        measured.add("cached", 50, vec![Some(Duration::from_millis(60)); 100]);
        assert_eq!(result(&measured), Verdict::Fail);
        let mut measured = Measured::default();
        let mut times = vec![Some(Duration::from_millis(1)); 97];
        times.extend([None; 3]);
        measured.add("cached", 10, times);
        assert_eq!(result(&measured), Verdict::Fail);
    }
}
