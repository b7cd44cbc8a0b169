//! The agent: one owner of the protection, one of the event ring, and a control socket that asks them.
//!
//! All that enforces runs on one thread. The owner follows the interfaces and carries out requests; the event task decodes
//! and hands out events, and can lose some; neither ever waits for a client. Clients are served by a thread of their own.

mod control;
mod events;
mod followers;
mod handshakes;
mod health;
mod leak_test;
mod printer;
pub mod protocol;
mod published;
mod readiness;
mod tamper;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use leakguard_common::abi::Role;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep_until, timeout};

pub use control::{ControlError, Conversation, SocketName, connect};
pub(crate) use control::{answer_to, hear, listen};
pub use events::Feed;
pub(crate) use events::PAUSE;
pub use health::{ClientCounts, Health, HealthReport};
pub use printer::{Form, Printer};
pub use published::Published;

use crate::config::{Config, OnExit};
use crate::error::chain;
use crate::event::{Notice, NoticeKind};
use crate::guard::{Guard, GuardError, Handshakes, Interfaces, Place, Presence, Switched};
use crate::host::trim_memory;
use crate::interfaces::{Changes, WatchError, Watcher};
use crate::kernel::requirements::check_privileges;
use crate::outputs::metrics::{MetricsError, Page};
use crate::outputs::{OutputError, Outputs, Tally};
use crate::resolver;
use crate::status::Level;
use crate::verify::Verified;
use leak_test::LeakTest;
use readiness::{Readiness, Watchdog};
use tamper::{Suspicion, Tampering};

/// The time between readings that nothing but routes call for, in the long run: a routing daemon changes them all the
/// time.
const ROUTES_INTERVAL: Duration = Duration::from_millis(250);

/// How many readings may come at once before that counts: a first gateway makes an uplink of an interface that was
/// local, and until then DNS passes there.
const ROUTES_BURST: u32 = 8;

/// How soon a reading that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How often what enforces is read back, and mended if somebody has changed it.
const VERIFY_INTERVAL: Duration = Duration::from_secs(5);

/// How often the tunnel is vouched for, and its carrier looked at.
const ATTEND_INTERVAL: Duration = Duration::from_millis(250);

/// How long the tasks may take to end.
const DRAIN: Duration = Duration::from_secs(2);

/// How many requests may wait for the owner.
const REQUESTS: usize = 16;

/// Why the agent could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Protection could not be established or lifted.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The control socket could not be opened.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Changes of the interfaces cannot be followed.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// A file that events are to be written to cannot be used, or an output cannot be started.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The thread that looks after the resolver could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The counters of the leak test cannot be made.
    #[error("cannot count what the leak test finds")]
    Counters(#[source] prometheus::Error),
    /// The thread of the leak test cannot be started.
    #[error("cannot start the thread of the leak test")]
    LeakTest(#[source] std::io::Error),
    /// A signal handler could not be installed.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
}

/// What somebody asks of the owner.
#[derive(Debug)]
pub(crate) enum Request {
    /// Give an interface a role; answers whether that changed anything.
    SetRole(String, Role, oneshot::Sender<Result<bool, GuardError>>),
    /// Say that you are at work.
    Works(oneshot::Sender<()>),
    /// Lift protection and end. The second half says when the client has been told.
    Release(oneshot::Sender<()>, oneshot::Receiver<()>),
    /// Panic.
    #[cfg(debug_assertions)]
    Panic,
}

/// Why the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Enforcement stays in the kernel.
    Kept,
    /// Enforcement was lifted, because the configuration says so.
    Lifted,
    /// Enforcement was lifted, because somebody has asked for it.
    Released,
}

