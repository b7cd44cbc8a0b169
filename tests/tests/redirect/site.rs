//! The web site that the lab's name leads to, so that programs that fetch it show that they have resolved the name.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use leakguard::lab::Netns;
use nix::sys::socket::{Shutdown, shutdown};

/// What it serves; also a script that does nothing.
pub(crate) const CONTENT: &str = "// found";

/// How long a browser may keep a connection that it opened in advance.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server on a host that has the addresses of the lab's name itself; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Site {
    listener: TcpListener,
    server: Option<JoinHandle<()>>,
}

impl Site {
    pub(crate) fn new(host: &Netns) -> Self {
        host.ip_batch(
            "addr add 192.0.2.80/32 dev lo\n\
             addr add 2001:db8:80::80/128 dev lo nodad\n",
        )
        .unwrap();
        let listener = host
            .run_in(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)).unwrap())
            .unwrap();
        let socket = listener.try_clone().unwrap();
        let server = thread::spawn(move || {
            while let Ok((stream, _)) = socket.accept() {
                thread::spawn(move || serve(stream));
            }
        });
        Self {
            listener,
            server: Some(server),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // It ends the waiting for the next connection.
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).unwrap();
        let ended = self.server.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()));
    }
}

/// Whoever connects in advance and asks for nothing gets nothing.
fn serve(mut stream: TcpStream) {
    let length = CONTENT.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{CONTENT}"
    );
    let asks = stream.set_read_timeout(Some(PATIENCE)).is_ok()
        && stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0);
    if asks {
        drop(stream.write_all(answer.as_bytes()));
    }
}
