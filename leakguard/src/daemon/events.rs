//! From the ring to whoever listens: clients of the control socket, and standard output.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{broadcast, watch};

use crate::event::{Decoder, Notice, Sequence};
use crate::guard::Interfaces;
use crate::kernel::ring::EventRing;

/// How many packets, and how many notices, are kept for `leakguard events`: a flood of the one does not push out the
/// other.
const RECENT: usize = 1024;

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
}

impl Printer {
    /// Starts the thread; it ends with the last clone, or with its reader.
    pub fn start(form: Form) -> io::Result<Self> {
        let (lines, received) = sync_channel::<String>(BACKLOG);
        thread::Builder::new()
            .name("printer".into())
            .spawn(move || {
                let mut output = io::stdout().lock();
                for line in received {
                    if writeln!(output, "{line}")
                        .and_then(|()| output.flush())
                        .is_err()
                    {
                        return;
                    }
                }
            })?;
        Ok(Self { form, lines })
    }

    fn print(&self, seq: u64, text: &impl Display, json: &str) {
        let line = match self.form {
            Form::Text => text.to_string(),
            Form::Json => json.to_owned(),
        };
        match self.lines.try_send(line) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                log::debug!("standard output is too slow for event {seq}");
            }
        }
    }
}

/// What was published last, with its number.
type Lines = VecDeque<(u64, Arc<str>)>;

#[derive(Debug, Default)]
struct Recent {
    packets: Lines,
    notices: Lines,
}

/// Where events are handed out: JSON lines, each rendered once.
#[derive(Clone, Debug)]
pub struct Feed {
    printer: Printer,
    live: broadcast::Sender<Arc<str>>,
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
    pub(super) fn subscribe(&self) -> (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let Recent { packets, notices } = &*recent;
        let mut lines: Vec<_> = packets.iter().chain(notices).collect();
        lines.sort_by_key(|(seq, _)| *seq);
        (
            lines
                .into_iter()
                .map(|(_, line)| Arc::clone(line))
                .collect(),
            self.live.subscribe(),
        )
    }

    /// Publishes what the agent itself has to tell.
    pub fn notify(&self, mut notice: Notice) {
        notice.seq = self.sequence.next();
        self.publish(notice.seq, &notice, |recent| &mut recent.notices);
    }

    fn publish(
        &self,
        seq: u64,
        event: &(impl Display + Serialize),
        among: fn(&mut Recent) -> &mut Lines,
    ) {
        let json: Arc<str> = match serde_json::to_string(event) {
            Ok(json) => json.into(),
            Err(error) => {
                log::error!("event {seq} cannot be written: {error}");
                return;
            }
        };
        self.printer.print(seq, event, &json);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = among(&mut recent);
        if lines.len() == RECENT {
            lines.pop_front();
        }
        lines.push_back((seq, Arc::clone(&json)));
        // Without a client nobody takes it, which is no failure.
        drop(self.live.send(json));
    }
}

/// Decodes what the kernel reports until the ring fails.
pub(super) async fn pump(
    mut ring: EventRing,
    interfaces: watch::Receiver<Arc<Interfaces>>,
    feed: Feed,
) {
    let mut decoder = Decoder::new(feed.sequence.clone());
    let mut records = Vec::new();
    loop {
        if let Err(error) = ring.next(&mut records).await {
            log::error!("cannot read events: {error}");
            return;
        }
        let mut named = Arc::clone(&interfaces.borrow());
        let mut turn = Instant::now();
        for record in records.drain(..) {
            match decoder.decode(&record, &named) {
                Ok(event) => feed.publish(event.seq, &event, |recent| &mut recent.packets),
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
