//! Each program by itself: who answers it, and how soon it gives up when nobody can.

use std::thread;
use std::time::Duration;

use leakguard::lab::{carries_name, wait_until};
use leakguard_tests::{Bench, Place, Times, connect, report_times};
use nix::errno::Errno;

use crate::client::{Asked, Client, Clients};
use crate::site::Site;
use crate::{
    ASKED, FAMILIES, TUNNEL_RESOLVER, asked, assert_silence, bench, questions_outside, redirect,
};

/// How soon a program gives up that takes a failure for an answer; the start of its process is in it.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How often that is tried, on a machine that is busy with other things.
const TRIES: usize = 25;
/// How long the agent may take to know that the tunnel is down.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn every_client_is_answered_or_fails_at_once_when_it_asks_over_ipv4() {
    follow(0);
}

#[test]
fn every_client_is_answered_or_fails_at_once_when_it_asks_over_ipv6() {
    follow(1);
}

fn follow(family: usize) {
    let clients = Clients::new();
    let mut bench = bench();
    let _site = Site::new(bench.topology.host());
    for client in &clients.all {
        let asked = client.ask(&bench, TUNNEL_RESOLVER[family]);
        assert!(asked.answered, "control: {client:?}: {}", asked.printed);
    }
    let without = without(&mut bench, &clients.all, family);

    redirect(&mut bench, &[]);
    questions_outside(&mut bench);
    let answered = |bench: &Bench, client: &Client| {
        let asked = client.ask(bench, ASKED[family]);
        assert!(asked.answered, "{client:?}: {}", asked.printed);
        asked.elapsed
    };
    let up: Vec<Duration> = clients
        .all
        .iter()
        .map(|client| answered(&bench, client))
        .collect();
    assert_silence(&mut bench);

    bench
        .topology
        .host()
        .ip(&["link", "set", Bench::TUNNEL, "down"])
        .unwrap();
    await_failure(&bench, family);
    let down = failing(&bench, &clients.all, family);
    bench.tunnel().0.delete();
    await_failure(&bench, family);
    let deleted = failing(&bench, &clients.all, family);
    assert_silence(&mut bench);

    tell(
        &clients.all,
        family,
        &without,
        [("up", &up), ("down", &down), ("deleted", &deleted)],
    );
}

/// Nobody answers without leakguard, and the questions are seen at the ISP. Says how long each client waits.
fn without(bench: &mut Bench, clients: &[Client], family: usize) -> Vec<Duration> {
    questions_outside(bench);
    // All at once, because they do nothing but wait.
    let asked: Vec<Asked> = thread::scope(|scope| {
        let bench = &*bench;
        let threads: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(|| client.ask_for(bench, ASKED[family], &client.marked_name()))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let seen = questions_outside(bench);
    let towards = |tcp: bool| {
        let towards = seen
            .iter()
            .filter(move |(frame, _)| frame.destination == crate::asked(family));
        towards.filter(move |(frame, _)| frame.is_tcp() == tcp)
    };
    for (client, asked) in clients.iter().zip(&asked) {
        assert!(!asked.answered, "control: {client:?}: {}", asked.printed);
        let name = client.marked_name();
        // The browser's page has a name of its own, and nothing is said over a connection that does not come about.
        let name = if client.name == "chromium" {
            "www.lab.test"
        } else {
            &name
        };
        assert!(
            client.way == "tcp" || towards(false).any(|(_, bytes)| carries_name(bytes, name)),
            "control: {client:?} is not seen"
        );
    }
    let mut ports: Vec<u16> = towards(true)
        .map(|(frame, _)| frame.source.port())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let over_tcp = clients.iter().filter(|client| client.way == "tcp").count();
    assert!(
        ports.len() >= over_tcp,
        "control: {} of {over_tcp} connections",
        ports.len()
    );
    asked.into_iter().map(|asked| asked.elapsed).collect()
}

/// Waits until a connection fails as it should.
fn await_failure(bench: &Bench, family: usize) {
    wait_until("connections fail at once", LIMIT, || {
        let socket = bench.origin(Place::Host).udp(ASKED[family]);
        Ok(connect(&socket, asked(family)) == Err(Errno::ENETUNREACH))
    })
    .unwrap();
}

/// How long each client takes to give up; at once, if its library takes a failure for an answer.
fn failing(bench: &Bench, clients: &[Client], family: usize) -> Vec<Duration> {
    clients
        .iter()
        .map(|client| {
            let mut fastest = Duration::MAX;
            for _ in 0..TRIES {
                let asked = client.ask(bench, ASKED[family]);
                assert!(!asked.answered, "{client:?}: {}", asked.printed);
                fastest = fastest.min(asked.elapsed);
                if client.waits || fastest < AT_ONCE {
                    break;
                }
            }
            assert!(
                client.waits || fastest < AT_ONCE,
                "{client:?} gives up after {fastest:?}"
            );
            fastest
        })
        .collect()
}

/// Writes the times into the table of the report.
fn tell(
    clients: &[Client],
    family: usize,
    without: &[Duration],
    with: [(&'static str, &[Duration]); 3],
) {
    let mut rows = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        for (tunnel, times) in with {
            rows.push(Times {
                client: client.name,
                way: client.way,
                family: FAMILIES[family],
                tunnel,
                // Whatever becomes of the tunnel: the questions do not go by it.
                without: without[number].as_millis(),
                with: times[number].as_millis(),
            });
        }
    }
    report_times("resolving", FAMILIES[family], &rows);
}
