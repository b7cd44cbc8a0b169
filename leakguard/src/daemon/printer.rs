//! Events on standard output.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use super::Published;
use super::events::{BACKLOG, PAUSE};
use crate::outputs::Counter;

/// The most events that are written at once.
const BATCH: u64 = 256;

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
    events: SyncSender<Arc<Published>>,
    counter: Arc<Counter>,
}

impl Printer {
    /// Starts the thread; it ends with the last clone, or with its reader.
    pub fn start(form: Form) -> io::Result<Self> {
        let (events, received) = sync_channel(BACKLOG);
        let counter = Arc::<Counter>::default();
        counter.activate();
        let counted = Arc::clone(&counter);
        thread::Builder::new()
            .name("printer".into())
            .spawn(move || print(&received, form, &counted))?;
        Ok(Self { events, counter })
    }

    /// What became of the events.
    pub(super) fn counter(&self) -> Arc<Counter> {
        Arc::clone(&self.counter)
    }

    pub(super) fn print(&self, event: Arc<Published>) {
        match self.events.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(_)) => self.counter.failed(1),
            Err(TrySendError::Full(event)) => {
                self.counter.lagged(1);
                log::debug!("standard output is too slow for event {}", event.seq());
            }
        }
    }
}

/// Prints what comes, and what has come meanwhile with it.
fn print(received: &Receiver<Arc<Published>>, form: Form, counter: &Counter) {
    let mut output = io::stdout().lock();
    let mut lines = String::new();
    while let Ok(first) = received.recv() {
        lines.clear();
        let mut count = 0;
        let mut next = Some(first);
        while let Some(event) = next {
            match form {
                Form::Text => event.write_text(&mut lines),
                Form::Json => event.write_json(&mut lines),
            }
            lines.push('\n');
            count += 1;
            next = (count < BATCH).then(|| received.try_recv().ok()).flatten();
        }
        if output
            .write_all(lines.as_bytes())
            .and_then(|()| output.flush())
            .is_err()
        {
            counter.failed(count + received.try_iter().count() as u64);
            return;
        }
        counter.delivered(count);
        if count < BATCH {
            // Whoever waits is woken, and each wake-up costs more than a line.
            thread::sleep(PAUSE);
        }
    }
}
