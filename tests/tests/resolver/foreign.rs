//! What others change after `apply` is seen, and nothing of theirs is lost.

use std::fs;

use super::prepare;
use super::tree::{IMMUTABLE, Tree, assert_same};

/// Where versions of others are kept.
const KEPT: &str = "/var/lib/leakguard/resolver/kept";

fn applied() -> Tree {
    let tree = Tree::full();
    prepare(&tree, "file");
    tree.resolver("apply --server 10.8.0.1 --strategy static", None)
        .ok();
    tree
}

/// Rewrites resolv.conf as a DHCP client would, if it could.
fn overwrite(tree: &Tree, content: &str) {
    tree.set_flags("/etc/resolv.conf", 0);
    tree.write("/etc/resolv.conf", content);
}

#[test]
fn drift_is_an_exit_code_and_apply_mends_it() {
    let tree = applied();
    tree.set_flags("/etc/resolv.conf", 0);
    let said = tree.resolver("status --json", None);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(
        said.stdout.contains("is not immutable any more"),
        "{said:?}"
    );

    overwrite(&tree, "nameserver 192.0.2.99\n");
    let said = tree.resolver("status", None);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(
        said.stdout.contains("/etc/resolv.conf was changed"),
        "{said:?}"
    );
    let plan = tree
        .resolver("plan --server 10.8.0.1 --strategy static", None)
        .ok();
    assert!(plan.contains("-nameserver 192.0.2.99\n+#"), "{plan}");
    let mended = tree
        .resolver("apply --server 10.8.0.1 --strategy static", None)
        .ok();
    assert!(
        mended.contains(&format!("{KEPT}/etc-resolv.conf.1")),
        "{mended}"
    );
    assert_eq!(
        tree.read(&format!("{KEPT}/etc-resolv.conf.1")),
        "nameserver 192.0.2.99\n"
    );
    tree.resolver("status", None).ok();
    assert_eq!(tree.flags("/etc/resolv.conf") & IMMUTABLE, IMMUTABLE);
}

#[test]
fn revert_keeps_what_somebody_has_made_of_a_file() {
    let tree = Tree::full();
    prepare(&tree, "file");
    let before = tree.snapshot();
    tree.resolver("apply --server 10.8.0.1 --strategy static", None)
        .ok();
    overwrite(&tree, "nameserver 192.0.2.99\n");
    let dropin = "/etc/NetworkManager/conf.d/zz-leakguard.conf";
    fs::remove_file(tree.at(dropin)).unwrap();
    tree.link(dropin, "/dev/null");
    let reverted = tree.resolver("revert", None).ok();
    assert!(
        reverted.contains("/etc/resolv.conf had been changed by somebody since"),
        "{reverted}"
    );
    assert_eq!(
        tree.read(&format!("{KEPT}/etc-resolv.conf.1")),
        "nameserver 192.0.2.99\n"
    );
    let link = tree.at(&format!(
        "{KEPT}/etc-NetworkManager-conf.d-zz-leakguard.conf.1"
    ));
    assert_eq!(fs::read_link(link).unwrap().to_str(), Some("/dev/null"));
    fs::remove_dir_all(tree.at("/var/lib/leakguard")).unwrap();
    assert_same(&tree.snapshot(), &before, "");
}

#[test]
fn later_changes_of_daemon_json_stay() {
    let tree = applied();
    let json = "/etc/docker/daemon.json";
    let edited = tree.read(json).replace("1400", "1300");
    tree.write(json, &edited);
    tree.resolver("status", None).ok();
    tree.resolver("apply --server 10.8.0.2 --strategy static", None)
        .ok();
    assert!(
        tree.read(json).contains("\"dns\": [\"10.8.0.2\"]") && tree.read(json).contains("1300")
    );
    tree.resolver("revert", None).ok();
    assert_eq!(
        tree.read(json),
        "{\n    \"mtu\": 1300,\n\t\"labels\": [ \"a=b\" ]\n}"
    );

    let tree = applied();
    tree.write(json, "{\"dns\": [\"192.0.2.1\"]}");
    let said = tree.resolver("status", None);
    assert_eq!(said.code, Some(3), "{said:?}");
    tree.resolver("revert", None).ok();
    assert!(!tree.read(json).contains("10.8.0.1"));
}

#[test]
fn a_broken_daemon_json_does_not_stop_the_revert() {
    let tree = applied();
    tree.write("/etc/docker/daemon.json", "{ oh");
    tree.resolver("revert", None).ok();
    assert_eq!(tree.read("/etc/docker/daemon.json"), "{ oh");
    let text = fs::read(tree.at("/etc/resolv.conf")).unwrap();
    assert!(text.starts_with(b"nameserver 192.0.2.53"));
}

#[test]
fn two_at_once_are_one_too_many() {
    use nix::fcntl::{Flock, FlockArg};

    let tree = applied();
    let lock = fs::File::open(tree.at("/var/lib/leakguard/resolver/lock")).unwrap();
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
    for line in ["apply --server 10.8.0.9 --strategy static", "revert"] {
        let said = tree.resolver(line, None);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains("another leakguard"), "{said:?}");
    }
    drop(lock);
    tree.resolver("revert", None).ok();
}
