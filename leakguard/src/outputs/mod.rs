//! Where events go besides standard output and the control socket, and how many of them got there.
//!
//! Each output has a thread of its own, because each may have to wait: for a disk, for the journal, for a network. It
//! takes events from the feed at its own pace. Whoever is too slow misses some; how many is counted, by cause. Nothing
//! here ever holds up the agent.

mod append;
pub mod audit;
mod error;
mod file;
mod journald;
pub mod metrics;
mod otlp;
mod sink;
mod tally;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

pub use error::OutputError;
pub(crate) use tally::Counter;
pub use tally::{Output, OutputReport, Tally};

use crate::config::{Config, Events};
use crate::daemon::Published;
use crate::event::{Entry, Notice, NoticeKind};
use sink::{Channels, Orders, Sink};

/// How many notices of outputs may wait for the owner; each output has few to give.
const NOTICES: usize = 64;

/// Looks whether the files can be used at all, before anything is enforced: an error that somebody has to mend.
///
/// What may pass by itself, such as a full disk, is none: the agent has more important things to do.
pub fn check(config: &Config) -> Result<(), OutputError> {
    let Events {
        file, audit_log, ..
    } = config.events();
    let file = file.iter().try_for_each(|path| {
        append::AppendFile::open(path)?;
        Ok(())
    });
    let audit_log = || audit_log.iter().try_for_each(|path| audit::check(path));
    match file.and_then(|()| audit_log()) {
        Err(error) if error.is_mistake() => Err(error),
        Err(_passing) => Ok(()),
        Ok(()) => Ok(()),
    }
}

/// The outputs that run.
#[derive(Debug)]
pub(crate) struct Outputs {
    orders: watch::Sender<Orders>,
    notices: mpsc::Receiver<Notice>,
    /// Each closes when its output has ended.
    ended: Vec<oneshot::Receiver<()>>,
}

impl Outputs {
    /// Starts those that the configuration names.
    pub(crate) fn start(
        config: &Config,
        tally: &Tally,
        mut subscribe: impl FnMut() -> broadcast::Receiver<Arc<Published>>,
    ) -> Result<Self, OutputError> {
        let (told, notices) = mpsc::channel(NOTICES);
        let (orders, ordered) = watch::channel(Orders::default());
        let mut outputs = Self {
            orders,
            notices,
            ended: Vec::new(),
        };
        let mut channels = |output: Output| {
            let counter = tally.counter(output);
            counter.activate();
            Channels {
                events: subscribe(),
                orders: ordered.clone(),
                notices: told.clone(),
                counter,
            }
        };
        let Events {
            file,
            audit_log,
            journald,
            otlp,
        } = config.events();
        if let Some(path) = file {
            let path = path.clone();
            outputs.spawn(channels(Output::File), move || file::EventFile::new(&path))?;
        }
        if let Some(path) = audit_log {
            let path = path.clone();
            outputs.spawn(channels(Output::AuditLog), move || {
                audit::AuditLog::new(&path)
            })?;
        }
        if *journald {
            outputs.spawn(channels(Output::Journald), journald::Journal::new)?;
        }
        if let Some(endpoint) = otlp {
            let (endpoint, labels) = (endpoint.clone(), config.metrics().labels.clone());
            outputs.spawn(channels(Output::Otlp), move || {
                otlp::Otlp::new(&endpoint, &labels)
            })?;
        }
        Ok(outputs)
    }

    /// Opens files anew, after they were renamed.
    pub(crate) fn reopen(&self) {
        self.orders.send_modify(|orders| orders.reopen += 1);
    }

    /// What an output has to tell; never, without any.
    pub(crate) async fn notice(&mut self) -> Notice {
        match self.notices.recv().await {
            Some(notice) => notice,
            None => std::future::pending().await,
        }
    }

    /// Has them write what is left; says whether all of them were done in time.
    pub(crate) async fn finish(self, limit: Duration) -> bool {
        self.orders.send_modify(|orders| orders.stop = true);
        let deadline = Instant::now() + limit;
        for ended in self.ended {
            // Closed without a word: that is how an output ends.
            if timeout_at(deadline, ended).await.is_err() {
                return false;
            }
        }
        true
    }

    fn spawn<S: Sink>(
        &mut self,
        channels: Channels,
        make: impl FnOnce() -> S + Send + 'static,
    ) -> Result<(), OutputError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(OutputError::Thread)?;
        let (running, ended) = oneshot::channel::<()>();
        thread::Builder::new()
            .name(S::OUTPUT.name().into())
            .spawn(move || {
                let _ending = Ending {
                    output: S::OUTPUT,
                    _running: running,
                };
                runtime.block_on(async { sink::run(make(), channels).await });
            })
            .map_err(OutputError::Thread)?;
        self.ended.push(ended);
        Ok(())
    }
}

/// Says so if an output ends that nobody has told to.
struct Ending {
    output: Output,
    /// Closed with it.
    _running: oneshot::Sender<()>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if thread::panicking() {
            log::error!(
                "the output {} has failed: nothing more is written to it, or counted, until the agent is restarted",
                self.output.name()
            );
        }
    }
}

/// Whether somebody should look at it: something was held back, changed from outside, or does not work.
fn is_warning(entry: &Entry) -> bool {
    match entry {
        Entry::Packet(event) => event.verdict == "drop",
        Entry::Suppressed(rest) => rest.verdict == "drop",
        Entry::Notice(notice) => match notice.kind {
            NoticeKind::Repair
            | NoticeKind::KillSwitch
            | NoticeKind::Output
            | NoticeKind::Resolver
            | NoticeKind::Verify => true,
            NoticeKind::Level => notice.subject != "full",
            NoticeKind::AuditLog => false,
        },
    }
}

/// An event in which everything is there.
#[cfg(test)]
const EXAMPLE: &str = r#"{"v":1,"seq":41,"time":"2026-11-23T10:00:00.123456789Z","verdict":"drop","reason":"dns",
    "hook":"cgroup_skb","interface":{"index":2,"name":"eth0","role":"uplink"},"netns":"host","family":"ipv4",
    "protocol":"udp","source":"192.0.2.10:40112","destination":"8.8.8.8:53","length":71,
    "query":{"name":"example.com.","type":"A"},"process":{"pid":4242,"name":"dig","exe":"/usr/bin/dig",
    "cmdline":["dig","example.com"],"uid":1000,"user":"alice","attribution":"sender"},
    "cgroup":"/system.slice/app.service","unit":"app.service",
    "container":{"id":"0123456789ab","runtime":"docker","name":"app","pod":"pod-uid",
    "pod_name":"shop-7d4","pod_namespace":"web"},
    "client":{"process":{"pid":7,"name":"curl","exe":"/usr/bin/curl","uid":1000,"user":null},"cgroup":null,
    "unit":"a.service","container":null},"suppressed":3}"#;
