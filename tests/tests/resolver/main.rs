//! `leakguard resolver` on trees: what it writes, and that `revert` has every file as before, to the byte and the
//! attribute, whatever came in between.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails"
)]

mod caches;
mod foreign;
mod killed;
mod tree;
mod watch;

use std::fs;
use std::path::Path;

use tree::{IMMUTABLE, NODUMP, Tree, assert_same};

/// What can be asked for.
const WAYS: [&str; 7] = [
    "--server 10.8.0.1 --strategy static --search corp.example --option edns0",
    "--server 10.8.0.1,fd00::1 --strategy resolved-strict --upstream-tls dns.corp.example",
    "--server 10.8.0.1 --strategy resolved-off",
    "--server 10.8.0.1 --cache unbound --upstream-tls dns.corp.example --insecure corp.example",
    "--server 10.8.0.1 --cache dnsmasq --strategy static",
    "--server 10.8.0.1 --ipv6-sysctl --uplink eth0 --netdev-max-backlog 5000",
    "--server 10.8.0.1 --no-containers --no-immutable --no-watch --strategy static",
];

/// What resolv.conf can be before.
const RESOLV_CONF: [&str; 6] = ["stub", "uplink", "absolute", "file", "locked", "absent"];

fn prepare(tree: &Tree, kind: &str) {
    let path = "/etc/resolv.conf";
    tree.write(
        "/run/systemd/resolve/stub-resolv.conf",
        "nameserver 127.0.0.53\n",
    );
    tree.write(
        "/run/systemd/resolve/resolv.conf",
        "nameserver 192.0.2.53\n",
    );
    match kind {
        "stub" => tree.link(path, "../run/systemd/resolve/stub-resolv.conf"),
        "uplink" => tree.link(path, "../run/systemd/resolve/resolv.conf"),
        "absolute" => tree.link(path, "/run/systemd/resolve/resolv.conf"),
        "file" | "locked" => {
            // Not UTF-8, and without an end of line.
            fs::write(
                tree.at(path),
                b"nameserver 192.0.2.53 # \xff\nsearch isp.example",
            )
            .unwrap();
            tree.age(path, 0o604);
            if kind == "locked" {
                tree.set_flags(path, IMMUTABLE | NODUMP);
            }
        }
        _ => {}
    }
}

#[test]
fn every_way_is_applied_once_and_reverted_to_the_byte() {
    for kind in RESOLV_CONF {
        let tree = Tree::full();
        prepare(&tree, kind);
        let before = tree.snapshot();
        for way in WAYS {
            let plan = tree.resolver(&format!("plan {way}"), None).ok();
            assert!(plan.contains("+++ b/etc/"), "{plan}");
            assert_same(
                &tree.snapshot(),
                &before,
                &format!("plan changes nothing: {way}"),
            );

            let applied = tree.resolver(&format!("apply {way}"), None).ok();
            assert!(applied.ends_with("applied\n"), "{applied}");
            assert_ne!(tree.snapshot(), before);
            let after = tree.snapshot();
            assert_eq!(
                tree.resolver(&format!("apply {way}"), None).ok(),
                "unchanged\n",
                "{way}"
            );
            assert_same(
                &tree.snapshot(),
                &after,
                &format!("the second time nothing is touched: {way}"),
            );
            let again = tree.resolver(&format!("plan {way}"), None).ok();
            assert!(
                again.ends_with("unchanged\n") && !again.contains("---"),
                "{again}"
            );
            tree.resolver("status", None).ok();

            let reverted = tree.resolver("revert", None).ok();
            assert!(reverted.ends_with("reverted\n"), "{reverted}");
            assert_same(&tree.snapshot(), &before, &format!("{kind}: {way}"));
            let second = tree.resolver("revert", None).ok();
            assert!(second.starts_with("unchanged"), "{second}");
        }
    }
}

#[test]
fn from_one_way_to_another_only_what_is_wanted_stays() {
    let tree = Tree::full();
    prepare(&tree, "file");
    let before = tree.snapshot();
    for way in WAYS {
        tree.resolver(&format!("apply {way}"), None).ok();
        let from_another = contents(&tree);
        let fresh = Tree::full();
        prepare(&fresh, "file");
        fresh.resolver(&format!("apply {way}"), None).ok();
        assert_eq!(from_another, contents(&fresh), "{way}");
    }
    tree.resolver("revert", None).ok();
    assert_same(&tree.snapshot(), &before, "");
}

