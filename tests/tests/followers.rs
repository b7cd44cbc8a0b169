//! Many clients that read events at once: each gets all that it reads, and none costs another, or the agent, much.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod device;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use device::{Device, PATIENCE, RunningAgent};
use leakguard::lab::{Topology, wait_until};
use leakguard_tests::{agent_binary, resident, write_config};
use serde_json::Value;

/// What the documentation promises.
const MANY: usize = 1000;
/// The documented limit.
const LIMIT: usize = 1024;
const QUESTION: &[u8] = b"{\"command\":\"events\",\"follow\":true}\n";

fn ask(device: &Device, question: &[u8]) -> UnixStream {
    let mut client = UnixStream::connect(device.control()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    match client.write_all(question) {
        // It may refuse a client before it has heard it.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        result => result.unwrap(),
    }
    client
}

/// All that the agent tells a client until it closes, also where it has not heard it.
fn told(mut client: UnixStream) -> String {
    let mut answer = Vec::new();
    match client.read_to_end(&mut answer) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        result => drop(result.unwrap()),
    }
    String::from_utf8(answer).unwrap()
}

/// Unknown while the agent does not answer in time.
fn following(device: &Device) -> Option<u64> {
    device.status()["health"]["clients"]["following"].as_u64()
}

fn await_following(device: &Device, expected: usize) {
    let expected = u64::try_from(expected).unwrap();
    let waited = wait_until("all clients are known", PATIENCE, || {
        Ok(following(device) == Some(expected))
    });
    if waited.is_err() {
        assert_eq!(
            following(device),
            Some(expected),
            "clients that read events"
        );
    }
}

/// The agent's memory, in KiB.
fn memory(agent: &RunningAgent) -> u64 {
    resident(agent.pid()).unwrap().now
}

#[test]
fn a_thousand_followers_each_get_every_event() {
    const PROBES: usize = 20;
    let mut device = Device::new();
    // Every packet is to have its event.
    let config = write_config("[events]\nrate_per_key = 0\n");
    let agent = device.agent(&["--config", config.path().to_str().unwrap()]);
    let before = memory(&agent);
    let mut clients: Vec<_> = (0..MANY).map(|_| ask(&device, QUESTION)).collect();
    await_following(&device, MANY);

    let started = Instant::now();
    assert_eq!(device.seen(PROBES), (0, 0));
    // One of the local socket and one of the container for each.
    for client in &mut clients {
        let mut lines = BufReader::new(client).lines();
        for seq in 1..=2 * PROBES {
            let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            assert_eq!(event["seq"], seq);
        }
    }
    let took = started.elapsed();
    let with = memory(&agent);

    // One that leaves without a word makes room, although nothing happens.
    clients.truncate(MANY / 2);
    await_following(&device, MANY / 2);
    println!(
        "{MANY} followers had {} events each after {took:.1?}; the agent took {before} KiB before and {with} KiB with them",
        2 * PROBES
    );
    assert!(
        with < before + 64 * 1024,
        "{before} KiB, then {with} KiB with {MANY} followers"
    );
}

