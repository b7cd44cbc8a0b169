use super::*;

fn seen(address: &str, way: Way, asked: Option<Asked>) -> Seen {
    Seen {
        server: Nameserver {
            address: address.parse().unwrap(),
            scope: None,
            behind_stub: false,
            instead_of: None,
        },
        way,
        asked,
    }
}

fn over(name: &str, role: Role) -> Way {
    Way::Over {
        name: name.into(),
        role,
    }
}

fn judged(tunnel_up: bool, seen: &[Seen]) -> Report {
    let mut report = Report::default();
    judge_resolvers(&mut report, tunnel_up, "wg0", seen);
    report
}

#[test]
fn a_resolver_behind_an_uplink_is_the_problem() {
    let report = judged(
        true,
        &[
            seen("192.168.1.1", over("eth0", Role::Uplink), None),
            seen("10.9.9.9", Way::Nowhere, None),
        ],
    );
    assert_eq!(report.notes, [""; 0]);
    assert_eq!(
        report.problems[0].what,
        "names will not resolve: nameserver 192.168.1.1 is reached over eth0, which is an uplink; there is no route \
         to nameserver 10.9.9.9"
    );
    assert!(report.problems[0].remedy.contains("/etc/resolv.conf"));
}

#[test]
fn one_that_answers_through_the_tunnel_is_enough() {
    let report = judged(
        true,
        &[
            seen("192.168.1.1", over("eth0", Role::Uplink), None),
            seen("10.8.0.1", over("wg0", Role::Tunnel), Some(Asked::Answered)),
        ],
    );
    assert_eq!(report.problems, []);
    assert_eq!(
        report.notes[1],
        "nameserver 10.8.0.1 is reached over wg0, which is a tunnel, and answers"
    );
}

#[test]
fn one_that_does_not_answer_through_the_tunnel_is_a_problem() {
    for (asked, words) in [
        (Asked::Silent, "and does not answer within 1 s"),
        (
            Asked::Refused("Query Refused".into()),
            "but answers Query Refused",
        ),
    ] {
        let report = judged(
            true,
            &[seen("10.8.0.1", over("wg0", Role::Tunnel), Some(asked))],
        );
        assert!(report.problems[0].what.ends_with(words), "{report:?}");
    }
}

#[test]
fn what_cannot_be_known_is_no_problem_but_said() {
    for way in [Way::Here, over("docker0", Role::Local)] {
        let report = judged(true, &[seen("127.0.0.1", way, None)]);
        assert_eq!(report.problems, []);
        assert!(report.notes[0].contains("not known"), "{report:?}");
    }
    let not_yet = seen(
        "10.8.0.1",
        over("wg0", Role::Tunnel),
        Some(Asked::NotAllowed),
    );
    assert_eq!(judged(true, &[not_yet]).problems, []);
}

#[test]
fn no_tunnel_is_a_problem_of_its_own() {
    let report = judged(
        false,
        &[seen("192.168.1.1", over("eth0", Role::Uplink), None)],
    );
    assert_eq!(report.problems.len(), 1);
    assert_eq!(
        report.problems[0].what,
        "no tunnel is up yet (wanted: wg0): names will not resolve until one is"
    );
    assert!(report.notes[0].contains("eth0"));
}