/// Runs the agent until it is told to end. `started` is called once everything is enforced.
///
/// The service manager is told that it is ready once the kernel's state is at the `wanted` level.
pub async fn run(
    config: &Config,
    place: &Place,
    control: &Path,
    wanted: Level,
    printer: Printer,
    started: impl FnOnce(&Guard),
) -> Result<Ended, DaemonError> {
    check_privileges().map_err(GuardError::from)?;
    crate::outputs::check(config)?;
    // Before anything is enforced: an agent that cannot be asked must not leave traces.
    let (listener, socket) = listen(control)?;
    let page = Page::listen(config)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(DaemonError::Signals)?;
    // Before the first look at the interfaces, so that no change falls in between.
    let mut watcher = Watcher::with_receive_buffer(config.netlink_buffer().bytes())?;
    let (mut guard, _) = Guard::establish(config, place, Presence::Stays).await?;
    let (interfaces, named) = watch::channel(Arc::new(guard.interfaces().clone()));
    let mut tampering = Tampering::new(guard.has_filters());
    let mut suspicion = Suspicion::default();
    let health = Arc::new(Health::with_outputs(Tally::with_stdout(printer.counter())));
    let feed = Feed::new(printer);
    let mut outputs = Outputs::start(config, health.outputs(), || feed.subscribe().1)?;
    let (requests, mut asked) = mpsc::channel(REQUESTS);
    let mut tasks = JoinSet::new();
    let (level, leveled) = watch::channel(Level::None);
    let verified = Verified::new().map_err(DaemonError::Counters)?;
    if let Some(page) = page {
        let health = Arc::clone(&health);
        page.serve(
            &place.bpffs,
            health,
            named.clone(),
            leveled,
            verified.clone(),
        )?;
    }
    let leak_test = LeakTest::start(config, &place.bpffs, verified, feed.clone())
        .map_err(DaemonError::LeakTest)?;
    tasks.spawn(events::pump(
        guard.take_reports()?,
        named.clone(),
        feed.clone(),
    ));
    let (tell, mut handshakes) = watch::channel(Handshakes::new());
    if config.kill_switch().handshake_max.is_some() {
        tasks.spawn(handshakes::watch(named, tell));
    }
    let (server, ended) = control::start(listener, requests, feed.clone(), Arc::clone(&health))?;
    tasks.spawn(async move { drop(ended.await) });
    let mut resolver =
        resolver::Watch::start(resolver::Root::new("/")).map_err(DaemonError::Thread)?;
    started(&guard);
    trim_memory();

    let mut readiness = Readiness::new(&place.bpffs, wanted);
    let mut watchdog = Watchdog::new();
    let mut pace = Pace::default();
    let mut verification = interval_at(Instant::now() + VERIFY_INTERVAL, VERIFY_INTERVAL);
    verification.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut attendance = interval(ATTEND_INTERVAL);
    attendance.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let released = loop {
        if guard.is_postponed() {
            pace.resume();
        }
        tokio::select! {
            changes = watcher.changed() => {
                let changes = changes?;
                if changes.overrun {
                    health.resynced();
                }
                if changes.gone || changes.overrun {
                    guard.distrust();
                    readiness.distrust();
                }
                pace.note(changes);
            }
            signs = tampering.noticed() => {
                if signs.lost {
                    health.resynced();
                }
                suspicion.note();
            }
            () = suspicion.due() => {
                suspicion.looked();
                verify(&mut guard).await;
            }
            () = pace.due() => {
                follow(&mut guard, &interfaces, &mut pace).await;
                readiness.note();
            }
            Ok(()) = handshakes.changed() => {
                let found = handshakes.borrow_and_update().clone();
                if let Err(error) = guard.note_handshakes(found) {
                    log::error!("cannot look after the tunnel: {}", chain(&error));
                }
            }
            _ = attendance.tick(), if guard.needs_attendance() => {
                match guard.attend().await {
                    Ok(false) => {}
                    Ok(true) => {
                        interfaces.send_replace(Arc::new(guard.interfaces().clone()));
                    }
                    Err(error) => log::error!("cannot look after the tunnel: {}", chain(&error)),
                }
            }
            _ = verification.tick() => {
                verify(&mut guard).await;
                if let Some(renewal) = guard.renew_leases().await {
                    readiness.note_renewal(renewal);
                }
                readiness.note();
            }
            () = readiness.due() => {
                if let Some(notice) = readiness.read().await {
                    feed.notify(notice);
                }
                level.send_replace(readiness.level());
            }
            () = watchdog.due() => watchdog.reset(),
            notice = outputs.notice() => feed.notify(notice),
            found = resolver.found() => {
                let resolver::Found { path, restored, message } = found;
                if restored {
                    health.resolver_restored();
                }
                feed.notify(Notice::new(NoticeKind::Resolver, "resolver", path, message));
            }
            _ = hangup.recv() => outputs.reopen(),
            request = asked.recv() => match request {
                Some(Request::SetRole(name, role, reply)) => {
                    let result = guard.set_role(&name, role).await;
                    interfaces.send_replace(Arc::new(guard.interfaces().clone()));
                    answer(reply, result);
                    readiness.note();
                }
                Some(Request::Works(reply)) => answer(reply, ()),
                Some(Request::Release(reply, told)) => break Some((reply, told)),
                #[cfg(debug_assertions)]
                #[expect(clippy::panic, reason = "it is what was asked for")]
                Some(Request::Panic) => panic!("somebody has asked for it"),
                None => break None,
            },
            Some(ended) = tasks.join_next() => {
                // A task that ends has failed: events or control are gone, but what is enforced stays.
                log::error!("a task of the agent has ended: {ended:?}");
                break None;
            }
            () = either(&mut interrupt, &mut terminate) => break None,
        }
        for change in guard.take_mended() {
            health.repaired(change.part);
            feed.notify(Notice::repair(change));
        }
        if let Some(Switched { engaged, message }) = guard.take_switched() {
            let subject = if engaged { "engaged" } else { "not engaged" };
            feed.notify(Notice::new(
                NoticeKind::KillSwitch,
                "kill_switch",
                subject,
                message,
            ));
        }
    };

    readiness::stopping();
    let ended = match config.on_exit() {
        _ if released.is_some() => Ended::Released,
        OnExit::Release => Ended::Lifted,
        OnExit::Keep => Ended::Kept,
    };
    if ended != Ended::Kept {
        guard.release().await?;
    }
    if let Some((reply, told)) = released {
        answer(reply, ());
        if timeout(DRAIN, told).await.is_err() {
            log::warn!("whoever asked for the release does not take the answer");
        }
    }
    // Its name goes before its listener: a new agent takes a name that nobody listens on for its own.
    drop(socket);
    drop(server);
    if let Some(leak_test) = leak_test
        && !leak_test.finish(DRAIN).await
    {
        log::warn!("the leak test did not end in time");
    }
    if timeout(DRAIN, tasks.shutdown()).await.is_err() {
        log::warn!("the agent's tasks did not end in time");
    }
    if !outputs.finish(DRAIN).await {
        log::warn!(
            "an output of events did not end in time: see what it has not written in the log"
        );
    }
    Ok(ended)
}

