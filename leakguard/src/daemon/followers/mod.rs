//! Clients that read events: each at its own pace, none at another's cost.
//!
//! The hub takes events from the [`Feed`] once, and hands them out to any number of clients. What it keeps is shared by
//! all of them; a client of its own costs a cursor and one batch of lines, however slow it is.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::BASE64;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::events::{Feed, PAUSE, RECENT};
use super::protocol::Answer;
use super::{Health, Published};

/// How long a client may read nothing while there is something to read; then it is dropped.
pub(super) const STALL_LIMIT: Duration = Duration::from_mins(5);

/// How far a client may fall behind what happens.
const BACKLOG: usize = 4096;

/// How many events are rendered at once, and about how many bytes: what a client costs while it does not read.
const BATCH: usize = 32;
const BATCH_BYTES: usize = 16 * 1024;

/// How often one is looked at whose silence does not say whether it is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What a client is told.
#[derive(Debug)]
enum Item {
    Event(Arc<Published>),
    /// So many have gone without it.
    Missed(u64),
}

/// An event, and how many came before it: who finds a gap between two has missed so many, wherever they were lost.
#[derive(Clone, Debug)]
struct Live {
    place: u64,
    event: Arc<Published>,
}

/// The last events of one sort, counted through.
#[derive(Debug, Default)]
struct Kept {
    /// The number of the first that is still kept.
    first: u64,
    lines: VecDeque<Arc<Published>>,
}

impl Kept {
    fn push(&mut self, event: Arc<Published>) {
        if self.lines.len() == RECENT {
            self.lines.pop_front();
            self.first += 1;
        }
        self.lines.push_back(event);
    }

    fn all(&self) -> Range<u64> {
        self.first..self.first + self.lines.len() as u64
    }

    /// Leaves out of `wanted` what is gone, and says how much that is.
    fn forget(&self, wanted: &mut Range<u64>) -> u64 {
        let start = wanted.start.max(self.first).min(wanted.end);
        let gone = start - wanted.start;
        wanted.start = start;
        gone
    }

    fn next(&self, wanted: &Range<u64>) -> Option<&Arc<Published>> {
        if wanted.is_empty() {
            return None;
        }
        let index = wanted.start.checked_sub(self.first)?;
        self.lines.get(usize::try_from(index).ok()?)
    }
}

/// What was published last: packets and notices, so that a flood of the one does not push out the other.
#[derive(Debug, Default)]
struct Recent {
    packets: Kept,
    notices: Kept,
    /// How many events there were, with those that the hub itself has missed.
    places: u64,
}

/// What a client has still to get of what was published before it came.
#[derive(Debug)]
struct Before {
    packets: Range<u64>,
    notices: Range<u64>,
}

/// Hands out events to clients.
///
/// While there are none, it takes no events: they would cost as much as those that somebody reads.
#[derive(Debug)]
pub(super) struct Hub {
    recent: Mutex<Recent>,
    live: broadcast::Sender<Live>,
    /// How many clients there are.
    present: watch::Sender<usize>,
    /// Whether it takes events.
    open: watch::Sender<bool>,
}

/// A client that the hub works for, until this is dropped.
struct Presence<'hub>(&'hub Hub);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.present.send_modify(|clients| *clients -= 1);
    }
}

impl Hub {
    /// A hub without events.
    pub(super) fn new() -> Self {
        Self {
            recent: Mutex::default(),
            live: broadcast::channel(BACKLOG).0,
            present: watch::channel(0).0,
            open: watch::channel(false).0,
        }
    }

    /// Takes events from the feed, while there are clients, until there are no more.
    pub(super) async fn run(&self, feed: &Feed) {
        let mut present = self.present.subscribe();
        loop {
            if present.wait_for(|&clients| clients > 0).await.is_err() {
                return;
            }
            let (recent, mut live) = feed.subscribe();
            for event in recent {
                self.publish(event);
            }
            self.open.send_replace(true);
            let goes_on = self.take(&mut live, &mut present).await;
            self.open.send_replace(false);
            self.forget();
            if !goes_on {
                return;
            }
        }
    }

