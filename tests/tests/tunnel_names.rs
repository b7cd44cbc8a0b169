//! Who takes a tunnel's number, or its name, is not the tunnel: under a storm of every class that leaves by that device.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails, and what was counted is for people to read"
)]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leakguard::lab::{Observer, wait_until};
use leakguard_tests::{Bench, Carrier, KINDS, Place, Scene, Storm, Tun, escaped, interface};

/// How long anything that has to happen may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Probes of each class by each device.
const PROBES: u64 = 600;

/// A storm has the machine's power for itself.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind that matters here.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The packets that have got out by another way since the last look.
fn frames(bench: &Bench, observer: &mut Observer) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for place in [Place::Host, Place::Client] {
        frames.extend(observer.drain_past_fence(bench.netns(place)).unwrap());
    }
    assert_eq!(observer.lost().unwrap(), 0, "the capture is complete");
    frames
}

/// Shows that a storm gets out by a device of each kind, without leakguard.
fn control(bench: &Bench, name: &str, carriers: &[Carrier]) {
    for carrier in carriers {
        let mut observer = carrier.open(&bench.topology, name, None, "");
        let storm =
            Storm::start([Place::Host, Place::Client].map(|place| (place, bench.origin(place))));
        storm.go_on(PROBES);
        let sent = storm.stop();
        let seen = escaped(&frames(bench, &mut observer));
        for (kind, ..) in KINDS {
            assert!(
                seen.get(kind).is_some_and(|count| *count >= PROBES),
                "control: {kind} by a {carrier:?}: {seen:?} of {sent}"
            );
        }
        println!(
            "control, without leakguard, by a {} called {name}: every kind seen of {sent}",
            carrier.kind()
        );
        carrier.close(bench.topology.host(), name);
    }
}

/// Lets the storm go on, and asserts that nothing has got out by the other way.
#[track_caller]
fn assert_nothing_seen(scene: &Scene, observer: &mut Observer, when: &str) {
    scene.storm().go_on(PROBES);
    let seen = escaped(&frames(&scene.bench, observer));
    assert_eq!(seen, BTreeMap::new(), "{when}");
    println!("{when}: 0 escaped of {PROBES} probes of each class and more");
}

fn role(scene: &mut Scene, name: &str) -> Option<String> {
    let status = scene.bench.agent().status_json().unwrap();
    Some(interface(&status, name)?["role"].as_str()?.to_owned())
}

fn ifindex(bench: &Bench, name: &str) -> u32 {
    bench
        .topology
        .host()
        .run_in(|| nix::net::if_::if_nametoindex(name).unwrap())
        .unwrap()
}

/// A tunnel that the agent knows; gives its number.
fn tunnel(scene: &mut Scene) -> (Tun, u32) {
    let host = scene.bench.topology.host();
    let device = Tun::new(host, Bench::TUNNEL);
    host.ip(&["link", "set", Bench::TUNNEL, "up"]).unwrap();
    wait_until("the tunnel is one", LIMIT, || {
        Ok(role(scene, Bench::TUNNEL).as_deref() == Some("tunnel"))
    })
    .unwrap();
    let number = ifindex(&scene.bench, Bench::TUNNEL);
    (device, number)
}

#[test]
fn a_device_that_takes_a_tunnels_number_is_none() {
    let _turn = turn();
    for agent_lives in [true, false] {
        let bench = Bench::new();
        control(&bench, "taken0", &[Carrier::Veth]);
        let mut scene = Scene::new(bench);
        scene.bench.protect(&[]);
        let (device, number) = tunnel(&mut scene);
        scene.begin();
        if !agent_lives {
            scene.bench.agent().kill9().unwrap();
        }
        drop(device);
        let topology = &scene.bench.topology;
        let mut observer = Carrier::Veth.open(topology, "taken0", Some(number), "");
        let when = format!("by a device with the tunnel's number, agent alive: {agent_lives}");
        assert_nothing_seen(&scene, &mut observer, &when);
        assert_eq!(role(&mut scene, "taken0").as_deref(), Some("uplink"));
        Carrier::Veth.close(scene.bench.topology.host(), "taken0");
        scene.end(&when).assert_refused();
    }
}

#[test]
fn a_device_that_is_called_as_the_tunnel_is_none() {
    let _turn = turn();
    let bench = Bench::new();
    control(&bench, Bench::TUNNEL, &Carrier::ALL);
    let mut scene = Scene::new(bench);
    scene.bench.protect(&[]);
    scene.begin();
    for carrier in Carrier::ALL {
        let topology = &scene.bench.topology;
        let mut observer = carrier.open(topology, Bench::TUNNEL, None, "");
        let when = format!("by a {carrier:?} called {}", Bench::TUNNEL);
        assert_nothing_seen(&scene, &mut observer, &when);
        assert_eq!(role(&mut scene, Bench::TUNNEL).as_deref(), Some("uplink"));
        let hint = format!("name it `{}:{}`", carrier.kind(), Bench::TUNNEL);
        wait_until("the agent says why", LIMIT, || {
            Ok(scene.bench.agent().stderr().contains(&hint))
        })
        .unwrap();
        carrier.close(scene.bench.topology.host(), Bench::TUNNEL);
    }
    let stderr = scene.bench.agent().stderr();
    assert_eq!(
        stderr.matches("has a name of the tunnel").count(),
        Carrier::ALL.len(),
        "once for each device: {stderr}"
    );
    // Who really is the tunnel is let through as ever.
    let (_device, _) = tunnel(&mut scene);
    scene.end("devices called as the tunnel").assert_refused();
}

/// Number and name can be taken over, the kind cannot: also the second net tells such a device from the tunnel, which
/// judges alone what is forwarded until an agent has attached to the device, and for good where there is no agent.
#[test]
fn a_device_with_a_tunnels_name_and_number_is_none() {
    let _turn = turn();
    for agent_lives in [true, false] {
        let bench = Bench::new();
        control(&bench, Bench::TUNNEL, &Carrier::ALL);
        let mut scene = Scene::new(bench);
        scene.bench.protect(&[]);
        scene.begin();
        for carrier in Carrier::ALL {
            let (device, number) = tunnel(&mut scene);
            if !agent_lives {
                scene.bench.agent().kill9().unwrap();
            }
            let topology = &scene.bench.topology;
            // At once, so that nobody has a chance to take away what the tunnel had.
            let first = format!("link del {}\n", Bench::TUNNEL);
            let mut observer = carrier.open(topology, Bench::TUNNEL, Some(number), &first);
            drop(device);
            let when = format!(
                "by a {} with the tunnel's name and number, agent alive: {agent_lives}",
                carrier.kind()
            );
            assert_nothing_seen(&scene, &mut observer, &when);
            carrier.close(topology.host(), Bench::TUNNEL);
            if !agent_lives {
                scene.bench.agent().restart().unwrap();
            }
        }
        scene
            .end("devices with the tunnel's name and number")
            .assert_refused();
    }
}
