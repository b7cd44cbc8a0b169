//! A page for Prometheus, served from a thread of its own.
//!
//! What the kernel counts is read from its maps when the page is asked for, through handles of its own: neither the owner
//! of the enforcement nor the event task has anything to do with it.

mod page;
mod process;
mod series;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use leakguard_common::abi::{Outcome, Role, Settings};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpFreebind;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::config::{Config, Labels};
use crate::daemon::Health;
use crate::error::chain;
use crate::guard::Interfaces;
use crate::interfaces::Pattern;
use crate::kernel::KernelError;
use crate::kernel::pins::Pins;
use crate::kernel::read_back::ReadBack;
use crate::status::Level;
use crate::verify::Verified;
use page::Seen;
use process::Usage;

/// The most connections at once.
const MAX_CONNECTIONS: usize = 16;
/// How many connections may wait to be accepted.
const BACKLOG: u32 = 64;
/// How long a client may take to ask.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may take in all.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);
/// How long nobody is let in after a connection could not be accepted, for want of descriptors.
const PAUSE: Duration = Duration::from_secs(1);
/// The most tunnels that have a line; a pattern can fit any number.
const MAX_TUNNELS: usize = 256;
/// The form of the page.
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address cannot be used.
    #[error("cannot serve metrics at {address}; use another --metrics ADDR:PORT")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the thread that serves metrics")]
    Thread(#[source] io::Error),
}

/// Where the page is served, before anybody is answered.
#[derive(Debug)]
pub(crate) struct Page {
    listener: TcpListener,
    labels: Labels,
    /// Tunnels that have a line also while they are not there.
    expected: Vec<String>,
}

impl Page {
    /// Opens the address, if the configuration names one.
    pub(crate) fn listen(config: &Config) -> Result<Option<Self>, MetricsError> {
        let metrics = config.metrics();
        let Some(address) = metrics.listen else {
            return Ok(None);
        };
        let failed = |source| MetricsError::Listen { address, source };
        let listener = bind(address).map_err(failed)?;
        Ok(Some(Self {
            listener,
            labels: metrics.labels.clone(),
            expected: config
                .tunnel()
                .iter()
                .filter_map(Pattern::name)
                .map(str::to_owned)
                .collect(),
        }))
    }

    /// Answers from now on, until the process ends.
    pub(crate) fn serve(
        self,
        bpffs: &Path,
        health: Arc<Health>,
        interfaces: watch::Receiver<Arc<Interfaces>>,
        level: watch::Receiver<Level>,
        verified: Verified,
    ) -> Result<(), MetricsError> {
        let Self {
            listener,
            labels,
            expected,
        } = self;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let source = Source {
            bpffs: bpffs.to_owned(),
            health,
            interfaces,
            level,
            labels,
            expected,
            kernel: kernel.trim().to_owned(),
            verified,
            started: SystemTime::now(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(MetricsError::Thread)?;
        thread::Builder::new()
            .name("metrics".into())
            .spawn(move || runtime.block_on(accept(listener, source)))
            .map_err(MetricsError::Thread)?;
        Ok(())
    }
}

/// Listens at an address, also at one that no interface has yet: early at boot that is no reason to enforce nothing.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    setsockopt(&socket, IpFreebind, &true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

async fn accept(listener: TcpListener, source: Source) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            log::error!("cannot serve metrics: {error}");
            return;
        }
    };
    let source = Arc::new(source);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let source = Arc::clone(&source);
                    tokio::spawn(async move {
                        let _place = place;
                        converse(stream, source).await;
                    });
                }
                Err(_full) => {
                    log::debug!("more than {MAX_CONNECTIONS} readers of metrics: refused one");
                }
            },
            Err(error) => {
                log::warn!("cannot accept a reader of metrics: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// One question and its answer.
async fn converse(stream: TcpStream, source: Arc<Source>) {
    let service = service_fn(|request| {
        let response = answer(&request, &source);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASK_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a reader of metrics: {error}"),
        Err(_elapsed) => log::debug!("a reader of metrics took too long"),
    }
}

fn answer(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response
            .headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "leakguard: see /metrics\n");
    }
    match source.page() {
        Ok(page) => plain(StatusCode::OK, page),
        Err(message) => {
            log::warn!("no metrics: {message}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "see the agent's log\n")
        }
    }
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(PLAIN));
    response
}

/// Where the figures come from.
#[derive(Debug)]
struct Source {
    bpffs: PathBuf,
    health: Arc<Health>,
    interfaces: watch::Receiver<Arc<Interfaces>>,
    level: watch::Receiver<Level>,
    labels: Labels,
    expected: Vec<String>,
    kernel: String,
    verified: Verified,
    /// When the agent began to answer, which is when it began.
    started: SystemTime,
}

impl Source {
    fn page(&self) -> Result<String, String> {
        let seen = self.look().map_err(|error| chain(&error))?;
        page::render(&seen, &self.labels).map_err(|error| error.to_string())
    }

    fn look(&self) -> Result<Seen, KernelError> {
        let interfaces = Arc::clone(&self.interfaces.borrow());
        let mut tunnels: BTreeMap<String, bool> = self
            .expected
            .iter()
            .map(|name| (name.clone(), false))
            .collect();
        let mut roles: Vec<(Role, i64)> = Role::ALL.iter().map(|&role| (role, 0)).collect();
        for interface in interfaces.values() {
            for (role, interfaces) in &mut roles {
                *interfaces += i64::from(*role == interface.role);
            }
            if interface.role == Role::Tunnel && tunnels.len() < MAX_TUNNELS {
                tunnels.insert(interface.name.clone(), interface.up);
            }
        }
        let mut seen = Seen {
            packets: Vec::new(),
            events: Outcome::ALL.iter().map(|&outcome| (outcome, 0)).collect(),
            level: *self.level.borrow(),
            enforcing: None,
            engaged: None,
            tunnels,
            roles,
            health: self.health.report(),
            kernel: self.kernel.clone(),
            verified: self.verified.clone(),
            usage: Usage::read(self.started),
        };
        if let Some(state) = ReadBack::open(&Pins::at(&self.bpffs))? {
            seen.packets = state.maps.packets()?;
            for (outcome, events) in &mut seen.events {
                *events = state.maps.events(*outcome)?;
            }
            seen.enforcing = Some(state.settings.mode != Settings::OBSERVE);
            seen.engaged = Some(state.is_engaged()?);
        }
        Ok(seen)
    }
}
