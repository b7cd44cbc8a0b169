//! The control socket: both ends.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as Client;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leakguard_common::abi::Role;
use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::protocol::{Answer, Ask, MAX_ASK};
use super::{Feed, Health, Request};
use crate::error::chain;

/// How long a client may take to ask, and to take a line of an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How long a client waits to learn whether an agent is there at all.
const HELLO_LIMIT: Duration = Duration::from_secs(1);

/// The most clients at once; each that follows costs a task.
const MAX_CLIENTS: usize = 64;

/// Why the control socket could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket or its directory could not be made.
    #[error("cannot listen on {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Somebody listens there already.
    #[error("an agent already listens on {path}; use another --control path")]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket stands there.
    #[error("{path} is not a socket; use another --control path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The agent may not be asked by this user.
    #[error("the right to ask the agent at {path} is missing: run leakguard as root")]
    Denied {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The agent did not answer as it should.
    #[error("the agent at {path} does not answer")]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// The socket's name, removed when dropped.
#[derive(Debug)]
pub struct SocketName(PathBuf);

impl Drop for SocketName {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            log::debug!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Opens the socket for its owner only, in place of one that a dead agent has left.
pub(crate) fn listen(path: &Path) -> Result<(UnixListener, SocketName), ControlError> {
    let error = |source| ControlError::Listen {
        path: path.to_owned(),
        source,
    };
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(error)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) if Client::connect(path).is_ok() => {
            return Err(ControlError::Taken {
                path: path.to_owned(),
            });
        }
        Ok(_) => fs::remove_file(path).map_err(error)?,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
        Err(other) => return Err(error(other)),
    }
    let listener = UnixListener::bind(path).map_err(error)?;
    let name = SocketName(path.to_owned());
    // Until here, who may connect is up to the umask; who may ask is checked for each client.
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(error)?;
    Ok((listener, name))
}

/// Serves clients until the listener fails.
pub(super) async fn serve(
    listener: UnixListener,
    requests: mpsc::Sender<Request>,
    feed: Feed,
    health: Arc<Health>,
) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if clients.len() < MAX_CLIENTS => {
                    clients.spawn(client(
                        stream,
                        requests.clone(),
                        feed.clone(),
                        Arc::clone(&health),
                    ));
                }
                Ok(_) => log::warn!("more than {MAX_CLIENTS} clients at once: refused one"),
                Err(error) => {
                    log::error!("cannot accept clients: {error}");
                    return;
                }
            },
            Some(ended) = clients.join_next() => {
                if let Err(error) = ended {
                    log::error!("a client's task has failed: {error}");
                }
            }
        }
    }
}

async fn client(
    stream: UnixStream,
    requests: mpsc::Sender<Request>,
    feed: Feed,
    health: Arc<Health>,
) {
    if let Err(error) = converse(stream, requests, feed, &health).await {
        log::debug!("a client has gone: {error}");
    }
}

async fn converse(
    stream: UnixStream,
    requests: mpsc::Sender<Request>,
    feed: Feed,
    health: &Health,
) -> io::Result<()> {
    let Some((question, mut send)) = hear(stream).await? else {
        return Ok(());
    };
    let answer = match question {
        Ask::Hello {} => Answer::Agent {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            health: health.report(),
        },
        Ask::Events { follow } => return events(&mut send, &feed, follow).await,
        Ask::Allow { interface, allow } => {
            let role = if allow { Role::Tunnel } else { Role::Uplink };
            let asked = ask(&requests, |reply| Request::SetRole(interface, role, reply)).await;
            match asked {
                Some(Ok(changed)) => Answer::Done { changed },
                Some(Err(error)) => refused(&chain(&error)),
                None => refused("the agent is ending"),
            }
        }
        Ask::Confirm {} => refused("an agent needs no confirmation"),
        Ask::Release {} => return release(&mut send, &requests).await,
        #[cfg(debug_assertions)]
        Ask::Panic {} => match requests.send(Request::Panic).await {
            Ok(()) => Answer::Done { changed: true },
            Err(_) => refused("the agent is ending"),
        },
    };
    answer_to(&mut send, &answer).await
}

/// What a client asks, and where its answer goes; `None` if it may not ask or asks nothing, which it is told.
pub(crate) async fn hear(stream: UnixStream) -> io::Result<Option<(Ask, OwnedWriteHalf)>> {
    let peer = stream.peer_cred()?.uid();
    let (receive, mut send) = stream.into_split();
    if peer != 0 && peer != geteuid().as_raw() {
        log::warn!("refused a client of uid {peer}");
        answer_to(&mut send, &Answer::Denied).await?;
        return Ok(None);
    }
    let mut line = String::new();
    let mut receive = AsyncReader::new(receive.take(MAX_ASK));
    timeout(PATIENCE, receive.read_line(&mut line)).await??;
    match serde_json::from_str(&line) {
        Ok(question) => Ok(Some((question, send))),
        Err(error) => {
            answer_to(&mut send, &refused(&format!("not a question: {error}"))).await?;
            Ok(None)
        }
    }
}

