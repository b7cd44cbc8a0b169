//! The agent's own leak test, every so often, in a thread of its own: what it sends and waits for holds nobody up.

use std::path::Path;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::events::Feed;
use crate::config::Config;
use crate::error::chain;
use crate::event::{Notice, NoticeKind};
use crate::preflight::Sources;
use crate::verify::{Request, Verified, verify};

/// How soon after its start the agent tests for the first time.
const FIRST: Duration = Duration::from_secs(5);

/// How long one run may take in all.
const RUN_LIMIT: Duration = Duration::from_mins(1);

/// The thread, which ends when this is told to, or dropped.
#[derive(Debug)]
pub(super) struct LeakTest {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl LeakTest {
    /// Begins, if the configuration says how often.
    pub(super) fn start(
        config: &Config,
        bpffs: &Path,
        verified: Verified,
        feed: Feed,
    ) -> std::io::Result<Option<Self>> {
        let Some(interval) = config.verify().interval else {
            return Ok(None);
        };
        let request = Request {
            config: config.clone(),
            classes: Some(config.blocked()),
            resolver: None,
            quick: false,
            bpffs: bpffs.to_owned(),
            sources: Sources::default(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name("verify".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        // Also if the agent's owner has gone.
                        _ = stopped => {}
                        () = rounds(&request, interval, &verified, &feed) => {}
                    }
                });
                if end.send(()).is_err() {
                    log::debug!("nobody waits for the end of the leak test");
                }
            })?;
        Ok(Some(Self { stop, ended }))
    }

    /// Ends it between two steps of a run; says whether it has ended in time.
    pub(super) async fn finish(self, limit: Duration) -> bool {
        let Self { stop, ended } = self;
        if stop.send(()).is_err() {
            log::debug!("the leak test has ended by itself");
        }
        timeout(limit, ended).await.is_ok()
    }
}

async fn rounds(request: &Request, interval: Duration, verified: &Verified, feed: &Feed) {
    let mut due = interval_at(Instant::now() + FIRST, interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match timeout(RUN_LIMIT, verify(request)).await {
            Ok(Ok(report)) => {
                verified.note(&report);
                for check in report
                    .checks
                    .iter()
                    .filter(|check| check.result.is_failure())
                {
                    let interface = check.interface.as_deref().unwrap_or("-");
                    let message = format!("{}: {}", check.result.name(), check.reason);
                    log::error!("verify: {} {interface}: {message}", check.name);
                    let subject = format!("{} {interface}", check.name);
                    feed.notify(Notice::new(
                        NoticeKind::Verify,
                        check.part.name(),
                        subject,
                        message,
                    ));
                }
            }
            Ok(Err(error)) => {
                verified.note_error();
                log::error!("verify: {}", chain(&error));
            }
            Err(_elapsed) => {
                verified.note_error();
                log::error!("verify: not done within {RUN_LIMIT:?}");
            }
        }
    }
}
