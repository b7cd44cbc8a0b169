//! From the ring to whoever listens: clients of the control socket, outputs, and standard output.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leakguard_common::abi::{Rate, RateKey};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{Printer, Published};
use crate::error::chain;
use crate::event::{Decoder, Notice, Sequence, Suppressions};
use crate::guard::Interfaces;
use crate::host::since_boot;
use crate::kernel::object::Reports;
use crate::kernel::rates::Rates;
use crate::kernel::ring::Records;

/// How many packets, and how many notices, are kept for `leakguard events`: a flood of the one does not push out the
/// other.
pub(super) const RECENT: usize = 1024;

/// How far a client or standard output may fall behind.
pub(super) const BACKLOG: usize = 4096;

/// How long events may be decoded before the owner gets its turn: it has a tunnel to permit, which is more urgent.
const TURN: Duration = Duration::from_millis(1);

/// How long whoever has taken all events there are lets more come together, rather than be woken for each. The ring holds
/// those of two milliseconds of a flood.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

/// So many events at once are more than come together while a few are decoded: then there is no pause.
const CALM: usize = 256;

/// What was published last.
type Lines = VecDeque<Arc<Published>>;

#[derive(Debug, Default)]
struct Recent {
    packets: Lines,
    notices: Lines,
}

impl Recent {
    fn among(&mut self, event: &Published) -> &mut Lines {
        if event.is_notice() {
            &mut self.notices
        } else {
            &mut self.packets
        }
    }
}

/// Where events are handed out.
#[derive(Clone, Debug)]
pub struct Feed {
    printer: Printer,
    live: broadcast::Sender<Arc<Published>>,
    recent: Arc<Mutex<Recent>>,
    sequence: Sequence,
}

impl Feed {
    /// A feed without events.
    pub fn new(printer: Printer) -> Self {
        let (live, _) = broadcast::channel(BACKLOG);
        Self {
            printer,
            live,
            recent: Arc::default(),
            sequence: Sequence::default(),
        }
    }

    /// The events of the last time, and those that come from now on, without a gap between them.
    pub(super) fn subscribe(&self) -> (Vec<Arc<Published>>, broadcast::Receiver<Arc<Published>>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let Recent { packets, notices } = &*recent;
        let mut events: Vec<_> = packets.iter().chain(notices).map(Arc::clone).collect();
        events.sort_by_key(|event| event.seq());
        (events, self.live.subscribe())
    }

    /// How many take events from it, besides standard output.
    #[cfg(test)]
    pub(super) fn listeners(&self) -> usize {
        self.live.receiver_count()
    }

    /// Publishes what the agent itself has to tell.
    pub fn notify(&self, mut notice: Notice) {
        notice.seq = self.sequence.next();
        self.publish(Published::notice(notice));
    }

    fn publish(&self, event: Published) {
        let event = Arc::new(event);
        self.printer.print(Arc::clone(&event));
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = recent.among(&event);
        if lines.len() == RECENT {
            lines.pop_front();
        }
        lines.push_back(Arc::clone(&event));
        // Without a client nobody takes it, which is no failure.
        drop(self.live.send(event));
    }
}

/// How often it is looked for packets that got no event.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long after an event some of the same may have got none.
const SWEEP_TIME: Duration = Duration::from_secs(5);

/// Decodes what the kernel reports until a ring fails.
pub(super) async fn pump(
    reports: Reports,
    interfaces: watch::Receiver<Arc<Interfaces>>,
    feed: Feed,
) {
    let Reports {
        mut events,
        mut asked,
        rates,
    } = reports;
    let mut decoder = Decoder::new(feed.sequence.clone(), Suppressions::begin(read(&rates)));
    let mut records = Records::default();
    let mut questions = Records::default();
    let mut rested = Instant::now();
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep_until = Instant::now();
    loop {
        let taken = tokio::select! {
            taken = async {
                sleep_until(rested).await;
                events.next(&mut records).await
            } => taken,
            taken = asked.next(&mut questions) => taken,
            _ = sweep.tick(), if Instant::now() < sweep_until => {
                let now = since_boot().unwrap_or_default().as_nanos();
                for rest in decoder.rest(read(&rates), u64::try_from(now).unwrap_or(u64::MAX)) {
                    feed.publish(Published::suppressed(rest));
                }
                Ok(())
            }
        };
        if let Err(error) = taken {
            log::error!("cannot read events: {error}");
            return;
        }
        if !records.is_empty() {
            sweep_until = Instant::now() + SWEEP_TIME;
            // What was asked before these packets is in the ring by now.
            asked.drain(&mut questions);
        }
        for question in questions.iter() {
            if let Err(error) = decoder.note(question) {
                log::error!("{error}");
            }
        }
        questions.clear();
        let mut named = Arc::clone(&interfaces.borrow());
        let mut turn = Instant::now();
        for record in records.iter() {
            match decoder.judged(record, &named) {
                Ok(judged) => feed.publish(Published::packet(judged)),
                Err(error) => log::error!("{error}"),
            }
            // A flood must not starve the owner.
            if turn.elapsed() >= TURN {
                tokio::task::yield_now().await;
                named = Arc::clone(&interfaces.borrow());
                turn = Instant::now();
            }
        }
        if !records.is_empty() && records.len() < CALM {
            rested = Instant::now() + PAUSE;
        }
        records.clear();
        tokio::task::yield_now().await;
    }
}

/// The rates now; none if they cannot be read, which is then said.
fn read(rates: &Rates) -> BTreeMap<RateKey, Rate> {
    rates.read().unwrap_or_else(|error| {
        log::error!("cannot read what was suppressed: {}", chain(&error));
        BTreeMap::new()
    })
}
