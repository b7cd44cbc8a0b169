//! DNS over HTTPS that cannot be told from other HTTPS.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};

use leakguard_tests::{Bench, Place, Transport, connect, isp};
use tempfile::TempDir;

use crate::count;
use crate::wire::hello;

const PROBES: usize = 20;
const HTTPS: u16 = 443;
const PLACES: [Place; 2] = [Place::Host, Place::Client];
/// A resolver of the built-in list, by address and by name.
const KNOWN: &str = "8.8.8.8:443";
const NAME: &str = "dns.google";

/// A connection to a server at the ISP.
fn connected(bench: &Bench, place: Place, listener: &TcpListener) -> TcpStream {
    let target = listener.local_addr().unwrap();
    let mut streams = bench.origin(place).tcp(target.ip(), 1);
    let stream = streams.pop().unwrap();
    connect(&stream, target).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// How many frames have these bytes in them.
fn with(frames: &[Vec<u8>], bytes: &[u8]) -> usize {
    let has = |frame: &&Vec<u8>| frame.windows(bytes.len()).any(|window| window == bytes);
    frames.iter().filter(has).count()
}

#[test]
fn dns_over_https_to_an_unlisted_resolver_passes() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    for place in PLACES {
        for transport in [Transport::Tcp, Transport::Udp] {
            for family in 0..2 {
                let seen = bench.seen(place, transport, isp(family, HTTPS), PROBES);
                assert_eq!(seen, PROBES, "what is known to be open: {place:?}");
            }
            let seen = bench.seen(place, transport, KNOWN.parse().unwrap(), PROBES);
            assert_eq!(seen, 0, "control: {place:?}");
        }
    }
}

/// Not even a name that stands there in clear is looked for, so what is encrypted is not either.
#[test]
fn a_resolvers_name_over_quic_passes_unless_the_address_is_known() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    let known: SocketAddr = KNOWN.parse().unwrap();
    for place in PLACES {
        for (target, expected) in [(isp(0, HTTPS), 1), (isp(1, HTTPS), 1), (known, 0)] {
            let socket = bench.origin(place).udp(target.ip());
            let sent = socket.send_to(&hello(Some(NAME), 0), target);
            assert_eq!(
                sent.is_ok(),
                expected == 1 || place == Place::Client,
                "{target}"
            );
            let seen = with(&bench.frames(place), NAME.as_bytes());
            assert_eq!(seen, expected, "{place:?} to {target}");
        }
    }
}

#[test]
fn a_resolvers_name_that_is_hidden_passes() {
    let mut bench = Bench::new();
    let listener = bench.listen(isp(0, HTTPS));
    bench.protect(&[]);
    let whole = hello(Some(NAME), 300);
    let late = hello(Some(NAME), 1500);
    // As a router sees a long one, and as a client may write any.
    let split = [late.split_at(1400), whole.split_at(20)];
    let (nobody, another) = (hello(None, 300), hello(Some("outside.example"), 300));
    for place in PLACES {
        let mut stream = connected(&bench, place, &listener);
        stream.write_all(&whole).unwrap();
        assert_eq!(
            with(&bench.frames(place), NAME.as_bytes()),
            0,
            "control: {place:?}"
        );
        for bytes in [&nobody, &another] {
            let mut stream = connected(&bench, place, &listener);
            stream.write_all(bytes).unwrap();
            let seen = with(&bench.frames(place), bytes);
            assert!(seen > 0, "what is known to be open: {place:?}");
        }
        for (first, second) in split {
            let mut stream = connected(&bench, place, &listener);
            stream.write_all(first).unwrap();
            assert!(with(&bench.frames(place), first) > 0, "{place:?}");
            stream.write_all(second).unwrap();
            let seen = with(&bench.frames(place), NAME.as_bytes());
            assert!(seen > 0, "what is known to be open: {place:?}");
        }
    }
}

/// A configuration with a list of resolvers of its own; it goes when the directory is dropped.
pub(crate) fn with_list(text: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let (list, file) = ["resolvers", "leakguard.toml"]
        .map(|name| directory.path().join(name))
        .into();
    fs::write(&list, text).unwrap();
    let config = format!("[dns]\ndoh_resolvers = \"{}\"\n", list.display());
    fs::write(&file, config).unwrap();
    (directory, file.to_str().unwrap().to_owned())
}

#[test]
fn a_connection_to_a_resolvers_name_from_before_goes_on_and_one_to_its_address_does_not() {
    let mut bench = Bench::new();
    let listeners = [0, 1].map(|family| bench.listen(isp(family, HTTPS)));
    // The second family's address is known, and the first one's is not.
    let list = format!("{NAME}\n{}\n", isp(1, HTTPS).ip());
    let (_directory, config) = with_list(&list);
    for place in PLACES {
        let mut streams = listeners
            .each_ref()
            .map(|listener| connected(&bench, place, listener));
        for stream in &mut streams {
            stream.write_all(&hello(Some(NAME), 0)).unwrap();
        }
        assert!(with(&bench.frames(place), NAME.as_bytes()) >= 2, "control");
        bench.protect(&["--config", &config]);
        for (stream, expected) in streams.iter_mut().zip([1, 0]) {
            let payload = format!("a question, {expected}, {place:?}");
            stream.write_all(payload.as_bytes()).unwrap();
            let seen = count(&bench.frames(place), payload.as_bytes());
            assert_eq!(seen, expected, "{place:?}");
        }
        let mut late = connected(&bench, place, &listeners[0]);
        late.write_all(&hello(Some(NAME), 0)).unwrap();
        let seen = with(&bench.frames(place), NAME.as_bytes());
        assert_eq!(seen, 0, "control: a hello of now");
        bench.unprotect();
    }
}
