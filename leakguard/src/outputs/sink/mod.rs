//! One output's thread: it takes events as fast as it can, and counts what it misses.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Counter, Output, OutputError};
use crate::daemon::{PAUSE, Published};
use crate::error::chain;
use crate::event::{Notice, NoticeKind};

/// How many events are written at once, and kept while they cannot be written.
const BATCH: usize = 256;

/// How soon writing is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often it is said that events come too fast.
const COMPLAINT: Duration = Duration::from_secs(10);

/// What became of some events.
#[derive(Debug)]
pub(super) struct Written {
    /// How many are written, from the first on.
    pub(super) events: usize,
    /// Why not all of them are, or are not known to be safe.
    pub(super) error: Option<OutputError>,
}

impl Written {
    /// Nothing was.
    pub(super) fn nothing(error: OutputError) -> Self {
        Self {
            events: 0,
            error: Some(error),
        }
    }
}

/// Where events go.
pub(super) trait Sink {
    /// Which output it is.
    const OUTPUT: Output;

    /// How often the same events are tried before they are given up; for ever, if there is no limit.
    const ATTEMPTS: Option<u32> = None;

    /// Which one: a file, an address.
    fn target(&self) -> String;

    /// Gets ready; what fails here is tried again with the first event.
    fn start(&mut self) -> Result<(), OutputError> {
        Ok(())
    }

    /// Opens what is there now under the same name, with the next event.
    fn reopen(&mut self) {}

    /// Writes events in their order.
    async fn write(&mut self, events: &[Arc<Published>]) -> Written;

    /// Closes it; nothing will come any more.
    fn finish(&mut self) -> Result<(), OutputError> {
        Ok(())
    }
}

/// What the owner wants of every output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// How often files were to be opened anew.
    pub(super) reopen: u64,
    /// Whether to end.
    pub(super) stop: bool,
}

/// What an output has to do with.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) events: broadcast::Receiver<Arc<Published>>,
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) notices: mpsc::Sender<Notice>,
    pub(super) counter: Arc<Counter>,
}

/// Runs an output until it is told to end.
pub(super) async fn run<S: Sink>(sink: S, channels: Channels) {
    let Channels {
        mut events,
        mut orders,
        notices,
        counter,
    } = channels;
    let mut state = State {
        sink,
        notices,
        counter,
        pending: VecDeque::new(),
        trouble: None,
        attempts: 0,
        missed: 0,
        complained: None,
    };
    if let Err(error) = state.sink.start() {
        log::debug!("{}: {}", S::OUTPUT.name(), chain(&error));
    }
    let mut reopened = orders.borrow().reopen;
    loop {
        tokio::select! {
            biased;
            changed = orders.changed() => {
                let Orders { reopen, stop } = *orders.borrow_and_update();
                if reopen != reopened {
                    reopened = reopen;
                    state.sink.reopen();
                    state.try_now();
                }
                if stop || changed.is_err() {
                    break;
                }
            }
            received = events.recv(), if state.pending.len() < BATCH => match received {
                Ok(event) => state.pending.push_back(event),
                Err(RecvError::Lagged(missed)) => state.miss(missed),
                Err(RecvError::Closed) => break,
            },
            () = state.due(), if !state.pending.is_empty() => {}
        }
        state.fill(&mut events);
        if state.is_due() {
            state.attempt().await;
            state.fill(&mut events);
            state.tell();
            if state.pending.is_empty() {
                sleep(PAUSE).await;
            }
        }
    }
    state.drain(&mut events).await;
}

/// Writing has failed.
#[derive(Debug)]
struct Trouble {
    retry: Instant,
    /// Events lost meanwhile.
    lost: u64,
    /// Whether it works again.
    over: bool,
}

struct State<S> {
    sink: S,
    notices: mpsc::Sender<Notice>,
    counter: Arc<Counter>,
    pending: VecDeque<Arc<Published>>,
    trouble: Option<Trouble>,
    /// How often the first of what waits was tried.
    attempts: u32,
    /// Events that came too fast since that was said.
    missed: u64,
    complained: Option<Instant>,
}

