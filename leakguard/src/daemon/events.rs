//! From the ring to whoever listens: clients of the control socket, and standard output.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use leakguard_common::abi::{Rate, RateKey};
use tokio::sync::{broadcast, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::error::chain;
use crate::event::{Decoder, Entry, Notice, Sequence, Suppressions, copied};
use crate::guard::Interfaces;
use crate::host::since_boot;
use crate::kernel::object::Reports;
use crate::kernel::rates::Rates;
use crate::outputs::Counter;

/// How many packets, and how many notices, are kept for `leakguard events`: a flood of the one does not push out the
/// other.
pub(super) const RECENT: usize = 1024;

/// How far a client or standard output may fall behind.
const BACKLOG: usize = 4096;

/// How long events may be decoded before the owner gets its turn: it has a tunnel to permit, which is more urgent.
const TURN: Duration = Duration::from_millis(1);

/// The form of events on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One line for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Writes events to standard output from a thread of its own, so that a slow reader never holds up the agent.
#[derive(Clone, Debug)]
pub struct Printer {
    form: Form,
    lines: SyncSender<String>,
    counter: Arc<Counter>,
}

impl Printer {
    /// Starts the thread; it ends with the last clone, or with its reader.
    pub fn start(form: Form) -> io::Result<Self> {
        let (lines, received) = sync_channel::<String>(BACKLOG);
        let counter = Arc::<Counter>::default();
        counter.activate();
        let counted = Arc::clone(&counter);
        thread::Builder::new()
            .name("printer".into())
            .spawn(move || {
                let mut output = io::stdout().lock();
                for line in received {
                    if writeln!(output, "{line}")
                        .and_then(|()| output.flush())
                        .is_err()
                    {
                        counted.failed(1);
                        return;
                    }
                    counted.delivered(1);
                }
            })?;
        Ok(Self {
            form,
            lines,
            counter,
        })
    }

    /// What became of the events.
    pub(super) fn counter(&self) -> Arc<Counter> {
        Arc::clone(&self.counter)
    }

    fn print(&self, seq: u64, text: &impl Display, json: &str) {
        let line = match self.form {
            Form::Text => text.to_string(),
            Form::Json => json.to_owned(),
        };
        match self.lines.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(_)) => self.counter.failed(1),
            Err(TrySendError::Full(_)) => {
                self.counter.lagged(1);
                log::debug!("standard output is too slow for event {seq}");
            }
        }
    }
}

/// One event as it is handed out: rendered once, for whoever listens.
#[derive(Debug)]
pub struct Published {
    /// Its number.
    pub seq: u64,
    /// The event.
    pub entry: Entry,
    /// The event as a JSON object, without a newline.
    pub json: String,
    /// What the kernel copied of the packet, from its transport header on; empty for notices.
    pub packet: Bytes,
}

/// What was published last.
type Lines = VecDeque<Arc<Published>>;

#[derive(Debug, Default)]
struct Recent {
    packets: Lines,
    notices: Lines,
}

impl Recent {
    fn among(&mut self, entry: &Entry) -> &mut Lines {
        match entry {
            Entry::Packet(_) | Entry::Suppressed(_) => &mut self.packets,
            Entry::Notice(_) => &mut self.notices,
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
        events.sort_by_key(|event| event.seq);
        (events, self.live.subscribe())
    }

    /// Publishes what the agent itself has to tell.
    pub fn notify(&self, mut notice: Notice) {
        notice.seq = self.sequence.next();
        self.publish(notice.seq, Entry::Notice(notice), Bytes::new());
    }

    fn publish(&self, seq: u64, entry: Entry, packet: Bytes) {
        let json = match serde_json::to_string(&entry) {
            Ok(json) => json,
            Err(error) => {
                log::error!("event {seq} cannot be written: {error}");
                return;
            }
        };
        self.printer.print(seq, &entry, &json);
        let event = Arc::new(Published {
            seq,
            entry,
            json,
            packet,
        });
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = recent.among(&event.entry);
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
    let mut records = Vec::new();
    let mut questions = Vec::new();
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep_until = Instant::now();
    loop {
        let taken = tokio::select! {
            taken = events.next(&mut records) => taken,
            taken = asked.next(&mut questions) => taken,
            _ = sweep.tick(), if Instant::now() < sweep_until => {
                let now = since_boot().unwrap_or_default().as_nanos();
                for rest in decoder.rest(read(&rates), u64::try_from(now).unwrap_or(u64::MAX)) {
                    feed.publish(rest.seq, Entry::Suppressed(Box::new(rest)), Bytes::new());
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
        for question in questions.drain(..) {
            if let Err(error) = decoder.note(&question) {
                log::error!("{error}");
            }
        }
        let mut named = Arc::clone(&interfaces.borrow());
        let mut turn = Instant::now();
        for record in records.drain(..) {
            match decoder.decode(&record, &named) {
                Ok(event) => {
                    feed.publish(event.seq, Entry::Packet(Box::new(event)), copied(&record));
                }
                Err(error) => log::error!("{error}"),
            }
            // A flood must not starve the owner.
            if turn.elapsed() >= TURN {
                tokio::task::yield_now().await;
                named = Arc::clone(&interfaces.borrow());
                turn = Instant::now();
            }
        }
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
