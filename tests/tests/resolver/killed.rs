//! Killed at any change, by SIGKILL: `revert` still has everything as before.

use super::prepare;
use super::tree::{IMMUTABLE, NODUMP, Tree, assert_same};

/// More than there are.
const MANY: u32 = 1000;

/// As much as can be at once.
const ALL: &str = "--server 10.8.0.1 --strategy resolved-off --cache unbound --ipv6-sysctl --uplink eth0 \
                   --netdev-max-backlog 5000";
const OTHER: &str = "--server 10.8.0.2 --strategy resolved-strict --no-containers";

fn tree(kind: &str) -> Tree {
    let tree = Tree::full();
    prepare(&tree, kind);
    tree.set_flags("/etc/docker/daemon.json", IMMUTABLE | NODUMP);
    tree
}

/// Runs a command again and again, dying one change later each time, until it does not die. Returns the number of
/// changes at which it died.
fn each_death(mut live: impl FnMut(u32) -> Option<i32>) -> u32 {
    for number in 1..MANY {
        match live(number) {
            None => {}
            Some(0) => return number - 1,
            Some(code) => panic!("change {number}: exit code {code}"),
        }
    }
    panic!("it never ends");
}

#[test]
fn apply_that_is_killed_at_any_change_can_be_reverted() {
    for kind in ["locked", "stub"] {
        let tree = tree(kind);
        let before = tree.snapshot();
        let deaths = each_death(|number| {
            let code = tree.resolver(&format!("apply {ALL}"), Some(number)).code;
            if code.is_none() && number > 6 && tree.resolver("status", None).code == Some(0) {
                // Only the end was left.
                let again = tree.resolver(&format!("apply {ALL}"), None).ok();
                assert_eq!(again, "unchanged\n", "change {number}");
            }
            tree.resolver("revert", None).ok();
            assert_same(
                &tree.snapshot(),
                &before,
                &format!("{kind}: change {number}"),
            );
            code
        });
        assert!(deaths > 60, "{deaths}");
    }
}

#[test]
fn apply_that_is_killed_at_any_change_can_be_repeated() {
    let (tree, whole) = (tree("file"), tree("file"));
    let before = tree.snapshot();
    whole.resolver(&format!("apply {ALL}"), None).ok();
    let deaths = each_death(|number| {
        let code = tree.resolver(&format!("apply {ALL}"), Some(number)).code;
        let again = tree.resolver(&format!("apply {ALL}"), None).ok();
        let ends = if code.is_none() {
            "applied\n"
        } else {
            "unchanged\n"
        };
        assert!(
            again.ends_with(ends) || again == "unchanged\n",
            "change {number}: {again}"
        );
        tree.resolver("status", None).ok();
        assert_eq!(
            super::contents(&tree),
            super::contents(&whole),
            "change {number}"
        );
        tree.resolver("revert", None).ok();
        assert_same(&tree.snapshot(), &before, &format!("change {number}"));
        code
    });
    assert!(deaths > 60, "{deaths}");
}

#[test]
fn a_change_of_the_way_that_is_killed_at_any_change_can_be_reverted() {
    let tree = tree("locked");
    let before = tree.snapshot();
    let deaths = each_death(|number| {
        tree.resolver(&format!("apply {ALL}"), None).ok();
        let code = tree.resolver(&format!("apply {OTHER}"), Some(number)).code;
        tree.resolver("revert", None).ok();
        assert_same(&tree.snapshot(), &before, &format!("change {number}"));
        code
    });
    assert!(deaths > 40, "{deaths}");
}

#[test]
fn revert_that_is_killed_at_any_change_can_be_repeated() {
    for kind in ["locked", "uplink"] {
        let tree = tree(kind);
        let before = tree.snapshot();
        let deaths = each_death(|number| {
            tree.resolver(&format!("apply {ALL}"), None).ok();
            let code = tree.resolver("revert", Some(number)).code;
            tree.resolver("revert", None).ok();
            assert_same(
                &tree.snapshot(),
                &before,
                &format!("{kind}: change {number}"),
            );
            code
        });
        assert!(deaths > 20, "{deaths}");
    }
}
