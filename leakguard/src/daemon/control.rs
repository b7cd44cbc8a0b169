//! The control socket: both ends.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as Client;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use leakguard_common::abi::Role;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::followers::{Follower, Hub};
use super::protocol::{Answer, Ask, MAX_ASK};
use super::{Feed, Health, Request};
use crate::error::chain;

/// How long a client may take to ask, and to take a line of an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How long a client waits to learn whether an agent is there at all.
const HELLO_LIMIT: Duration = Duration::from_secs(1);

/// The most clients at once that read events; less, where the agent may not have twice as many descriptors: those that
/// enforce need some too.
const MAX_FOLLOWERS: usize = 1024;

/// How many clients there may be besides: however many read events, there is room for those who have a short question.
const OTHERS: usize = 64;

/// What the kernel may keep for a client that does not read (it doubles this); its default would add up.
const SEND_BUFFER: usize = 32 * 1024;

/// How much of what the agent says a client reads at once.
const READ_BYTES: usize = 64 * 1024;

/// The pause after a client that could not be accepted, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    /// Nobody could be served.
    #[error("cannot serve the control socket")]
    Serve(#[source] io::Error),
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

/// The thread that serves clients; they are let go when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    /// Its end ends the thread.
    _going_on: oneshot::Sender<()>,
}

/// Serves clients from a thread of their own: a thousand that read events take time, and none of it is the agent's.
///
/// The second half of what is returned ends with the thread.
pub(super) fn start(
    listener: UnixListener,
    requests: mpsc::Sender<Request>,
    feed: Feed,
    health: Arc<Health>,
) -> Result<(Server, oneshot::Receiver<()>), ControlError> {
    let listener = listener.into_std().map_err(ControlError::Serve)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ControlError::Serve)?;
    let (going_on, stop) = oneshot::channel::<()>();
    let (serving, ended) = oneshot::channel();
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            // Dropped with the thread, also if it panics.
            let _serving: oneshot::Sender<()> = serving;
            runtime.block_on(async {
                let listener = match UnixListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => {
                        log::error!("cannot serve the control socket: {error}");
                        return;
                    }
                };
                let hub = Arc::new(Hub::new());
                let most = most_followers();
                let desk = Arc::new(Desk {
                    requests,
                    hub: Arc::clone(&hub),
                    most,
                    followers: Semaphore::new(most),
                    health,
                });
                tokio::select! {
                    () = serve(&listener, &desk) => {}
                    () = hub.run(&feed) => {}
                    _ = stop => {}
                }
            });
        })
        .map_err(ControlError::Serve)?;
    let server = Server {
        _going_on: going_on,
    };
    Ok((server, ended))
}

/// What serving a client takes.
#[derive(Debug)]
struct Desk {
    requests: mpsc::Sender<Request>,
    hub: Arc<Hub>,
    /// The most clients that may read events.
    most: usize,
    followers: Semaphore,
    health: Arc<Health>,
}

fn most_followers() -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(descriptors / 2).map_or(MAX_FOLLOWERS, |half| half.min(MAX_FOLLOWERS))
}

async fn serve(listener: &UnixListener, desk: &Arc<Desk>) {
    let mut clients = JoinSet::new();
    let most = desk.most + OTHERS;
    let mut failing = false;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if clients.len() < most => {
                    failing = false;
                    let desk = Arc::clone(desk);
                    clients.spawn(async move {
                        if let Err(error) = converse(stream, &desk).await {
                            log::debug!("a client has gone: {error}");
                        }
                    });
                }
                Ok((stream, _)) => {
                    desk.health.client_refused();
                    log::debug!("more than {most} clients at once: refused one");
                    turn_away(stream, most);
                }
                Err(error) => {
                    if !failing {
                        log::error!("cannot accept clients: {error}");
                    }
                    failing = true;
                    // The cause may go away: those who are served now may leave.
                    sleep(ACCEPT_PAUSE).await;
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

/// Tells a client that there is no room, without waiting for it.
fn turn_away(stream: UnixStream, most: usize) {
    let told = stream.into_std().and_then(|mut stream| {
        let mut line = serde_json::to_string(&refused(&format!(
            "{most} clients are served already; try again when one has gone"
        )))?;
        line.push('\n');
        stream.write_all(line.as_bytes())
    });
    if let Err(error) = told {
        log::debug!("a client that was refused has gone: {error}");
    }
}

async fn converse(stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let Desk {
        requests,
        hub,
        most,
        followers,
        health,
    } = desk;
    if let Err(error) = setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER) {
        log::debug!("cannot limit what is kept for a client: {error}");
    }
    let Some((question, receive, mut send)) = ask_back(stream).await? else {
        return Ok(());
    };
    let answer = match question {
        Ask::Hello {} => Answer::Agent {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            health: health.report(),
        },
        Ask::Events { follow, packets } => {
            if let Ok(_place) = followers.try_acquire() {
                let follower = Follower::new(receive, send, packets);
                let _present = health.client_present();
                follower.serve(hub, follow, health).await;
                return Ok(());
            }
            health.client_refused();
            log::debug!("more than {most} clients read events: refused one");
            refused(&format!(
                "{most} clients read events already; try again when one has gone"
            ))
        }
        Ask::Allow { interface, allow } => {
            let role = if allow { Role::Tunnel } else { Role::Uplink };
            let asked = ask(requests, |reply| Request::SetRole(interface, role, reply)).await;
            match asked {
                Some(Ok(changed)) => Answer::Done { changed },
                Some(Err(error)) => refused(&chain(&error)),
                None => refused("the agent is ending"),
            }
        }
        Ask::Works {} => match ask(requests, Request::Works).await {
            Some(()) => Answer::Done { changed: false },
            None => refused("the agent is ending"),
        },
        Ask::Confirm {} => refused("an agent needs no confirmation"),
        Ask::Release {} => return release(&mut send, requests).await,
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
    let asked = ask_back(stream).await?;
    Ok(asked.map(|(question, _, send)| (question, send)))
}

/// The same, with the other half of the connection.
async fn ask_back(stream: UnixStream) -> io::Result<Option<(Ask, OwnedReadHalf, OwnedWriteHalf)>> {
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
        Ok(question) => Ok(Some((question, receive.into_inner().into_inner(), send))),
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

/// Answers a client, which may take some time to listen.
pub(crate) async fn answer_to(
    send: &mut (impl AsyncWriteExt + Unpin),
    answer: &Answer,
) -> io::Result<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    timeout(PATIENCE, send.write_all(line.as_bytes())).await?
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
    reader: BufReader<Client>,
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
        Ask::Events { follow: true, .. } => None,
        Ask::Events { follow: false, .. }
        | Ask::Works {}
        | Ask::Allow { .. }
        | Ask::Confirm {}
        | Ask::Release {} => Some(ANSWER_LIMIT),
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
        reader: BufReader::with_capacity(READ_BYTES, stream),
    }))
}

impl Conversation {
    /// The next line; `None` after the last.
    pub fn line(&mut self) -> Result<Option<String>, ControlError> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => {
                line.truncate(line.trim_end_matches(['\r', '\n']).len());
                Ok(Some(line))
            }
            Err(source) => Err(ControlError::Exchange {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Whether a whole line is there already, so that the next need not be waited for.
    pub fn has_line(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
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
