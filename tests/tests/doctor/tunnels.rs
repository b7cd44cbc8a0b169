//! What is wrong with a tunnel, and with what is enforced.

use leakguard::lab::{Daemon, wait_until};
use serde_json::Value;

use crate::machine::{Machine, PATIENCE, ids};

/// The lines of a finding's evidence.
#[track_caller]
fn evidence<'a>(findings: &'a [Value], id: &str) -> &'a str {
    let finding = findings.iter().find(|finding| finding["id"] == id);
    finding.unwrap()["evidence"][0].as_str().unwrap()
}

#[test]
fn a_tunnel_that_is_absent_small_bare_or_down_is_named() {
    let mut machine = Machine::sound();
    let absent = machine.findings(&["--tunnel", "wg0", "--tunnel", "wg9"]);
    assert_eq!(ids(&absent), ["tunnel-absent"].into(), "{absent:#?}");
    assert!(evidence(&absent, "tunnel-absent").contains("wg9"));
    let glob = machine.findings(&["--tunnel", "wg0,ppp*"]);
    assert_eq!(ids(&glob), ["tunnel-absent"].into(), "{glob:#?}");
    // A pair that has a tunnel's name.
    machine.run("ip link add wg8 type veth peer name wg8peer && ip addr add 192.0.2.1/24 dev wg8");
    let spoofed = machine.findings(&["--tunnel", "wg0,wg8"]);
    assert!(
        ids(&spoofed).contains("tunnel-of-another-kind"),
        "{spoofed:#?}"
    );
    machine.run("ip link del wg8");

    // The kernel takes IPv6 off an interface whose packets are that small.
    machine.run("ip link set wg0 mtu 1200");
    let small = machine.findings(&[]);
    let expected = ["tunnel-mtu-too-low", "ipv6-off-tunnel"].into();
    assert_eq!(ids(&small), expected, "{small:#?}");
    machine.run("ip addr flush dev wg0");
    let bare = machine.findings(&[]);
    assert!(ids(&bare).contains("tunnel-without-address"), "{bare:#?}");
    machine.run("ip link set wg0 down");
    let down = machine.findings(&[]);
    assert!(ids(&down).contains("tunnel-down"), "{down:#?}");
    assert!(!ids(&down).contains("tunnel-without-address"), "{down:#?}");
}

#[test]
fn a_name_that_a_shell_would_run_is_quoted_in_a_remedy() {
    let mut machine = Machine::sound();
    machine.run(
        "ip link add 'x;$(id)' type veth peer name peer && ip addr add 192.0.2.1/24 dev 'x;$(id)'",
    );
    machine.run("ip link set peer up && ip link set 'x;$(id)' up mtu 9000");
    let arguments = ["--tunnel", "wg0", "--tunnel", "any:x;$(id)"];
    let findings = machine.findings(&arguments);
    let finding = findings
        .iter()
        .find(|finding| finding["id"] == "tunnel-mtu-too-high");
    let remedy = finding.unwrap()["remedy"].as_str().unwrap();
    assert_eq!(remedy, "ip link set 'x;$(id)' mtu 1420");
    machine.run(remedy);
    let mended = machine.findings(&arguments);
    assert!(!ids(&mended).contains("tunnel-mtu-too-high"), "{mended:#?}");
}

#[test]
fn what_is_not_enforced_or_only_observed_is_a_problem() {
    let mut machine = Machine::unprotected();
    let open = machine.findings(&[]);
    assert_eq!(ids(&open), ["not-enforced"].into(), "{open:#?}");
    let finding = &open[0];
    assert_eq!(finding["remedy"], "leakguard run --tunnel wg0");
    // Without a file, the tunnel that is to be seen is proposed, and counts as one.
    machine.run("rm /etc/leakguard/leakguard.toml");
    let unnamed = machine.findings(&[]);
    assert_eq!(
        ids(&unnamed),
        ["not-enforced", "no-tunnel-named"].into(),
        "{unnamed:#?}"
    );
    assert!(evidence(&unnamed, "no-tunnel-named").contains("wg0"));
    // What is enforced says which interface is the tunnel.
    machine.bench.protect(&["--mode", "observe"]);
    let observed = machine.findings(&[]);
    assert_eq!(ids(&observed), ["observe-mode"].into(), "{observed:#?}");
    machine.bench.unprotect();
    machine.bench.protect(&["--kill-switch", "tunnel-down"]);
    assert_eq!(machine.findings(&[]), [Value::Null; 0]);
    machine.bench.agent().kill9().unwrap();
    let alone = machine.findings(&[]);
    assert_eq!(ids(&alone), ["agent-absent"].into(), "{alone:#?}");
    machine.bench.agent().restart().unwrap();
    machine.run("ip link set wg0 down");
    wait_until("the kill switch is engaged", PATIENCE, || {
        Ok(ids(&machine.findings(&[])).contains("kill-switch-engaged"))
    })
    .unwrap();
}