/// What `/etc` and the kernel's settings say.
fn contents(tree: &Tree) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut ahead = vec![tree.at("etc"), tree.at("proc")];
    while let Some(path) = ahead.pop() {
        let name = path
            .strip_prefix(tree.path())
            .unwrap()
            .display()
            .to_string();
        let kind = fs::symlink_metadata(&path).unwrap();
        if kind.is_symlink() {
            found.push((
                name,
                fs::read_link(&path)
                    .unwrap()
                    .display()
                    .to_string()
                    .into_bytes(),
            ));
        } else if kind.is_dir() {
            ahead.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            found.push((name, Vec::new()));
        } else {
            found.push((name, fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn resolv_conf_cannot_be_changed_and_keeps_its_mode_and_owner() {
    let tree = Tree::new(&[]);
    prepare(&tree, "file");
    tree.resolver(
        "apply --server 10.8.0.1 --server fd00::1 --search a.example,b.example",
        None,
    )
    .ok();
    let path = tree.at("/etc/resolv.conf");
    assert_eq!(
        tree.read("/etc/resolv.conf")
            .lines()
            .skip(1)
            .collect::<Vec<_>>(),
        [
            "nameserver 10.8.0.1",
            "nameserver fd00::1",
            "search a.example b.example"
        ]
    );
    assert_eq!(tree.flags("/etc/resolv.conf") & IMMUTABLE, IMMUTABLE);
    assert!(
        fs::write(&path, "nameserver 192.0.2.1\n").is_err(),
        "not even root"
    );
    assert!(fs::rename(tree.at("run"), &path).is_err() && fs::remove_file(&path).is_err());
    let seen = &tree.snapshot()[path.strip_prefix(tree.path()).unwrap()];
    let seen = format!("{seen:?}");
    assert!(seen.contains("owner: (1234, 5678)"), "{seen}");
}

#[test]
fn the_strategy_follows_from_what_is_there() {
    let tree = Tree::new(&[]);
    let applied = tree.resolver("plan --json --server 10.8.0.1", None).ok();
    assert!(
        applied.contains(r#""what":"static","changed":true"#),
        "{applied}"
    );

    // systemd-tmpfiles makes the link also where the service is masked.
    let tree = Tree::new(&["/usr/lib/systemd/systemd-resolved"]);
    prepare(&tree, "stub");
    tree.link("/etc/systemd/system/systemd-resolved.service", "/dev/null");
    let masked = tree.resolver("plan --json --server 10.8.0.1", None).ok();
    assert!(masked.contains(r#""what":"static""#), "{masked}");

    let tree = Tree::new(&["/usr/lib/systemd/systemd-resolved"]);
    prepare(&tree, "stub");
    tree.resolver("apply --server 10.8.0.1", None).ok();
    let status = tree.resolver("status --json", None).ok();
    assert!(status.contains(r#""what":"resolved-strict""#), "{status}");
    let dropin = tree.read("/etc/systemd/resolved.conf.d/zz-leakguard.conf");
    for line in [
        "DNS=10.8.0.1",
        "FallbackDNS=",
        "Domains=~.",
        "DNSOverTLS=no",
        "LLMNR=no",
        "MulticastDNS=no",
    ] {
        assert!(
            dropin.lines().any(|found| found == line),
            "{line} in {dropin}"
        );
    }
    for (path, mode) in [
        ("resolved.conf.d", 0o040_755),
        ("resolved.conf.d/zz-leakguard.conf", 0o100_644),
    ] {
        let path = Path::new("etc/systemd").join(path);
        assert_eq!(
            tree.snapshot()[&path].mode,
            mode,
            "the service is not root, whatever umask is"
        );
    }
    assert!(
        fs::symlink_metadata(tree.at("/etc/resolv.conf"))
            .unwrap()
            .is_symlink(),
        "the link is kept"
    );
}

#[test]
fn what_cannot_be_is_refused_and_leaves_no_trace() {
    let tree = Tree::new(&["/usr/bin/dockerd", "/usr/lib/systemd/systemd"]);
    tree.write("/etc/docker/daemon.json", "{ \"mtu\": ");
    let before = tree.snapshot();
    for (line, code, message) in [
        ("apply", 2, "no resolver is named"),
        (
            "apply --server 10.8.0.1",
            2,
            "/etc/docker/daemon.json is not what it should be",
        ),
        (
            "apply --server 10.8.0.1 --no-containers --strategy resolved-strict",
            2,
            "is not on this host",
        ),
        (
            "apply --server 10.8.0.1 --no-containers --cache unbound",
            4,
            "apt-get install unbound",
        ),
        (
            "apply --server 10.8.0.1 --no-containers --upstream-tls dns.example",
            2,
            "needs somebody who speaks it",
        ),
        (
            "apply --server 10.8.0.1 --cache dnsmasq --upstream-tls dns.example",
            2,
            "needs somebody who speaks it",
        ),
        (
            "apply --server 1.1.1.1,1.0.0.1,9.9.9.9,8.8.8.8",
            2,
            "too many entries",
        ),
        (
            "apply --server 10.8.0.1 --netdev-max-backlog 0",
            2,
            "not a number of packets",
        ),
        ("apply --server 10.8.0.1 --search a;b", 2, "not a name"),
    ] {
        let said = tree.resolver(line, None);
        assert_eq!(said.code, Some(code), "{line}: {said:?}");
        assert!(said.stderr.contains(message), "{line}: {said:?}");
        assert_same(&tree.snapshot(), &before, line);
    }
    fs::create_dir(tree.at("/etc/resolv.conf")).unwrap();
    let before = tree.snapshot();
    let said = tree.resolver(
        "apply --server 10.8.0.1 --no-containers --netdev-max-backlog 9",
        None,
    );
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.stderr.contains("everything was put back") && said.stderr.contains("is a directory"),
        "{said:?}"
    );
    assert_same(&tree.snapshot(), &before, "");
}
