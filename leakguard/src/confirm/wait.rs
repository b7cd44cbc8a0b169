//! The process that waits for the confirmation.

use std::path::Path;
use std::time::Duration;

use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Saved, socket};
use crate::daemon::protocol::{Answer, Ask};
use crate::daemon::{ControlError, SocketName, answer_to, hear, listen};
use crate::error::chain;
use crate::guard::{Guard, GuardError};
use crate::host;

/// How often the clock is looked at: tokio's does not go on while the machine sleeps, the one that counts does.
const TICK: Duration = Duration::from_millis(250);

/// How soon rolling back is tried again after it has failed.
const RETRY: Duration = Duration::from_secs(5);

/// The most clients at once.
const MAX_CLIENTS: usize = 16;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Somebody confirmed in time.
    Confirmed,
    /// Nobody did: what was enforced before is enforced again, or nothing, as before.
    RolledBack,
    /// Somebody lifted enforcement.
    Released,
}

/// The socket that a confirmation is waited for on.
#[derive(Debug)]
pub struct Trial {
    listener: UnixListener,
    name: SocketName,
}

impl Trial {
    /// Opens the socket, before anything is enforced: what cannot be confirmed must not be tried.
    pub fn open(control: &Path) -> Result<Self, ControlError> {
        let (listener, name) = listen(&socket(control))?;
        Ok(Self { listener, name })
    }

    /// Waits for the confirmation, and rolls back to `before` if it does not come.
    pub async fn wait(
        self,
        mut guard: Guard,
        before: Option<Saved>,
        limit: Duration,
    ) -> Result<Ended, GuardError> {
        let Self { listener, name } = self;
        let mut deadline = since_boot().saturating_add(limit);
        let (asks, mut asked) = mpsc::channel(MAX_CLIENTS);
        let mut clients = JoinSet::new();
        let ended = loop {
            let remaining = deadline.saturating_sub(since_boot());
            if remaining.is_zero() {
                match &before {
                    None => {
                        guard.release().await?;
                        break Ended::RolledBack;
                    }
                    Some(saved) => match saved.restore(&mut guard).await {
                        Ok(()) => break Ended::RolledBack,
                        Err(error) => {
                            // What is enforced stays meanwhile.
                            log::error!("cannot roll back, trying again: {}", chain(&error));
                            deadline = since_boot().saturating_add(RETRY);
                            continue;
                        }
                    },
                }
            }
            tokio::select! {
                () = sleep(remaining.min(TICK)) => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if clients.len() < MAX_CLIENTS => {
                        clients.spawn(forward(stream, asks.clone()));
                    }
                    Ok(_) => log::warn!("more than {MAX_CLIENTS} clients at once: refused one"),
                    // Without a way to confirm there is still the way back.
                    Err(error) => {
                        log::error!("cannot accept clients: {error}");
                        sleep(TICK).await;
                    }
                },
                Some(_) = clients.join_next() => {}
                Some((ask, client)) = asked.recv() => match ask {
                    Ask::Hello {} => tell(client, Answer::Pending {
                        pid: std::process::id(),
                        remaining_ms: u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX),
                    }).await,
                    Ask::Confirm {} => {
                        // Its name goes first: who has the answer finds nothing pending.
                        drop(name);
                        tell(client, Answer::Done { changed: true }).await;
                        return Ok(Ended::Confirmed);
                    }
                    Ask::Release {} => {
                        let result = guard.release().await;
                        drop(name);
                        let answer = match &result {
                            Ok(()) => Answer::Done { changed: true },
                            Err(error) => Answer::Refused { message: chain(error) },
                        };
                        tell(client, answer).await;
                        return result.map(|()| Ended::Released);
                    }
                    _ => tell(client, Answer::Refused {
                        message: "a confirmation is pending; run `leakguard confirm` first".into(),
                    }).await,
                },
            }
        };
        drop(name);
        Ok(ended)
    }
}

/// Passes on what a client asks, if it may.
async fn forward(stream: UnixStream, asks: mpsc::Sender<(Ask, OwnedWriteHalf)>) {
    match hear(stream).await {
        // The receiver outlives the clients' tasks.
        Ok(Some(question)) => drop(asks.send(question).await),
        Ok(None) => {}
        Err(error) => log::debug!("a client has gone: {error}"),
    }
}

async fn tell(mut client: OwnedWriteHalf, answer: Answer) {
    if let Err(error) = answer_to(&mut client, &answer).await {
        log::debug!("a client has gone before its answer: {error}");
    }
}

/// The time since boot; the end of time if that is not known, so that nothing waits for ever.
fn since_boot() -> Duration {
    host::since_boot().unwrap_or_else(|error| {
        // The clock exists since 2.6.39.
        log::error!("cannot read the clock: {error}");
        Duration::MAX
    })
}