#[test]
fn only_a_part_of_the_sockets_is_guarded_in_the_lab() {
    let mut machine = Machine::sound();
    let report = machine.report(&[]);
    let findings = report["findings"].as_array().unwrap();
    let expected = machine.bench.cgroup.path().display().to_string();
    assert!(evidence(findings, "cgroup-narrow").contains(&expected));
}

#[test]
fn programs_that_write_resolv_conf_or_ask_past_the_tunnel_are_named() {
    let mut machine = Machine::sound();
    let scratch = tempfile::tempdir().unwrap();
    let leases = scratch.path().join("leases");
    let mut dhclient = machine.command("dhclient");
    dhclient.args(["-d", "-sf", "/bin/true", "-pf"]);
    dhclient
        .arg(scratch.path().join("pid"))
        .arg("-lf")
        .arg(leases);
    dhclient.arg("eth0");
    let client = Daemon::start(dhclient, scratch.path()).unwrap();
    let mut findings = Vec::new();
    wait_until("dhclient is found", PATIENCE, || {
        findings = machine.findings(&[]);
        Ok(!findings.is_empty())
    })
    .unwrap();
    assert_eq!(
        ids(&findings),
        ["dhcp-rewrites-resolv-conf"].into(),
        "{findings:#?}"
    );
    let shown = evidence(&findings, "dhcp-rewrites-resolv-conf");
    assert!(shown.contains(&client.pid().to_string()), "{shown}");
    machine.run(findings[0]["remedy"].as_str().unwrap());
    assert_eq!(machine.findings(&[]), [Value::Null; 0], "the hook keeps it");
    drop(client);

    machine.write("resolv.conf", "nameserver 127.0.0.1\n");
    let findings = machine.findings(&[]);
    assert_eq!(
        ids(&findings),
        ["resolver-not-listening"].into(),
        "{findings:#?}"
    );
    machine.write("dnsmasq.conf", "no-resolv\nserver=192.168.77.1\n");
    let mut dnsmasq = machine.command("dnsmasq");
    dnsmasq.args([
        "--keep-in-foreground",
        "--conf-file=/etc/dnsmasq.conf",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--user=root",
        "--pid-file=",
    ]);
    let _dnsmasq = Daemon::start(dnsmasq, scratch.path()).unwrap();
    wait_until("dnsmasq is found", PATIENCE, || {
        findings_of(&mut machine, "local-resolver-past-tunnel")
    })
    .unwrap();
    let findings = machine.findings(&[]);
    assert_eq!(
        ids(&findings),
        ["local-resolver-past-tunnel"].into(),
        "{findings:#?}"
    );
    assert_eq!(
        evidence(&findings, "local-resolver-past-tunnel"),
        "/etc/dnsmasq.conf:2: server=192.168.77.1: 192.168.77.1 leaves by eth0, which is an uplink"
    );
    machine.write("dnsmasq.conf", "no-resolv\nserver=10.8.0.1\n");
    assert_eq!(machine.findings(&[]), [Value::Null; 0]);
}

#[expect(clippy::unnecessary_wraps, reason = "it is what is waited for")]
fn findings_of(machine: &mut Machine, id: &str) -> Result<bool, leakguard::lab::LabError> {
    Ok(ids(&machine.findings(&[])).contains(id))
}
