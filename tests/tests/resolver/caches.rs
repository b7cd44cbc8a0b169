//! The caches, really run with what is written for them, and asked.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use leakguard::lab::{Daemon, LAB_NAME, Resolver, Topology, address, output_within, wait_until};

use super::tree::{Tree, assert_same};

/// Where a cache listens.
const CACHE: &str = "127.0.0.55";
const LIMIT: Duration = Duration::from_secs(10);

/// The device, its resolver behind the ISP's router, and a cache on the device.
struct Cached {
    topology: Topology,
    resolver: Resolver,
    tree: Tree,
    _cache: Daemon,
}

impl Cached {
    fn new(cache: &str, options: &str) -> Self {
        let topology = Topology::new().unwrap();
        let resolver = Resolver::new(topology.vpn(), "vpn").unwrap();
        let tree = Tree::full();
        let server = address::VPN_SERVER_V4;
        tree.resolver(
            &format!("apply --strategy static --server {server} --cache {cache} {options}"),
            None,
        )
        .ok();
        let unit = tree.read("/etc/systemd/system/leakguard-cache.service");
        let words = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="))
            .unwrap();
        let mut words = words.split(' ');
        let mut command = topology.host().command(words.next().unwrap());
        for word in words {
            let file = word.starts_with("/etc/leakguard/");
            command.arg(if file { tree.at(word) } else { word.into() });
        }
        let mut daemon = Daemon::start(command, tree.path()).unwrap();
        let cached = Self {
            topology,
            resolver,
            tree,
            _cache: {
                wait_until("the cache stays", LIMIT, || {
                    daemon.check_running().map(|()| true)
                })
                .unwrap();
                daemon
            },
        };
        wait_until("the cache answers", LIMIT, || {
            Ok(cached
                .dig(&["version.bind", "CH", "TXT"])
                .contains("status: "))
        })
        .unwrap();
        cached
    }

    fn dig(&self, words: &[&str]) -> String {
        let mut dig = self.topology.host().command("dig");
        dig.args([&format!("@{CACHE}"), "+tries=1", "+time=3"])
            .args(words);
        String::from_utf8(output_within(dig, LIMIT).unwrap().stdout).unwrap()
    }

    /// How often the resolver was asked for a name.
    fn asked(&self, name: &str) -> usize {
        let log = self.resolver.log();
        log.lines()
            .filter(|line| line.contains(&format!(" {name}. A IN")))
            .count()
    }
}

#[test]
fn unbound_answers_validates_and_asks_once() {
    let cached = Cached::new("unbound", "--insecure lab.test");
    let answer = cached.dig(&[LAB_NAME, "A"]);
    assert!(answer.contains("192.0.2.80"), "{answer}");
    let asked = cached.asked(LAB_NAME);
    assert!(asked > 0);
    for _ in 0..3 {
        assert!(cached.dig(&[LAB_NAME, "A", "+tcp"]).contains("192.0.2.80"));
    }
    assert_eq!(cached.asked(LAB_NAME), asked, "answers are kept");
    assert_eq!(
        cached.tree.read("/etc/resolv.conf").lines().nth(1),
        Some("nameserver 127.0.0.55")
    );

    // The lab's resolver signs nothing, which is no proof below the root's key.
    let unproven = Cached::new("unbound", "");
    let answer = unproven.dig(&[LAB_NAME, "A"]);
    assert!(answer.contains("status: SERVFAIL"), "{answer}");
    assert!(unproven.dig(&[LAB_NAME, "A", "+cd"]).contains("192.0.2.80"));
}

#[test]
fn dnsmasq_answers_and_asks_once() {
    let cached = Cached::new("dnsmasq", "");
    for _ in 0..3 {
        let answer = cached.dig(&[LAB_NAME, "A"]);
        assert!(answer.contains("192.0.2.80"), "{answer}");
    }
    assert_eq!(cached.asked(LAB_NAME), 1);
}

#[test]
fn a_cache_asks_from_the_address_of_the_tunnel() {
    for cache in ["unbound", "dnsmasq"] {
        let cached = Cached::new(
            cache,
            &format!("--insecure lab.test --source {}", address::HOST_V4),
        );
        assert!(cached.dig(&[LAB_NAME, "A"]).contains("192.0.2.80"));
        let from = format!(" {} {LAB_NAME}.", IpAddr::from(address::HOST_V4));
        assert!(
            cached.resolver.log().contains(&from),
            "{}",
            cached.resolver.log()
        );
    }
}

/// What unbound-checkconf and `dnsmasq --test` say of each form.
#[test]
fn the_programs_accept_what_is_written_for_them() {
    let options = [
        "--server 10.8.0.1",
        "--server 10.8.0.1,fd00::1 --source 10.8.0.2,fd00::2",
    ];
    let unbound = [
        "--upstream-tls dns.corp.example",
        "--insecure corp.example,home.arpa",
    ];
    for common in options {
        for only in unbound {
            check(
                "unbound",
                &format!("{common} {only}"),
                "unbound-checkconf",
                &[],
            );
        }
        check("dnsmasq", common, "dnsmasq", &["--test", "-C"]);
    }
}

fn check(cache: &str, options: &str, program: &str, words: &[&str]) {
    let tree = Tree::full();
    tree.resolver(
        &format!("apply --strategy static --cache {cache} {options}"),
        None,
    )
    .ok();
    let mut command = std::process::Command::new(program);
    command
        .args(words)
        .arg(tree.at(&format!("/etc/leakguard/{cache}.conf")));
    let output = output_within(command, LIMIT).unwrap();
    assert!(output.status.success(), "{options}: {output:?}");
}

/// With the programs of this machine below the root, as in an image.
#[test]
fn a_configuration_that_is_refused_changes_nothing() {
    let tree = Tree::full();
    for directory in ["lib", "lib64", "bin"] {
        tree.link(directory, &format!("usr/{directory}"));
    }
    tree.write("/etc/passwd", "unbound:x:101:101::/:/bin/false\n");
    tree.write("/etc/group", "unbound:x:101:\n");
    let checker = "usr/sbin/unbound-checkconf";
    copy_with_libraries(&tree, checker);
    let before = tree.snapshot();
    let line =
        "apply --strategy static --cache unbound --server 10.8.0.1 --trust-anchor /no/such/file";
    let said = tree.resolver(line, None);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.stderr.contains("unbound refuses its configuration")
            || said.stderr.contains("/no/such/file"),
        "{said:?}"
    );
    assert_same(&tree.snapshot(), &before, "");
    let said = tree
        .resolver(
            "apply --strategy static --cache unbound --server 10.8.0.1",
            None,
        )
        .ok();
    assert!(!said.contains("was not checked"), "{said}");
}

/// A program, and what it is linked to, as `ldd` says.
fn copy_with_libraries(tree: &Tree, program: &str) {
    let mut ldd = std::process::Command::new("ldd");
    ldd.arg(Path::new("/").join(program));
    let listed = String::from_utf8(output_within(ldd, LIMIT).unwrap().stdout).unwrap();
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for path in libraries.chain([format!("/{program}").as_str()]) {
        // Through the links of directories.
        let place = leakguard::resolver::Root::new(tree.path())
            .locate(path)
            .unwrap();
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(path, place).unwrap();
    }
}
