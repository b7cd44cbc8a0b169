//! `leakguard demo`: a leak and its end, in a network made for the occasion.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use self::interrupt::Interrupted;
use self::story::Story;
use crate::error::{Exit, WithExit as _};
use crate::lab::{
    self, Agent, AgentConfig, Bpffs, Cgroup, Directions, Frame, LabError, Lookup, Observer, Query,
    Resolver, Topology, WHO_NAME, WireGuard, address, carries_name, output_within, wait_until,
};

mod interrupt;
mod story;

/// The tunnel's interface in the demo's host.
const TUNNEL: &str = "wg0";
const DNS_PORT: u16 = 53;
/// The question for [`WHO_NAME`], TXT, as bash's printf writes it.
const QUESTION: &str =
    r"\x13\x37\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03who\x03lab\x04test\x00\x00\x10\x00\x01";
/// Long for starting a shell, short for a DNS client's timeout.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long the shell may take before it is killed.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);
/// How long the agent may take to enforce.
const ENFORCE_LIMIT: Duration = Duration::from_secs(20);
/// How long events may take from the kernel to the control socket.
const EVENTS_LIMIT: Duration = Duration::from_secs(3);

/// Tells the story; success only if every step was seen as told.
pub(super) fn run() -> anyhow::Result<Exit> {
    lab::check_requirements().with_exit(Exit::Missing)?;
    interrupt::catch().context("cannot handle Ctrl-C")?;
    let mut story = Story::new();
    story.title("leakguard demo: a DNS leak, and its end")?;
    // Every guard lives in here: when it returns, the lab is gone.
    match tell(&mut story) {
        Ok(()) => {}
        Err(error) if error.is::<Interrupted>() => {
            let farewell = "\nInterrupted; everything the demo had made is removed.";
            // Nobody reads it if a closed output was the reason.
            if let Err(error) = story.line(farewell) {
                log::debug!("{error}");
            }
            return Ok(Exit::Failed);
        }
        Err(error) => return Err(error),
    }
    Ok(if story.summary()? {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn tell(story: &mut Story) -> anyhow::Result<()> {
    story.chapter("A network of its own")?;
    story.text("host (leakguard) ---- eth0 ---- ISP ---- VPN server")?;
    story.text("      `-------------- wg0 --------------------'")?;
    let topology = story.step("host, ISP and VPN server, IPv4 and IPv6", Topology::new)?;
    let _isp = story.step("Unbound as the ISP's resolver", || {
        Resolver::new(topology.isp(), "isp")
    })?;
    let _vpn = story.step("Unbound as the VPN's resolver", || {
        Resolver::new(topology.vpn(), "vpn")
    })?;
    let _tunnel = story.step("WireGuard tunnel wg0, handshake done", || {
        WireGuard::new(&topology, TUNNEL)
    })?;
    let cgroup = Cgroup::new("demo")?;
    let bpffs = Bpffs::new()?;
    let observer = Observer::new(topology.isp(), Topology::OBSERVED, Directions::Incoming)?;
    let mut scene = Scene {
        topology: &topology,
        cgroup: &cgroup,
        observer,
    };

    story.chapter("Without leakguard: past the tunnel, in the clear")?;
    scene.leaks(story)?;

    story.chapter("leakguard on: DNS may leave through wg0 only")?;
    let mut agent = start(story, &scene, &bpffs)?;

    story.chapter("The same lookup again")?;
    let attempts = [
        ("UDP over IPv4", attempt(address::ISP_RESOLVER_V4)),
        ("UDP over IPv6", attempt(address::ISP_RESOLVER_V6)),
        (
            "TCP over IPv4",
            attempt(address::ISP_RESOLVER_V4).over_tcp(),
        ),
    ];
    for (way, query) in &attempts {
        scene.is_stopped(story, way, query)?;
    }
    story.text("dig asks until its time is up, whatever the kernel says. The kernel's answer:")?;
    scene.is_refused_at_once(story)?;

    story.chapter("Through the tunnel")?;
    scene.is_tunnelled(story)?;

    story.chapter("Who tried")?;
    show_events(story, &agent, &attempts)?;

    story.chapter("kill -9")?;
    agent.kill9()?;
    story.text(&format!("agent {} is gone", agent.pid()))?;
    scene.is_stopped(
        story,
        "without an agent",
        &attempt(address::ISP_RESOLVER_V4),
    )?;
    story.command("leakguard release")?;
    agent.release()?;
    scene.leaks(story)?;
    Ok(())
}

/// A lookup that has to fail; it need not fail for long.
fn attempt(server: impl Into<IpAddr>) -> Query {
    Query::new(server, WHO_NAME, "TXT").timeout(Duration::from_secs(1))
}

fn start(story: &mut Story, scene: &Scene<'_>, bpffs: &Bpffs) -> anyhow::Result<Agent> {
    story.command(&format!(
        "leakguard run --tunnel {TUNNEL} --cgroup {} --bpffs {}",
        scene.cgroup.path().display(),
        bpffs.path().display()
    ))?;
    let config = AgentConfig {
        binary: env::current_exe().context("cannot find the running program's file")?,
        netns: scene.topology.host(),
        cgroup: scene.cgroup,
        bpffs,
        tunnels: vec![TUNNEL.to_owned()],
        arguments: Vec::new(),
    };
    story.step("`leakguard status` says that it enforces", || {
        let mut agent = Agent::spawn(&config)?;
        let deadline = Instant::now() + ENFORCE_LIMIT;
        // In slices, so that Ctrl-C need not wait for the whole of it.
        loop {
            match agent.await_enforcing(Duration::from_millis(500)) {
                Err(LabError::Timeout { .. })
                    if Instant::now() < deadline && !interrupt::is_set() => {}
                other => return other.map(|()| agent),
            }
        }
    })
}

/// Where lookups are made and watched.
struct Scene<'a> {
    topology: &'a Topology,
    cgroup: &'a Cgroup,
    observer: Observer,
}

impl Scene<'_> {
    /// Expects the ISP to answer and to see the lookup.
    fn leaks(&mut self, story: &mut Story) -> anyhow::Result<()> {
        let query = Query::new(address::ISP_RESOLVER_V4, WHO_NAME, "TXT");
        let lookup = self.look_up(story, &query)?;
        let leaked = self.leaked()?;
        story.text("what the ISP saw on the wire:")?;
        for frame in &leaked {
            story.text(&format!("  {frame}"))?;
        }
        story.check(
            "leak: the ISP saw the lookup and answered it",
            lookup.is("isp") && !leaked.is_empty(),
        )
    }

    /// Expects no answer, and nothing on the wire.
    fn is_stopped(&mut self, story: &mut Story, way: &str, query: &Query) -> anyhow::Result<()> {
        let lookup = self.look_up(story, query)?;
        let leaked = self.leaked()?;
        for frame in &leaked {
            story.text(&format!("  on the wire: {frame}"))?;
        }
        story.check(
            &format!("{way}: no answer, {} packets at the ISP", leaked.len()),
            lookup.answers.is_empty() && leaked.is_empty(),
        )
    }

    /// Expects the sender of a datagram to be told EPERM.
    fn is_refused_at_once(&mut self, story: &mut Story) -> anyhow::Result<()> {
        let script = format!(
            "printf '{QUESTION}' > /dev/udp/{}/{DNS_PORT}",
            address::ISP_RESOLVER_V4
        );
        let mut bash = self.topology.host().command("bash");
        bash.args(["-c", &script]).env("LC_ALL", "C");
        self.cgroup.attach(&mut bash);
        story.command(&format!(
            "printf QUESTION > /dev/udp/{}/{DNS_PORT}",
            address::ISP_RESOLVER_V4
        ))?;
        let started = Instant::now();
        let output = output_within(bash, REFUSAL_LIMIT)?;
        let elapsed = started.elapsed();
        let message = String::from_utf8_lossy(&output.stderr);
        story.text(&format!(
            "{} (after {} ms)",
            message.trim(),
            elapsed.as_millis()
        ))?;
        let leaked = self.leaked()?.len();
        story.check(
            &format!("the sender is told at once, {leaked} packets at the ISP"),
            message.contains("Operation not permitted") && elapsed < AT_ONCE && leaked == 0,
        )
    }

    /// Expects the VPN's resolver to answer, and the ISP to see the carrier only.
    fn is_tunnelled(&mut self, story: &mut Story) -> anyhow::Result<()> {
        let query = Query::new(address::TUNNEL_RESOLVER_V4, WHO_NAME, "TXT");
        let lookup = self.look_up(story, &query)?;
        let frames = self.frames()?;
        let carrier = frames
            .iter()
            .filter_map(|frame| Frame::parse(frame))
            .filter(|frame| frame.is_udp() && frame.has_port(address::CARRIER_PORT))
            .count();
        let leaked = leaked(&frames).len();
        story.text(&format!(
            "what the ISP saw: encrypted packets {carrier}, lookups {leaked}"
        ))?;
        story.check(
            "the VPN's resolver answered, through the tunnel",
            lookup.is("vpn") && carrier > 0 && leaked == 0,
        )
    }

    fn look_up(&self, story: &mut Story, query: &Query) -> anyhow::Result<Lookup> {
        story.command(&query.command_line())?;
        let lookup = query.run(self.topology.host(), Some(self.cgroup))?;
        let said = if lookup.answers.is_empty() {
            lookup.messages.join("; ")
        } else {
            format!("\"{}\"", lookup.answers.join("\" \""))
        };
        story.text(&format!("{said} (after {} ms)", lookup.elapsed.as_millis()))?;
        Ok(lookup)
    }

    /// What has arrived at the ISP since the last look.
    fn frames(&mut self) -> anyhow::Result<Vec<Vec<u8>>> {
        let frames = self.observer.drain_past_fence(self.topology.host())?;
        let lost = self.observer.lost()?;
        anyhow::ensure!(lost == 0, "the observer missed {lost} packets");
        Ok(frames)
    }

    fn leaked(&mut self) -> anyhow::Result<Vec<Frame>> {
        Ok(leaked(&self.frames()?))
    }
}

/// The frames that are DNS by port or by content.
fn leaked(frames: &[Vec<u8>]) -> Vec<Frame> {
    frames
        .iter()
        .filter_map(|bytes| Frame::parse(bytes).map(|frame| (bytes, frame)))
        .filter(|(bytes, frame)| frame.has_port(DNS_PORT) || carries_name(bytes, WHO_NAME))
        .map(|(_, frame)| frame)
        .collect()
}

/// Prints events and counters; expects an event for every lookup that was stopped.
fn show_events(story: &mut Story, agent: &Agent, attempts: &[(&str, Query)]) -> anyhow::Result<()> {
    let mut events = Vec::new();
    let awaited = wait_until("every lookup has its event", EVENTS_LIMIT, || {
        events = agent.events_json()?;
        Ok(attempts
            .iter()
            .all(|(_, query)| events.iter().any(|event| is_drop_of(event, query))))
    });
    let complete = match awaited {
        Ok(()) => true,
        Err(LabError::Timeout { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    story.command("leakguard events")?;
    for event in &events {
        story.text(&sentence(event))?;
    }
    story.check("every stopped lookup was reported", complete)?;

    story.command("leakguard status")?;
    let status = agent.output(&["status"])?;
    for line in String::from_utf8_lossy(&status.stdout).lines() {
        story.text(line)?;
    }
    Ok(())
}

/// Whether an event reports a packet of this lookup, dropped.
fn is_drop_of(event: &Value, query: &Query) -> bool {
    let protocol = if query.is_tcp() { "tcp" } else { "udp" };
    event["verdict"] == "drop"
        && event["protocol"] == protocol
        && event["destination"]
            .as_str()
            .and_then(|destination| destination.parse().ok())
            .is_some_and(|destination: SocketAddr| {
                destination.ip() == query.server() && destination.port() == DNS_PORT
            })
}

/// An event as one short line.
fn sentence(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let process = &event["process"];
    let who = match (process["name"].as_str(), process["pid"].as_u64()) {
        (Some(name), Some(pid)) => format!("{name} (process {pid})"),
        _ => "somebody".to_owned(),
    };
    let query = &event["query"];
    let what = match (query["name"].as_str(), query["type"].as_str()) {
        (Some(name), Some(kind)) => format!(" asking for {name} {kind}"),
        _ => String::new(),
    };
    format!(
        "{} {}: {who} to {} over {}, {}{what}",
        text(&event["verdict"]),
        text(&event["reason"]),
        text(&event["destination"]),
        text(&event["interface"]["name"]),
        text(&event["protocol"]),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({
            "verdict": "drop", "reason": "dns", "protocol": "udp",
            "interface": {"index": 2, "name": "eth0", "role": "uplink"},
            "source": "192.168.77.10:40112", "destination": "198.51.100.53:53",
            "query": {"name": "who.lab.test.", "type": "TXT"},
            "process": {"pid": 4242, "name": "dig"},
        })
    }

    #[test]
    fn events_become_sentences() {
        assert_eq!(
            sentence(&event()),
            "drop dns: dig (process 4242) to 198.51.100.53:53 over eth0, udp \
             asking for who.lab.test. TXT"
        );
    }

    #[test]
    fn what_an_event_lacks_is_left_out() {
        let mut event = event();
        event["process"] = Value::Null;
        event["query"] = Value::Null;
        assert_eq!(
            sentence(&event),
            "drop dns: somebody to 198.51.100.53:53 over eth0, udp"
        );
    }

    #[test]
    fn an_event_belongs_to_one_lookup() {
        let query = Query::new(address::ISP_RESOLVER_V4, WHO_NAME, "TXT");
        assert!(is_drop_of(&event(), &query));
        assert!(!is_drop_of(&event(), &query.over_tcp()));
        let other = Query::new(address::ISP_RESOLVER_V6, WHO_NAME, "TXT");
        assert!(!is_drop_of(&event(), &other));
    }
}
