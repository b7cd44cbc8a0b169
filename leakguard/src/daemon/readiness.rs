//! What the service manager and the log are told: the level as it is read back from the kernel, never as it is hoped
//! for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

use super::wait_for;
use crate::error::{chain, escape_control};
use crate::event::{Notice, NoticeKind};
use crate::netfilter::{Listings, Renewal};
use crate::status::{Assessment, Level, assess};

/// The shortest time between two readings of the level: it runs nft, and interfaces can change all the time.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the service manager is kept waiting for the wanted level. Then it is told how things are: it would end the agent
/// otherwise, and start it again, and what is missing would not come of that.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much is enforced, and who knows of it.
#[derive(Debug)]
pub(super) struct Readiness {
    bpffs: PathBuf,
    /// What the last reading has found of nftables.
    listings: Listings,
    wanted: Level,
    /// What was told last.
    told: Option<Assessment>,
    ready: bool,
    /// When less than the wanted level has to do; absent once that is over.
    patience: Option<Instant>,
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Readiness {
    /// Knows nothing yet: the first reading is due at once.
    pub(super) fn new(bpffs: &Path, wanted: Level) -> Self {
        Self {
            bpffs: bpffs.to_owned(),
            listings: Listings::default(),
            wanted,
            told: None,
            ready: false,
            patience: Some(Instant::now() + PATIENCE),
            due: Some(Instant::now()),
            last: None,
        }
    }

    /// The level may have changed.
    pub(super) fn note(&mut self) {
        let now = Instant::now();
        let earliest = self.last.map_or(now, |last| now.max(last + INTERVAL));
        self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
    }

    /// An interface has gone: nothing that was read before counts any more.
    pub(super) fn distrust(&mut self) {
        self.listings = Listings::default();
    }

    /// The leases were renewed, and no other part of the tables has changed by that.
    pub(super) fn note_renewal(&mut self, renewal: Renewal) {
        self.listings.note(renewal);
    }

    /// When the level is to be read; never, if nothing has changed.
    pub(super) async fn due(&self) {
        wait_for(self.due.into_iter().chain(self.patience).min()).await;
    }

    /// Reads the level, and tells of what is new; what has changed since it was told before, for those who listen to
    /// events.
    pub(super) async fn read(&mut self) -> Option<Notice> {
        self.due = None;
        self.last = Some(Instant::now());
        let found = assess(&self.bpffs, &mut self.listings)
            .await
            .unwrap_or_else(|error| Assessment {
                // Not known is not green.
                level: Level::None,
                mode: None,
                causes: vec![format!("the level cannot be read: {}", chain(&error))],
            });
        let is_news = self.told.as_ref() != Some(&found);
        if is_news {
            self.tell(&found);
        }
        if self.patience.is_some_and(|end| end <= Instant::now()) {
            self.patience = None;
            self.make_do_with(&found);
        }
        if self.ready {
            self.patience = None;
        }
        if !is_news {
            return None;
        }
        let notice = self.told.is_some().then(|| {
            let level = found.level.name();
            Notice::new(NoticeKind::Level, "level", level, describe(&found))
        });
        self.told = Some(found);
        notice
    }

    /// How much is enforced, as it was read last; none before that, because what is not known is not green.
    pub(super) fn level(&self) -> Level {
        self.told.as_ref().map_or(Level::None, |found| found.level)
    }

    /// Tells the log and the service manager: the one place that learns of every change of the level.
    fn tell(&mut self, found: &Assessment) {
        let text = describe(found);
        if found.causes.is_empty() {
            log::info!("{text}");
        } else {
            log::warn!("{text}");
        }
        let reached = found.level >= self.wanted;
        if !reached && !self.ready {
            log::warn!(
                "not reported as ready: the level is {}, and --min-level wants {}",
                found.level.name(),
                self.wanted.name()
            );
        }
        let status = escape_control(&text);
        if reached && !self.ready {
            self.ready = true;
            notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        } else {
            notify(&[NotifyState::Status(&status)]);
        }
    }

    /// Reports less than was wanted as ready, unless that is nothing.
    fn make_do_with(&mut self, found: &Assessment) {
        if self.ready || found.level == Level::None {
            return;
        }
        self.ready = true;
        log::warn!(
            "reported as ready after all, at level {}: it has not been more for {} s",
            found.level.name(),
            PATIENCE.as_secs()
        );
        let status = escape_control(&describe(found));
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }
}

/// The level, the mode and the causes on one line.
fn describe(found: &Assessment) -> String {
    let Assessment {
        level,
        mode,
        causes,
    } = found;
    let mut text = format!("level {}", level.name());
    if let Some(mode) = mode {
        text.push_str(", mode ");
        text.push_str(mode);
    }
    if !causes.is_empty() {
        text.push_str(": ");
        text.push_str(&causes.join("; "));
    }
    text
}

/// The service manager's watchdog, which restarts an agent whose owner hangs.
///
/// Only the owner's loop may reset it: a task of its own would go on while the owner hangs.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// Absent where nobody watches.
    interval: Option<Duration>,
    due: Option<Instant>,
}

impl Watchdog {
    /// Takes the service manager's time-out, if it has set one.
    pub(super) fn new() -> Self {
        let interval = sd_notify::watchdog_enabled()
            .map(|limit| limit / 2)
            .filter(|interval| !interval.is_zero());
        Self {
            interval,
            due: interval.map(|_| Instant::now()),
        }
    }

    /// When the watchdog is to be reset; never, where nobody watches.
    pub(super) async fn due(&self) {
        wait_for(self.due).await;
    }

    /// Shows that the owner is alive.
    pub(super) fn reset(&mut self) {
        notify(&[NotifyState::Watchdog]);
        self.due = self.interval.map(|interval| Instant::now() + interval);
    }
}

/// Tells the service manager that the agent is ending by intention.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Without a service manager this does nothing.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("cannot tell the service manager: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_mode_and_causes_are_one_line() {
        let found = Assessment {
            level: Level::Reduced,
            mode: Some("enforce"),
            causes: vec!["one thing".into(), "another".into()],
        };
        assert_eq!(
            describe(&found),
            "level reduced, mode enforce: one thing; another"
        );
        let nothing = Assessment {
            level: Level::None,
            mode: None,
            causes: Vec::new(),
        };
        assert_eq!(describe(&nothing), "level none");
    }

    #[test]
    fn the_level_is_read_at_once_and_then_with_a_pause() {
        let mut readiness = Readiness::new(Path::new("/"), Level::Full);
        assert!(readiness.due.unwrap() <= Instant::now());
        readiness.due = None;
        readiness.last = Some(Instant::now());
        readiness.note();
        let first = readiness.due.unwrap();
        assert!(first > Instant::now() + INTERVAL / 2);
        readiness.note();
        assert_eq!(readiness.due, Some(first));
    }
}
