//! Whatever becomes of the agent, nothing gets out: under a storm of every class, counted at the ISP.

#![expect(
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and what was counted is for people to read"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use leakguard::lab::{Query, WHO_NAME, address, wait_until};
use leakguard_tests::{Bench, MemoryLimit, Place, Scene, packets, soaks};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Probes of each class after something has happened.
const AFTER: u64 = 2000;
/// How long anything that has to happen may take.
const LIMIT: Duration = Duration::from_secs(20);
/// For how long the agent is stopped.
const STOPPED: Duration = Duration::from_secs(30);

/// The short ones wait for one another, so that each storm has the machine's power; the long one runs meanwhile.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that matters here.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn scene() -> Scene {
    Scene::new(Bench::with_tunnel())
}

/// The tunnel carries lookups, with the agent or without.
fn assert_answered(scene: &Scene, when: &str) {
    for place in [Place::Host, Place::Client] {
        let lookup = Query::new(address::TUNNEL_RESOLVER_V4, WHO_NAME, "TXT")
            .run(scene.bench.netns(place), scene.bench.origin(place).cgroup)
            .unwrap();
        assert!(lookup.is("vpn"), "{when}, from {place:?}: {lookup:?}");
    }
}

/// Says what is enforced, without an agent; everything must be.
fn assert_full(scene: &mut Scene) {
    let status = scene.bench.agent().status_json().unwrap();
    assert_eq!(status["level"], "full", "{status}");
    assert_eq!(status["mode"], "enforce", "{status}");
}

fn signal(scene: &mut Scene, signal: Signal) {
    let pid = scene.bench.agent().pid().cast_signed();
    kill(Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn a_killed_agent_lets_nothing_out() {
    let _turn = turn();
    let mut scene = scene();
    scene.bench.protect(&[]);
    scene.begin();
    assert_answered(&scene, "before");
    let status = scene.bench.agent().kill9().unwrap();
    assert_eq!(status.signal(), Some(9));
    scene.storm().go_on(AFTER);
    assert_answered(&scene, "with the agent dead");
    assert_full(&mut scene);
    scene.end("SIGKILL").assert_refused();
}

#[test]
fn an_agent_that_is_stopped_for_half_a_minute_lets_nothing_out() {
    let mut scene = scene();
    scene.bench.protect(&[]);
    scene.begin();
    signal(&mut scene, Signal::SIGSTOP);
    scene.storm().rage_for(STOPPED);
    assert_answered(&scene, "with the agent stopped");
    signal(&mut scene, Signal::SIGCONT);
    // It answers again, with the storm going on.
    wait_until("the agent answers again", LIMIT, || {
        let pid = scene.bench.agent().pid();
        Ok(scene.bench.agent().status_json()?["agent"] == pid)
    })
    .unwrap();
    scene.storm().go_on(AFTER);
    assert_full(&mut scene);
    scene.end("SIGSTOP for 30 s, then SIGCONT").assert_refused();
    let status = scene.bench.agent().status_json().unwrap();
    println!(
        "events: {}; dropped at the cgroup {}, at TC {}, by the second net {}",
        status["events"],
        packets(&status, &[("verdict", "drop"), ("hook", "cgroup_skb")]),
        packets(&status, &[("verdict", "drop"), ("hook", "tc")]),
        status["netfilter"]["routed"],
    );
}

#[test]
fn an_agent_that_is_killed_for_want_of_memory_lets_nothing_out() {
    let _turn = turn();
    let mut scene = scene();
    let pid = scene.bench.protect(&[]).pid();
    let memory = MemoryLimit::new();
    memory.expose(pid);
    scene.begin();
    let glutton = memory.exhaust();
    assert_eq!(glutton.signal(), Some(9), "it was the last to go");
    let mut ended = None;
    wait_until("the agent was killed", LIMIT, || {
        ended = scene.bench.agent().exit_status()?;
        Ok(ended.is_some())
    })
    .unwrap();
    assert_eq!(ended.unwrap().signal(), Some(9), "{ended:?}");
    assert_eq!(
        memory.kills(),
        2,
        "the agent first, then who took the memory"
    );
    scene.storm().go_on(AFTER);
    assert_full(&mut scene);
    assert_answered(&scene, "with the agent dead");
    scene.end("OOM kill").assert_refused();
}

#[test]
fn an_agent_that_panics_lets_nothing_out() {
    let _turn = turn();
    let mut scene = scene();
    // The panic can be had of debug builds only.
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_leakguard-debug"));
    let control = scene.bench.protect_with(binary, &[]).control();
    scene.begin();
    let mut client = UnixStream::connect(control).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.write_all(b"{\"command\":\"panic\"}\n").unwrap();
    let mut ended = None;
    wait_until("the agent has ended", LIMIT, || {
        ended = scene.bench.agent().exit_status()?;
        Ok(ended.is_some())
    })
    .unwrap();
    let stderr = scene.bench.agent().stderr();
    assert_eq!(ended.unwrap().code(), Some(101), "{stderr}");
    assert!(stderr.contains("panicked at"), "{stderr}");
    scene.storm().go_on(AFTER);
    assert_full(&mut scene);
    assert_answered(&scene, "with the agent dead");
    scene.end("a panic").assert_refused();
    // What it leaves is taken over as after any other end.
    scene.begin();
    scene.bench.agent().restart().unwrap();
    scene.storm().go_on(AFTER);
    scene.end("the start after it").assert_refused();
}

#[test]
fn a_release_build_cannot_be_made_to_panic() {
    let mut bench = Bench::new();
    let control = bench.protect(&[]).control();
    let mut client = UnixStream::connect(control).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.write_all(b"{\"command\":\"panic\"}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(client).read_line(&mut answer).unwrap();
    assert!(answer.contains("not a question"), "{answer}");
    assert!(bench.agent().is_enforcing().unwrap());
}

#[test]
fn restarts_without_number_let_nothing_out() {
    let _turn = turn();
    let restarts = if soaks() { 200 } else { 20 };
    let mut scene = scene();
    scene.bench.protect(&[]);
    scene.begin();
    let started = Instant::now();
    for restart in 0..restarts {
        let agent = scene.bench.agent();
        if restart % 2 == 0 {
            assert_eq!(agent.kill9().unwrap().signal(), Some(9));
        } else {
            assert!(agent.terminate().unwrap().success(), "{}", agent.stderr());
        }
        agent.restart().unwrap();
    }
    println!("{restarts} restarts in {:.1?}", started.elapsed());
    assert_full(&mut scene);
    assert_answered(&scene, "after the last restart");
    scene.end("restarts").assert_refused();
}
