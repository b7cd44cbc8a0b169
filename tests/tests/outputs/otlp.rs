//! OpenTelemetry logs, received by a real collector (rotel, from `PyPI`).

use std::fs;

use leakguard::lab::{Daemon, wait_until};
use leakguard_tests::rotel_binary;

use super::{Desk, LIMIT};

const RECEIVER: &str = "127.0.0.1:4318";

fn collector(desk: &Desk) -> Daemon {
    let mut command = desk.bench.topology.host().command(rotel_binary());
    command.args(["start", "--exporter", "blackhole"]);
    command.args(["--debug-log", "logs", "--debug-log-verbosity", "detailed"]);
    command.args([
        "--otlp-http-endpoint",
        RECEIVER,
        "--otlp-grpc-endpoint",
        "127.0.0.1:4317",
    ]);
    let logs = desk.path("rotel");
    fs::create_dir(&logs).unwrap();
    Daemon::start(command, &logs).unwrap()
}

#[test]
fn a_collector_that_comes_late_receives_the_events_with_their_attributes() {
    let mut desk = Desk::new();
    desk.start(
        &format!("otlp = \"http://{RECEIVER}\""),
        "labels = { node = \"a1\" }",
    );
    desk.leak(20);
    desk.await_log("events are not written to otlp");
    let mut rotel = collector(&desk);
    desk.await_log("events are written again; 0 were lost");
    let counted = desk.settle("otlp", 20);
    assert_eq!((counted.lagged, counted.failed), (0, 0), "{counted:?}");
    let said = |rotel: &Daemon| rotel.stdout() + &rotel.stderr();
    wait_until("the collector has shown them", LIMIT, || {
        rotel.check_running()?;
        Ok(said(&rotel).matches("destination.address").count() >= 20)
    })
    .unwrap();
    let said = said(&rotel);
    for expected in [
        "service.name",
        "leakguard",
        "node",
        "a1",
        "host.name",
        "source.port",
        "destination.port",
        "network.transport",
        "leakguard.verdict",
        "leakguard.packet",
        "process.user.id",
    ] {
        assert!(said.contains(expected), "{expected} is missing: {said}");
    }
    rotel.kill().unwrap();
    desk.leak(5);
    desk.await_log("trying again every second");
    assert!(desk.bench.agent().is_enforcing().unwrap());
}