    /// Takes events until there is no client any more; says whether there are more events.
    async fn take(
        &self,
        live: &mut broadcast::Receiver<Arc<Published>>,
        present: &mut watch::Receiver<usize>,
    ) -> bool {
        loop {
            let received = tokio::select! {
                received = live.recv() => received,
                _ = present.wait_for(|&clients| clients == 0) => return true,
            };
            match received {
                Ok(event) => self.publish(event),
                Err(RecvError::Lagged(events)) => self.miss(events),
                Err(RecvError::Closed) => return false,
            }
            // What has come meanwhile is taken with it, and then more may come together.
            for _ in 0..BACKLOG {
                match live.try_recv() {
                    Ok(event) => self.publish(event),
                    Err(TryRecvError::Lagged(events)) => self.miss(events),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until the hub works for a client.
    async fn enter(&self) -> Presence<'_> {
        self.present.send_modify(|clients| *clients += 1);
        let presence = Presence(self);
        // Without an end to it, there is nothing that could fail.
        drop(self.open.subscribe().wait_for(|&open| open).await);
        presence
    }

    fn miss(&self, events: u64) {
        self.recent().places += events;
    }

    /// Nobody is there whom it would be told.
    fn forget(&self) {
        let mut recent = self.recent();
        *recent = Recent {
            places: recent.places,
            ..Recent::default()
        };
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, event: Arc<Published>) {
        let mut recent = self.recent();
        let place = recent.places;
        recent.places += 1;
        let kept = if event.is_notice() {
            &mut recent.notices
        } else {
            &mut recent.packets
        };
        kept.push(Arc::clone(&event));
        // Without a client nobody takes it, which is no failure.
        drop(self.live.send(Live { place, event }));
    }

    /// The events of the last time, and those that come from now on, without a gap between them; the place of the first of
    /// these.
    fn subscribe(&self) -> (Before, broadcast::Receiver<Live>, u64) {
        let recent = self.recent();
        let before = Before {
            packets: recent.packets.all(),
            notices: recent.notices.all(),
        };
        (before, self.live.subscribe(), recent.places)
    }

    /// The next few of those, in their order, and how many are gone meanwhile; nothing after the last.
    fn next(&self, before: &mut Before) -> Vec<Item> {
        let recent = self.recent();
        let Recent {
            packets, notices, ..
        } = &*recent;
        let gone = packets.forget(&mut before.packets) + notices.forget(&mut before.notices);
        let mut items = Vec::new();
        if gone > 0 {
            items.push(Item::Missed(gone));
        }
        while items.len() < BATCH {
            let (packet, notice) = (packets.next(&before.packets), notices.next(&before.notices));
            let event = match (packet, notice) {
                (Some(packet), Some(notice)) if packet.seq() > notice.seq() => {
                    before.notices.start += 1;
                    notice
                }
                (Some(packet), _) => {
                    before.packets.start += 1;
                    packet
                }
                (None, Some(notice)) => {
                    before.notices.start += 1;
                    notice
                }
                (None, None) => break,
            };
            items.push(Item::Event(Arc::clone(event)));
        }
        items
    }
}

/// A client that has asked for events.
#[derive(Debug)]
pub(super) struct Follower {
    receive: OwnedReadHalf,
    send: OwnedWriteHalf,
    /// Whether it wants the packets too.
    packets: bool,
    /// Whether it will say no more, so that its silence does not tell whether it is there.
    silent: bool,
    buffer: Vec<u8>,
}

/// Why a client gets no more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("it has read nothing for a long time")]
    Stalled,
    #[error(transparent)]
    Gone(#[from] io::Error),
}

impl Follower {
    /// Whoever is at the other end of this connection.
    pub(super) fn new(receive: OwnedReadHalf, send: OwnedWriteHalf, packets: bool) -> Self {
        Self {
            receive,
            send,
            packets,
            silent: false,
            buffer: Vec::new(),
        }
    }

    /// Hands it the recent events; with `follow` also those to come, until it has gone.
    pub(super) async fn serve(mut self, hub: &Hub, follow: bool, health: &Health) {
        match self.hand_out(hub, follow).await {
            Ok(()) => {}
            Err(Lost::Stalled) => {
                health.client_dropped();
                log::warn!(
                    "dropped a client that has read no events for {} s",
                    STALL_LIMIT.as_secs()
                );
            }
            Err(Lost::Gone(error)) => log::debug!("a client has gone: {error}"),
        }
    }

    async fn hand_out(&mut self, hub: &Hub, follow: bool) -> Result<(), Lost> {
        let _presence = hub.enter().await;
        let (mut before, mut live, mut place) = hub.subscribe();
        loop {
            let items = hub.next(&mut before);
            if items.is_empty() {
                break;
            }
            for item in &items {
                self.render(item)?;
            }
            self.flush().await?;
        }
        if !follow {
            return Ok(());
        }
        loop {
            let received = tokio::select! {
                received = live.recv() => received,
                () = gone(&mut self.receive, &mut self.silent) => return Ok(()),
            };
            match received {
                Ok(found) => self.render_live(found, &mut place)?,
                // The next one tells.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            }
            // What has come meanwhile goes with it.
            while self.buffer.len() < BATCH_BYTES {
                match live.try_recv() {
                    Ok(found) => self.render_live(found, &mut place)?,
                    Err(TryRecvError::Lagged(_)) => {}
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            let is_all = self.buffer.len() < BATCH_BYTES;
            self.flush().await?;
            if is_all {
                sleep(PAUSE).await;
            }
        }
    }

    /// Renders an event, and before it how many are missing since the one before, which was the last one ahead of `place`.
    fn render_live(&mut self, live: Live, place: &mut u64) -> io::Result<()> {
        let missed = live.place.saturating_sub(*place);
        if missed > 0 {
            self.render(&Item::Missed(missed))?;
        }
        *place = live.place + 1;
        self.render(&Item::Event(live.event))
    }

    fn render(&mut self, item: &Item) -> io::Result<()> {
        let buffer = &mut self.buffer;
        match item {
            Item::Event(event) if self.packets => {
                buffer.extend(b"{\"event\":");
                buffer.extend(event.json().as_bytes());
                buffer.extend(b",\"packet\":\"");
                buffer.extend(BASE64.encode(event.copied()).as_bytes());
                buffer.extend(b"\"}");
            }
            Item::Event(event) => buffer.extend(event.json().as_bytes()),
            Item::Missed(events) => {
                serde_json::to_writer(&mut *buffer, &Answer::Missed { events: *events })?;
            }
        }
        buffer.push(b'\n');
        Ok(())
    }

    /// Writes what is rendered, for as long as the client takes some of it now and then.
    async fn flush(&mut self) -> Result<(), Lost> {
        let mut rest = &*self.buffer;
        while !rest.is_empty() {
            match timeout(STALL_LIMIT, self.send.write(rest)).await {
                Ok(written) => rest = rest.get(written?..).unwrap_or_default(),
                Err(_) => return Err(Lost::Stalled),
            }
        }
        self.buffer.clear();
        // One that waits costs nothing.
        self.buffer.shrink_to(0);
        Ok(())
    }
}

/// Waits until a client has gone, so that it does not keep its place until the next event.
async fn gone(receive: &mut OwnedReadHalf, silent: &mut bool) {
    if !*silent {
        // It has asked, and has no more to say: this is the end, or of its half of the connection only.
        let read = receive.read(&mut [0; 64]).await;
        *silent = true;
        if read.is_err() || has_hung_up(receive) {
            return;
        }
    }
    while !has_hung_up(receive) {
        sleep(LOOK_INTERVAL).await;
    }
}

/// Whether both halves of the connection are closed.
fn has_hung_up(receive: &OwnedReadHalf) -> bool {
    let mut polled = [PollFd::new(
        std::os::fd::AsFd::as_fd(AsRef::<tokio::net::UnixStream>::as_ref(receive)),
        PollFlags::empty(),
    )];
    let polling = poll(&mut polled, PollTimeout::ZERO);
    polling.is_ok()
        && polled[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

#[cfg(test)]
mod tests;
