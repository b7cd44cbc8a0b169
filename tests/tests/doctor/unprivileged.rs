//! Without privileges it says what it could not see, and does not fail.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use leakguard::lab::output_within;
use leakguard_tests::agent_binary;
use serde_json::Value;

use crate::machine::{Machine, PATIENCE, ids};

#[test]
fn what_was_typed_wrong_is_told_apart_from_what_is_wrong() {
    let mut machine = Machine::sound();
    for (arguments, code) in [
        (["--root", "/no/such/directory"], 2),
        (["--tunnel", "wg0:"], 2),
        (["--config", "/no/such/file"], 3),
    ] {
        let output = machine.doctor(&arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.contains(arguments[1]), "{said}");
    }
}

#[test]
fn whoever_may_not_look_is_told_what_was_not_seen() {
    let machine = Machine::sound();
    machine.write("docker/daemon.json", "{}");
    let secret = machine.etc("docker/daemon.json");
    fs::set_permissions(secret, fs::Permissions::from_mode(0o600)).unwrap();
    // The directory of the build may be for root only.
    let binary = tempfile::tempdir().unwrap();
    fs::set_permissions(binary.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = binary.path().join("leakguard");
    fs::copy(agent_binary(), &copy).unwrap();
    let mut command = machine.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command.arg(copy).args(["doctor", "--json"]);
    let output = output_within(command, PATIENCE).unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let found = ids(findings);
    assert!(found.contains("privilege-missing"), "{report:#}");
    assert!(!found.contains("config-unusable"), "{report:#}");
    assert!(
        !found.contains("not-enforced"),
        "it is not known: {report:#}"
    );
    let unseen = findings.iter().find(|finding| finding["id"] == "not-seen");
    let evidence = unseen.unwrap()["evidence"].to_string();
    assert!(evidence.contains("/etc/docker/daemon.json: "), "{evidence}");
    assert!(
        evidence.contains("leakguard.toml cannot be read"),
        "{evidence}"
    );
    let unseen = report["unseen"].as_array().unwrap();
    for subject in ["enforcement", "firewall", "configuration"] {
        assert!(unseen.iter().any(|name| name == subject), "{report:#}");
    }
}
