use std::path::Path;

use clap::CommandFactory as _;
use leakguard_common::abi::{Class, ClassSet};

use super::{
    args::{AllowCommand, LogFormat},
    *,
};
use crate::config::{Layer, Mode};
use crate::status::Level;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("leakguard").chain(line.split_whitespace()))
}

fn refused(line: &str) -> String {
    let error = parse(line).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{line}: {error}");
    error.to_string()
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_and_option_is_explained() {
    fn check(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{}: {argument}",
                command.get_name()
            );
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn run_takes_what_it_needs() {
    let cli = parse(
        "run --config f.toml --tunnel wg0,tun* --tunnel auto --local br0 --uplink eth0 --mode observe \
         --block dns,dot --cgroup /c --bpffs /b --control /s --log-format json -vv",
    )
    .unwrap();
    assert_eq!((cli.log.verbose, cli.log.log_format), (2, LogFormat::Json));
    let Command::Run(args) = cli.command else {
        panic!("not run")
    };
    let patterns = |names: &[&str]| Some(names.iter().map(|name| name.parse().unwrap()).collect());
    assert_eq!(
        args.policy.layer(),
        Layer {
            mode: Some(Mode::Observe),
            tunnel: patterns(&["wg0", "tun*", "auto"]),
            local: patterns(&["br0"]),
            uplink: patterns(&["eth0"]),
            block: Some(ClassSet::default().with(Class::Dns).with(Class::Dot)),
            ..Layer::default()
        }
    );
    assert_eq!(args.policy.source.source().path(), Path::new("f.toml"));
    assert_eq!(args.cgroup.cgroup.as_deref(), Some(Path::new("/c")));
    assert_eq!(args.bpffs.bpffs, Path::new("/b"));
    assert_eq!(args.control.control, Path::new("/s"));
}

#[test]
fn options_that_are_not_given_set_nothing() {
    let Command::Apply(args) = parse("apply").unwrap().command else {
        panic!("not apply")
    };
    assert_eq!(args.policy.layer(), Layer::default());
    assert_eq!(args.cgroup.cgroup, None);
    assert_eq!(args.bpffs.bpffs, Path::new("/sys/fs/bpf"));
}

#[test]
fn the_other_commands_parse() {
    let Command::Run(args) = parse("run --tunnel wg0").unwrap().command else {
        panic!("not run")
    };
    assert_eq!(args.min_level, Level::Full);
    let Command::Status(args) = parse("status --json --min-level reduced").unwrap().command else {
        panic!("not status")
    };
    assert!(args.json && args.min_level == Level::Reduced && args.min_level < Level::Full);
    let Command::Events(args) = parse("events --json -f").unwrap().command else {
        panic!("not events")
    };
    assert!(args.json && args.follow);
    assert_eq!(
        args.control.control,
        Path::new("/run/leakguard/control.sock")
    );
    let Command::Allow(args) = parse("allow remove wg0").unwrap().command else {
        panic!("not allow")
    };
    let AllowCommand::Remove(args) = args.command else {
        panic!("not remove")
    };
    assert_eq!(args.interface, "wg0");
    for line in [
        "allow list",
        "release",
        "confirm",
        "purge",
        "config check",
        "config check F",
        "config show",
        "demo",
    ] {
        parse(line).unwrap();
    }
}

#[test]
fn explain_takes_a_packet_or_a_capture() {
    let explain = |line: &str| match parse(line).unwrap().command {
        Command::Explain(args) => args,
        _ => panic!("not explain"),
    };
    let args = explain(
        "explain udp 192.0.2.1:1 8.8.8.8:53 --interface eth0 --forwarded --mark 0xca6c --json",
    );
    assert_eq!(args.packet, ["udp", "192.0.2.1:1", "8.8.8.8:53"]);
    assert_eq!(args.interface.as_deref(), Some("eth0"));
    assert_eq!(args.mark, 0xca6c);
    assert!(args.forwarded && args.json && !args.policy.is_given());
    let args = explain("explain --pcap F --tunnel wg0");
    assert_eq!(args.pcap.as_deref(), Some(Path::new("F")));
    assert!(args.packet.is_empty() && args.policy.is_given());
    assert!(
        explain("explain udp 8.8.8.8:53 --config F")
            .policy
            .is_given()
    );
    assert!(refused("explain").contains("PACKET"));
    assert!(refused("explain udp 8.8.8.8:53 --pcap F").contains("--pcap"));
    assert!(refused("explain udp a b c").contains("PACKET"));
    assert!(refused("explain udp 8.8.8.8:53 --mark x").contains("--mark"));
    assert!(refused("explain udp 8.8.8.8:53 --interface a/b").contains("interface"));
}

#[test]
fn wrong_values_are_refused() {
    assert!(refused("run --mode maybe").contains("observe, enforce"));
    assert!(refused("run --block tor").contains("dns, dot, doq, mdns, llmnr, netbios, doh"));
    assert!(refused("run --tunnel a/b").contains("`a/b`"));
    assert!(refused("run --tunnel wg0,").contains("--tunnel"));
    assert!(refused("run --log-format xml").contains("text, json"));
    assert!(refused("status --min-level all").contains("none, reduced, full"));
    for name in ["a/b", "a:b", "..", "sixteen-bytes-xx"] {
        assert!(
            refused(&format!("allow add {name}")).contains("interface"),
            "{name}"
        );
    }
    for time in [
        "0s",
        "-5s",
        "25h",
        "60",
        "soon",
        "",
        "1y",
        "999999999999999999h",
    ] {
        assert!(
            refused(&format!("apply --confirm={time}")).contains("--confirm"),
            "{time}"
        );
    }
    refused("allow add");
    refused("config check F --config G");
}

#[test]
fn a_command_takes_only_the_options_it_uses() {
    for line in [
        "status --tunnel wg0",
        "events --bpffs /b",
        "release --mode enforce",
        "demo --tunnel wg0",
        "config check --tunnel wg0",
        "config show --bpffs /b",
    ] {
        assert!(refused(line).contains("unexpected argument"), "{line}");
    }
}
