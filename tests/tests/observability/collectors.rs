//! Collectors: rotel is real and passes real events on; of the others, which no registry has, the files are looked at.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use leakguard::lab::{Daemon, Netns, wait_until};
use leakguard_tests::{Bench, Place, isp, rotel_binary, write_config};
use serde_json::Value;

use super::{LIMIT, file, read, run, said};

/// What `rotel.env` says.
fn settings() -> Vec<(String, String)> {
    read("deploy/otel-collector/rotel.env")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

fn rotel(
    netns: &Netns,
    directory: &Path,
    arguments: &[&str],
    settings: Vec<(String, String)>,
) -> Daemon {
    let mut command = netns.command(rotel_binary());
    command.arg("start").args(arguments).envs(settings);
    fs::create_dir(directory).unwrap();
    Daemon::start(command, directory).unwrap()
}

#[test]
fn rotel_passes_events_on_as_its_settings_say() {
    let mut bench = Bench::new();
    let directory = tempfile::tempdir().unwrap();
    let host = bench.topology.host();
    let mut far = rotel(
        host,
        &directory.path().join("far"),
        &[
            "--exporter",
            "blackhole",
            "--debug-log",
            "logs",
            "--debug-log-verbosity",
            "detailed",
            "--otlp-http-endpoint",
            "127.0.0.1:5318",
            "--otlp-grpc-endpoint",
            "127.0.0.1:5317",
        ],
        Vec::new(),
    );
    let mut near = rotel(host, &directory.path().join("near"), &[], settings());
    let config = write_config("[events]\notlp = \"http://127.0.0.1:4318\"\n");
    bench.protect(&["--config", config.path().to_str().unwrap()]);
    let target = isp(0, 53);
    let socket = bench.origin(Place::Host).udp(target.ip());
    assert!(socket.send_to(b"question", target).is_err());
    let waited = wait_until("the far collector has the event", LIMIT, || {
        near.check_running()?;
        far.check_running()?;
        Ok((far.stdout() + &far.stderr()).contains("leakguard.packet"))
    });
    let said = far.stdout() + &far.stderr();
    assert!(waited.is_ok(), "{said}\n{}", near.stdout() + &near.stderr());
    for expected in ["destination.address", "leakguard.verdict", "service.name"] {
        assert!(said.contains(expected), "{expected} is missing: {said}");
    }
}

/// A file of YAML, as Debian's python3-yaml reads it.
fn yaml(path: &str) -> Value {
    const READ: &str =
        "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let path = file(path);
    let output = run("/usr/bin/python3", &["-c", READ, path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Components that a pipeline names and nobody has defined, and those that are defined and of no use.
fn loose_ends(config: &Value) -> Vec<String> {
    let mut loose = Vec::new();
    for kind in ["receivers", "processors", "exporters"] {
        let defined: BTreeSet<&str> = config[kind]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        let used: BTreeSet<&str> = config["service"]["pipelines"]
            .as_object()
            .into_iter()
            .flatten()
            .flat_map(|(_, pipeline)| pipeline[kind].as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        assert!(!used.is_empty(), "{kind}: {config}");
        loose.extend(
            used.symmetric_difference(&defined)
                .map(|name| format!("{kind}: {name}")),
        );
    }
    loose
}

#[test]
fn the_collectors_pipelines_have_no_loose_ends_and_listen_on_loopback() {
    for path in [
        "deploy/otel-collector/otlp.yaml",
        "deploy/otel-collector/file.yaml",
    ] {
        let mut config = yaml(path);
        assert_eq!(loose_ends(&config), Vec::<String>::new(), "{path}");
        config["exporters"]["unused"] = Value::Null;
        config["service"]["pipelines"]["logs"]["processors"] = ["none"].into();
        assert!(loose_ends(&config).len() >= 2, "control: {path}");
    }
    let otlp = yaml("deploy/otel-collector/otlp.yaml");
    assert_eq!(
        otlp["receivers"]["otlp"]["protocols"]["http"]["endpoint"],
        "127.0.0.1:4318"
    );
}

#[test]
fn vectors_components_are_joined_to_each_other() {
    let config: toml::Table = read("deploy/vector/leakguard.toml").parse().unwrap();
    let names = |kind: &str| -> BTreeSet<String> {
        config[kind].as_table().unwrap().keys().cloned().collect()
    };
    let mut outputs = names("sources");
    outputs.extend(names("transforms"));
    let mut used = BTreeSet::new();
    for kind in ["transforms", "sinks"] {
        for (name, component) in config[kind].as_table().unwrap() {
            assert!(component.get("type").is_some(), "{name}");
            for input in component["inputs"].as_array().unwrap() {
                // What is behind the dot is one of several outputs.
                let input = input.as_str().unwrap();
                let from = input.split('.').next().unwrap();
                assert!(outputs.contains(from), "{name}: {input}");
                used.insert(from.to_owned());
            }
        }
    }
    assert_eq!(used, outputs, "each is of use");
    let journal = &config["sources"]["leakguard_journal"]["include_matches"]["MESSAGE_ID"];
    let auditing = read("docs/auditing.md");
    for id in journal.as_array().unwrap() {
        assert!(auditing.contains(id.as_str().unwrap()), "{id}");
    }
}