async fn verify(guard: &mut Guard) {
    if let Err(error) = guard.verify().await {
        log::error!("cannot verify the enforcement: {}", chain(&error));
    }
}

async fn follow(guard: &mut Guard, interfaces: &watch::Sender<Arc<Interfaces>>, pace: &mut Pace) {
    pace.start();
    match guard.follow().await {
        Ok(_) => {
            interfaces.send_replace(Arc::new(guard.interfaces().clone()));
            if !guard.is_complete() {
                pace.retry();
            }
        }
        Err(error) => {
            // Nothing is opened by a failure: what has come is unknown, and unknown is an uplink.
            log::error!(
                "cannot follow the interfaces, trying again: {}",
                chain(&error)
            );
            pace.retry();
        }
    }
}

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}

/// Whoever asked may have gone meanwhile.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    if reply.send(value).is_err() {
        log::debug!("a client has gone before its answer");
    }
}

/// When the interfaces are to be read again: at once after a change of links, and with a pause after a burst of
/// readings that only routes call for.
#[derive(Debug, Default)]
struct Pace {
    due: Option<Instant>,
    /// Each reading moves it on by one interval; how far it is ahead says how many there were lately.
    spent: Option<Instant>,
}

impl Pace {
    fn note(&mut self, changes: Changes) {
        let Changes {
            links,
            gone,
            routes,
            overrun,
        } = changes;
        let now = Instant::now();
        if overrun {
            log::warn!("netlink events were lost: reading everything again");
        }
        if links || gone || overrun {
            self.due = Some(now);
        } else if routes {
            let credit = ROUTES_INTERVAL * (ROUTES_BURST - 1);
            let earliest = self.spent.and_then(|spent| spent.checked_sub(credit));
            self.sooner(earliest.map_or(now, |earliest| earliest.max(now)));
        }
    }

    fn retry(&mut self) {
        self.sooner(Instant::now() + RETRY_INTERVAL);
    }

    /// Goes on at once, after what else there is to do.
    fn resume(&mut self) {
        self.due = Some(Instant::now());
    }

    fn start(&mut self) {
        let now = Instant::now();
        self.due = None;
        self.spent = Some(self.spent.map_or(now, |spent| spent.max(now)) + ROUTES_INTERVAL);
    }

    fn sooner(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Never, if nothing is due.
    async fn due(&self) {
        wait_for(self.due).await;
    }
}

/// Waits for a moment; for ever, if there is none.
async fn wait_for(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: Changes = Changes {
        links: false,
        gone: false,
        routes: true,
        overrun: false,
    };

    #[test]
    fn routes_are_read_at_once_until_they_change_all_the_time() {
        let mut pace = Pace::default();
        for reading in 0..ROUTES_BURST {
            pace.note(ROUTES);
            assert!(pace.due.unwrap() <= Instant::now(), "reading {reading}");
            pace.start();
        }
        pace.note(ROUTES);
        let pause = pace.due.unwrap() - Instant::now();
        assert!(
            pause > ROUTES_INTERVAL / 2 && pause <= ROUTES_INTERVAL,
            "{pause:?}"
        );
    }

    #[test]
    fn links_are_read_at_once_whatever_came_before() {
        let mut pace = Pace::default();
        for _ in 0..2 * ROUTES_BURST {
            pace.start();
        }
        pace.note(ROUTES);
        pace.note(Changes {
            links: true,
            ..ROUTES
        });
        assert!(pace.due.unwrap() <= Instant::now());
    }
}
