//! Somebody who reads what nftables logs, as ulogd does, and does nothing with it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Result, ensure};
use leakguard::lab::Netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

#[derive(Default)]
struct Counts {
    read: AtomicU64,
    overruns: AtomicU64,
    /// Whether nothing is left to read.
    idle: AtomicBool,
}

/// A reader of a log group; it ends when dropped.
pub(super) struct Reader {
    stop: Option<UnixStream>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts reading a group of a namespace.
    pub(super) fn new(netns: &Netns, group: u16) -> Result<Self> {
        let socket = netns.run_in(|| subscribe(group))??;
        let (stop, stopped) = UnixStream::pair()?;
        let counts = Arc::new(Counts::default());
        let thread = thread::Builder::new().spawn({
            let counts = Arc::clone(&counts);
            move || read(&socket, &stopped, &counts)
        })?;
        Ok(Self {
            counts,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Whether it has read all that was sent to it.
    pub(super) fn is_idle(&self) -> bool {
        self.counts.idle.load(Ordering::Acquire)
    }

    /// How much it has read.
    pub(super) fn told(&self) -> String {
        let Counts { read, overruns, .. } = &*self.counts;
        format!(
            "{} read, {} times too slow",
            read.load(Ordering::Relaxed),
            overruns.load(Ordering::Relaxed)
        )
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            drop(thread.join());
        }
    }
}

/// Asks for whole packets of a group, up to 128 bytes of each.
fn subscribe(group: u16) -> Result<OwnedFd> {
    const NFNL_SUBSYS_ULOG: u16 = 4;
    const NFULNL_MSG_CONFIG: u16 = 1;
    const NFULA_CFG_CMD: u16 = 1;
    const NFULA_CFG_MODE: u16 = 2;
    const NFULNL_CFG_CMD_BIND: u8 = 1;
    const NFULNL_COPY_PACKET: u8 = 2;
    const LENGTH: u32 = 128;
    /// `NLM_F_REQUEST | NLM_F_ACK`
    const FLAGS: u16 = 5;

    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let mut mode = LENGTH.to_be_bytes().to_vec();
    mode.extend([NFULNL_COPY_PACKET, 0]);
    for (attribute, value) in [
        (NFULA_CFG_CMD, vec![NFULNL_CFG_CMD_BIND]),
        (NFULA_CFG_MODE, mode),
    ] {
        let mut message = Vec::new();
        // `struct nlmsghdr`, without its length, and `struct nfgenmsg`.
        message.extend((NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG).to_ne_bytes());
        message.extend(FLAGS.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(group.to_be_bytes());
        message.extend((4 + value.len() as u16).to_ne_bytes());
        message.extend(attribute.to_ne_bytes());
        message.extend(&value);
        message.resize(message.len().next_multiple_of(4), 0);
        let length = message.len() as u32 + 4;
        message.splice(0..0, length.to_ne_bytes());
        send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = [0; 256];
        let count = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        // `struct nlmsgerr` behind the header: 0 is success.
        ensure!(
            count >= 20 && answer[16..20] == [0; 4],
            "the kernel refuses log group {group}: {:?}",
            &answer[..count]
        );
    }
    Ok(socket)
}

fn read(socket: &OwnedFd, stopped: &UnixStream, counts: &Counts) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let mut ready =
            [socket.as_fd(), stopped.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if poll(&mut ready, PollTimeout::ZERO) == Ok(0) {
            counts.idle.store(true, Ordering::Release);
        }
        if poll(&mut ready, PollTimeout::NONE).is_err() {
            continue;
        }
        counts.idle.store(false, Ordering::Release);
        if ready[1].any().unwrap_or(true) {
            return;
        }
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(count) => {
                let read = messages(&buffer[..count]);
                counts.read.fetch_add(read, Ordering::Relaxed);
            }
            Err(_) => {
                counts.overruns.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// How many messages lie there, one behind the other; each begins with its length.
fn messages(mut buffer: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(length) = buffer.first_chunk() {
        let length = u32::from_ne_bytes(*length).next_multiple_of(4).max(4) as usize;
        buffer = buffer.get(length..).unwrap_or_default();
        count += 1;
    }
    count
}