impl<S: Sink> State<S> {
    /// Takes what is there already.
    fn fill(&mut self, events: &mut broadcast::Receiver<Arc<Published>>) {
        while self.pending.len() < BATCH {
            match events.try_recv() {
                Ok(event) => self.pending.push_back(event),
                Err(TryRecvError::Lagged(missed)) => self.miss(missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Events were overwritten before they were taken: for want of speed, or because nothing could be written.
    fn miss(&mut self, events: u64) {
        if let Some(trouble) = &mut self.trouble {
            trouble.lost += events;
            self.counter.failed(events);
        } else {
            self.missed += events;
            self.counter.lagged(events);
        }
    }

    fn try_now(&mut self) {
        if let Some(trouble) = &mut self.trouble {
            trouble.retry = Instant::now();
        }
    }

    fn is_due(&self) -> bool {
        let waiting = self.trouble.as_ref().map(|trouble| trouble.retry);
        !self.pending.is_empty() && waiting.is_none_or(|retry| retry <= Instant::now())
    }

    /// When what waits can be tried: at once, unless that has failed just now.
    async fn due(&self) {
        if let Some(trouble) = &self.trouble {
            sleep_until(trouble.retry).await;
        }
    }

    /// Writes what waits, as far as that is possible.
    async fn attempt(&mut self) {
        let Written { events, error } = self.sink.write(self.pending.make_contiguous()).await;
        self.pending.drain(..events.min(self.pending.len()));
        self.counter.delivered(events as u64);
        self.attempts = if events > 0 { 0 } else { self.attempts + 1 };
        let Some(error) = error else {
            if let Some(trouble) = &mut self.trouble {
                trouble.over = true;
            }
            return;
        };
        let retry = Instant::now() + RETRY;
        if let Some(trouble) = &mut self.trouble {
            trouble.retry = retry;
            log::debug!("{}: {}", S::OUTPUT.name(), chain(&error));
        } else {
            self.trouble = Some(Trouble {
                retry,
                lost: 0,
                over: false,
            });
            let error = chain(&error);
            log::error!(
                "events are not written to {} ({}): {error}; trying again every second",
                S::OUTPUT.name(),
                self.sink.target()
            );
            self.notify(format!("events are not written: {error}"));
        }
        if S::ATTEMPTS.is_some_and(|limit| self.attempts >= limit) {
            self.give_up();
        }
    }

    /// Drops what waits.
    fn give_up(&mut self) {
        let lost = self.pending.len() as u64;
        self.pending.clear();
        self.attempts = 0;
        self.counter.failed(lost);
        if let Some(trouble) = &mut self.trouble {
            trouble.lost += lost;
        }
    }

    /// Says once what is different.
    fn tell(&mut self) {
        if self.trouble.as_ref().is_some_and(|trouble| trouble.over) {
            let lost = self.trouble.take().map_or(0, |trouble| trouble.lost);
            let message = format!("events are written again; {lost} were lost");
            log::warn!(
                "{message}, for {} ({})",
                S::OUTPUT.name(),
                self.sink.target()
            );
            self.notify(message);
        }
        let now = Instant::now();
        let quiet = self.complained.is_none_or(|last| last + COMPLAINT <= now);
        if self.missed > 0 && self.trouble.is_none() && quiet {
            let message = format!("events came too fast; {} were lost", self.missed);
            log::warn!(
                "{message}, for {} ({})",
                S::OUTPUT.name(),
                self.sink.target()
            );
            self.notify(message);
            self.missed = 0;
            self.complained = Some(now);
        }
    }

    /// In one stream with the events; whoever cannot be told by it has the log.
    fn notify(&self, message: String) {
        let notice = Notice::new(
            NoticeKind::Output,
            S::OUTPUT.name(),
            self.sink.target(),
            message,
        );
        if self.notices.try_send(notice).is_err() {
            log::debug!("nobody takes the notice of an output");
        }
    }

    /// Writes what is left, once.
    async fn drain(&mut self, events: &mut broadcast::Receiver<Arc<Published>>) {
        loop {
            self.fill(events);
            if self.pending.is_empty() {
                break;
            }
            let Written {
                events: written,
                error,
            } = self.sink.write(self.pending.make_contiguous()).await;
            self.pending.drain(..written.min(self.pending.len()));
            self.counter.delivered(written as u64);
            if let Some(error) = error {
                let lost = (self.pending.len() + events.len()) as u64;
                self.counter.failed(lost);
                log::error!("{lost} events are lost at the end: {}", chain(&error));
                return;
            }
        }
        if let Err(error) = self.sink.finish() {
            log::error!("{}", chain(&error));
        }
    }
}

#[cfg(test)]
mod tests;