#[test]
fn beyond_the_limit_a_follower_is_told_so_and_a_question_is_still_answered() {
    let mut device = Device::new();
    let agent = device.agent(&[]);
    let clients: Vec<_> = (0..LIMIT).map(|_| ask(&device, QUESTION)).collect();
    await_following(&device, LIMIT);

    let answer = told(ask(&device, QUESTION));
    assert!(
        answer.contains("refused") && answer.contains("1024 clients"),
        "{answer:?}"
    );
    device
        .leakguard(&["events", "--follow"])
        .refused(1, &["1024 clients read events already", "try again"]);
    assert_eq!(device.status()["agent"], agent.pid(), "it still answers");
    assert_eq!(device.status()["health"]["clients"]["refused"], 2);
    assert_eq!(device.seen(3), (0, 0));

    // Those who do not even ask fill what room is left, and are told too.
    let mut mute: Vec<_> = (0..80)
        .map(|_| UnixStream::connect(device.control()).unwrap())
        .collect();
    let answers = mute.iter_mut().filter_map(|client| {
        client
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let mut answer = [0; 256];
        match client.read(&mut answer) {
            Ok(bytes) => Some(String::from_utf8(answer[..bytes].to_vec()).unwrap()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => unreachable!("{error}"),
        }
    });
    let answers: Vec<_> = answers.filter(|answer| !answer.is_empty()).collect();
    assert!(
        !answers.is_empty() && answers.iter().all(|answer| answer.contains("refused")),
        "{answers:?}"
    );
    drop(mute);
    drop(clients);
    await_following(&device, 0);
    assert_eq!(device.leakguard(&["events"]).code, Some(0));
}

#[test]
fn clients_leave_the_agent_the_descriptors_that_it_needs() {
    const DESCRIPTORS: usize = 400;
    let mut device = Device::new();
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let binary = agent_binary();
    let run = device.command(&["run", "--tunnel", device::TUNNEL]);
    let mut command = device.host().command("prlimit");
    command.arg(limit).arg(binary);
    let own = run
        .get_args()
        .skip_while(|argument| *argument != "run")
        .map(ToOwned::to_owned);
    command.args(own);
    let agent = RunningAgent::spawn(command, device.directory());
    let agent = device.await_agent(agent);

    let _clients: Vec<_> = (0..DESCRIPTORS).map(|_| ask(&device, QUESTION)).collect();
    await_following(&device, DESCRIPTORS / 2);
    let answer = told(ask(&device, QUESTION));
    assert!(
        answer.contains("200 clients read events already"),
        "{answer}"
    );
    // It takes descriptors to change what is enforced, and to read it back.
    let uplink = Topology::UPLINK;
    device.leakguard(&["allow", "add", uplink]).ok();
    assert_eq!(device.seen(3), (3, 3));
    device.leakguard(&["allow", "remove", uplink]).ok();
    assert_eq!(device.seen(3), (0, 0));
    assert_eq!(device.status()["agent"], agent.pid());
    assert_eq!(device.status()["level"], "full");
}

#[test]
fn followers_that_never_read_cost_no_memory_that_grows_and_no_attention() {
    const FLOOD: u64 = 20_000;
    let mut device = Device::new();
    // Every packet is to have its event.
    let config = write_config("[events]\nrate_per_key = 0\n");
    let agent = device.agent(&["--config", config.path().to_str().unwrap()]);
    let warm = device.flood();
    for flood in &warm {
        flood.go_on(2 * 4096);
    }
    let before = memory(&agent);
    let stuck: Vec<_> = (0..MANY).map(|_| ask(&device, QUESTION)).collect();
    await_following(&device, MANY);
    let attentive = ask(&device, QUESTION);
    let reader = thread::spawn(move || {
        let (mut events, mut missed) = (0_u64, 0_u64);
        for line in BufReader::new(attentive).lines() {
            let Ok(line) = line else { break };
            let line: Value = serde_json::from_str(&line).unwrap();
            match line["missed"]["events"].as_u64() {
                Some(more) => missed += more,
                None => events += 1,
            }
            if events + missed >= FLOOD {
                break;
            }
        }
        (events, missed)
    });
    let [local, forwarded] = warm;
    local.go_on(FLOOD);
    let middle = memory(&agent);
    local.go_on(FLOOD);
    let after = memory(&agent);
    let asked = Instant::now();
    assert_eq!(device.status()["agent"], agent.pid());
    let answered = asked.elapsed();
    let flooded = local.stop();
    forwarded.stop();
    let attentive = reader.join().unwrap();
    assert_eq!(flooded.sent, flooded.refused);
    println!(
        "{flooded:?}; with {MANY} clients that do not read, status took {answered:.0?} and one that reads got \
         {attentive:?} (events, missed); the agent took {before} KiB before, {middle} KiB and {after} KiB with them"
    );
    assert!(attentive.0 > 0);
    assert!(
        after < before + 96 * 1024,
        "{before} KiB, {middle} KiB, {after} KiB"
    );
    assert_eq!(device.seen(3), (0, 0));
    drop(stuck);
}
