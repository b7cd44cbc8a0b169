//! Every kind of finding, on a host that is sound but for one thing, and that host.

mod cases;
mod documents;
mod sound;

use std::collections::BTreeSet;
use std::fs;

use self::cases::CASES;
use self::sound::Host;
use super::{Severity, rules};

#[test]
fn a_sound_host_has_no_finding() {
    let found = Host::new().findings();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn each_kind_of_finding_is_found_by_what_it_is_about_and_has_a_case() {
    let sound: Vec<&str> = Host::new().ids();
    for case in CASES {
        let host = Host::new();
        (case.files)(&host);
        let facts = host.facts_with(case.facts);
        let findings = facts.judge();
        let found = findings.iter().find(|finding| finding.rule.id == case.id);
        assert!(found.is_some(), "{}: {findings:#?}", case.id);
        let finding = found.unwrap();
        assert!(!sound.contains(&case.id), "{}", case.id);
        assert!(!finding.evidence.is_empty(), "{finding:?}");
        let evidence = finding.evidence.join("\n");
        assert!(evidence.contains(case.shows), "{}: {evidence}", case.id);
        assert!(!finding.remedy.is_empty(), "{finding:?}");
        // What is broken does not look like more than it is.
        let others: Vec<&str> = findings
            .iter()
            .map(|finding| finding.rule.id)
            .filter(|id| *id != case.id && !case.with.contains(id))
            .collect();
        assert_eq!(others, [""; 0], "{}: besides", case.id);
    }
    let with_case: BTreeSet<&str> = CASES.iter().map(|case| case.id).collect();
    let all: BTreeSet<&str> = rules().map(|rule| rule.id).collect();
    assert_eq!(with_case, all);
}

#[test]
fn names_of_findings_are_stable_words_and_unique() {
    let mut seen = BTreeSet::new();
    for rule in rules() {
        assert!(seen.insert(rule.id), "{} is there twice", rule.id);
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(rule.id.bytes().all(fits), "{}", rule.id);
        assert_ne!(rule.severity, Severity::Ok, "{}", rule.id);
    }
}

#[test]
fn findings_of_one_kind_are_one_with_all_the_commands() {
    let host = Host::new();
    host.run("dhclient");
    host.run("dhcpcd");
    let findings = host.findings();
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].evidence.len(), 2, "{findings:#?}");
    assert_eq!(findings[0].remedy.lines().count(), 2, "{findings:#?}");
}

#[test]
fn networkmanager_is_not_accused_where_it_leaves_resolv_conf_alone() {
    let accused = |host: &Host| host.ids().contains(&"networkmanager-writes-resolv-conf");
    let host = Host::new();
    host.run("NetworkManager");
    assert!(accused(&host));
    host.write("run/NetworkManager/resolv.conf", "nameserver 10.8.0.1\n");
    host.link("etc/resolv.conf", "/run/NetworkManager/resolv.conf");
    assert!(accused(&host), "its own file");
    host.write(
        "etc/NetworkManager/conf.d/a.conf",
        "[main]\nrc-manager=unmanaged\n",
    );
    assert!(!accused(&host));
    host.remove("etc/NetworkManager/conf.d/a.conf");
    host.write("run/other/resolv.conf", "nameserver 10.8.0.1\n");
    host.link("etc/resolv.conf", "/run/other/resolv.conf");
    assert!(!accused(&host), "another program's file");
}

#[test]
fn a_resolver_of_systemd_resolveds_is_mended_where_it_comes_from() {
    let host = Host::new();
    host.write("etc/resolv.conf", "nameserver 127.0.0.53\n");
    let facts = host.facts_with(|facts| {
        let way = sound::uplink();
        let seen = sound::resolver("192.168.1.1", way.clone(), None);
        facts.network.ways.insert(seen.server.address, way);
        facts.network.resolvers.push(seen);
    });
    let findings = facts.judge();
    assert_eq!(
        findings[0].remedy,
        "resolvectl dns eth0 ''; resolvectl dns wg0 10.8.0.1; resolvectl domain wg0 '~.'"
    );
}

#[test]
fn garbage_in_every_file_is_survived() {
    let noise: Vec<u8> = (0..4096_u32)
        .map(|number| u8::try_from(number.wrapping_mul(2_654_435_761) >> 24).unwrap())
        .collect();
    for bytes in [noise.as_slice(), b"", b"\n\n[=\n=\n[]\n:\n", &[0xff; 64]] {
        let host = Host::new();
        for case in CASES {
            (case.files)(&host);
        }
        for path in host.every_file() {
            fs::write(&path, bytes).unwrap();
        }
        let facts = host.facts();
        facts.judge();
    }
}

#[test]
fn an_empty_tree_is_survived() {
    let host = Host::empty();
    let ids: BTreeSet<&str> = host.ids().into_iter().collect();
    assert!(ids.contains("resolv-conf-absent"), "{ids:?}");
}

#[test]
fn a_report_has_each_subject_once() {
    let host = Host::new();
    host.write("etc/resolv.conf", "nameserver 10.8.0.1\nsearch home\n");
    let report = super::Report::new(host.findings(), Vec::new());
    assert_eq!(report.worst, Severity::Note);
    assert!(!report.ok.contains(&super::Subject::ResolvConf));
    assert_eq!(report.ok.len(), super::Subject::ALL.len() - 1);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["worst"], "note");
    let finding = &json["findings"][0];
    assert_eq!(finding["id"], "resolv-conf-search");
    assert_eq!(finding["subject"], "resolv-conf");
    assert_eq!(finding["evidence"][0], "/etc/resolv.conf:2: home");
    assert_eq!(
        super::Report::new(Vec::new(), Vec::new()).worst,
        Severity::Ok
    );
    for subject in super::Subject::ALL {
        let json = serde_json::to_value(subject).unwrap();
        assert_eq!(json, subject.name());
    }
}