async fn release(
    send: &mut (impl AsyncWriteExt + Unpin),
    requests: &mpsc::Sender<Request>,
) -> io::Result<()> {
    // Dropped once the answer is written: the agent waits for that before it ends.
    let (_telling, told) = oneshot::channel();
    let answer = match ask(requests, |reply| Request::Release(reply, told)).await {
        Some(()) => Answer::Done { changed: true },
        None => refused("enforcement was not lifted completely; see the agent's log"),
    };
    answer_to(send, &answer).await
}

async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Option<T> {
    let (reply, answered) = oneshot::channel();
    requests.send(request(reply)).await.ok()?;
    answered.await.ok()
}

async fn events(
    send: &mut (impl AsyncWriteExt + Unpin),
    feed: &Feed,
    follow: bool,
) -> io::Result<()> {
    let (recent, mut live) = feed.subscribe();
    for event in recent {
        write_line(send, &event.json).await?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        let (event, missed);
        let line = match live.recv().await {
            Ok(published) => {
                event = published;
                &event.json
            }
            Err(RecvError::Lagged(events)) => {
                missed = serde_json::to_string(&Answer::Missed { events })?;
                &missed
            }
            Err(RecvError::Closed) => return Ok(()),
        };
        // A follower may pause for as long as it likes: it is told how much it missed.
        send.write_all(line.as_bytes()).await?;
        send.write_all(b"\n").await?;
    }
}

/// Answers a client, which may take some time to listen.
pub(crate) async fn answer_to(
    send: &mut (impl AsyncWriteExt + Unpin),
    answer: &Answer,
) -> io::Result<()> {
    write_line(send, &serde_json::to_string(answer)?).await
}

async fn write_line(send: &mut (impl AsyncWriteExt + Unpin), line: &str) -> io::Result<()> {
    timeout(PATIENCE, async {
        send.write_all(line.as_bytes()).await?;
        send.write_all(b"\n").await
    })
    .await?
}

fn refused(message: &str) -> Answer {
    Answer::Refused {
        message: message.to_owned(),
    }
}

/// An agent that was asked something.
#[derive(Debug)]
pub struct Conversation {
    path: PathBuf,
    lines: io::Lines<BufReader<Client>>,
}

/// Asks the agent; `None` if none listens there.
pub fn connect(path: &Path, question: &Ask) -> Result<Option<Conversation>, ControlError> {
    let error = |source| ControlError::Exchange {
        path: path.to_owned(),
        source,
    };
    let mut stream = match Client::connect(path) {
        Ok(stream) => stream,
        Err(absent)
            if matches!(
                absent.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ControlError::Denied {
                path: path.to_owned(),
                source,
            });
        }
        Err(other) => return Err(error(other)),
    };
    let limit = match question {
        Ask::Hello {} => Some(HELLO_LIMIT),
        #[cfg(debug_assertions)]
        Ask::Panic {} => Some(HELLO_LIMIT),
        // Who follows waits for as long as nothing happens.
        Ask::Events { follow: true } => None,
        Ask::Events { follow: false } | Ask::Allow { .. } | Ask::Confirm {} | Ask::Release {} => {
            Some(ANSWER_LIMIT)
        }
    };
    stream.set_read_timeout(limit).map_err(error)?;
    let mut line = serde_json::to_string(question)
        .map_err(io::Error::from)
        .map_err(error)?;
    line.push('\n');
    match stream.write_all(line.as_bytes()) {
        // The agent may refuse before it has heard everything: its answer says why.
        Err(cut) if cut.kind() == io::ErrorKind::BrokenPipe => {}
        result => result.map_err(error)?,
    }
    Ok(Some(Conversation {
        path: path.to_owned(),
        lines: BufReader::new(stream).lines(),
    }))
}

impl Conversation {
    /// The next line; `None` after the last.
    pub fn line(&mut self) -> Result<Option<String>, ControlError> {
        self.lines
            .next()
            .transpose()
            .map_err(|source| ControlError::Exchange {
                path: self.path.clone(),
                source,
            })
    }

    /// The one answer.
    pub fn answer(&mut self) -> Result<Answer, ControlError> {
        let line = self.line()?.unwrap_or_default();
        match serde_json::from_str(&line) {
            Ok(Answer::Denied) => Err(self.denied()),
            Ok(answer) => Ok(answer),
            Err(error) => Err(ControlError::Exchange {
                path: self.path.clone(),
                source: error.into(),
            }),
        }
    }

    /// What [`Answer::Denied`] means.
    pub fn denied(&self) -> ControlError {
        ControlError::Denied {
            path: self.path.clone(),
            source: io::ErrorKind::PermissionDenied.into(),
        }
    }
}
