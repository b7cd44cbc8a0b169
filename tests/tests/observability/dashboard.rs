//! Every query of the dashboard and every rule, evaluated by a real Prometheus; and every metric that they name exists.

use std::collections::BTreeSet;

use leakguard::lab::wait_until;
use leakguard_tests::{Bench, write_config};
use serde_json::Value;

use super::watch::{AGENT, Watch};
use super::{LIMIT, read};

const DASHBOARD: &str = "deploy/grafana/leakguard.json";

/// Metrics of programs that are here. Those of `unbound_exporter` are not: no registry has it.
const EXPORTED: [&str; 4] = [
    "leakguard_",
    "process_",
    "resolver_cluster_",
    "node_textfile_",
];
/// What Grafana puts in place of its variables.
const VARIABLES: [(&str, &str); 4] = [
    ("$__rate_interval", "1m"),
    ("$__range", "5m"),
    ("$region", ".*"),
    ("$instance", ".*"),
];

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap()
}

/// The queries of its panels, as Grafana would send them.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let mut expression = target["expr"].as_str().unwrap().to_owned();
            for (variable, value) in VARIABLES {
                expression = expression.replace(variable, value);
            }
            assert!(!expression.contains('$'), "{expression}");
            queries.push((panel["title"].as_str().unwrap().to_owned(), expression));
        }
    }
    queries
}

/// The names in a text that look like metrics of programs that are here.
fn metrics(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| EXPORTED.iter().any(|prefix| word.starts_with(prefix)))
        .collect()
}

#[test]
fn panels_have_a_place_of_their_own_and_ask_the_source_that_was_chosen() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{panel}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{panel} lies over another");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for source in targets.iter().chain([panel]) {
            assert_eq!(source["datasource"]["uid"], "${datasource}", "{panel}");
        }
    }
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(variables, ["datasource", "region", "instance"]);
}

#[test]
fn prometheus_answers_every_panel_and_evaluates_every_rule() {
    let mut bench = Bench::with_bare_tunnel();
    let config = write_config(&format!("[metrics]\nlisten = {AGENT:?}\n"));
    bench.protect(&["--config", config.path().to_str().unwrap()]);
    let mut watch = Watch::start(&bench);
    watch.await_series("leakguard_mode == 1");
    watch.await_series("leakguard_tunnel_up == 1");
    watch.resolve();
    watch.leak();

    let dashboard = dashboard();
    let queries = queries(&dashboard);
    assert!(queries.len() > 30, "{}", queries.len());
    for (title, expression) in &queries {
        if expression.contains("unbound_") {
            assert_eq!(watch.series(expression), Ok(0), "{title}: {expression}");
        } else {
            watch.await_series(expression);
        }
    }

    let exist = watch.ask("label/__name__/values", None);
    let exist: BTreeSet<&str> = exist["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let rules = read("deploy/prometheus/leakguard.rules.yml");
    let asked: Vec<&str> = queries.iter().map(|(_, query)| query.as_str()).collect();
    let asked = asked.join("\n");
    let expressions: Vec<&str> = rules
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect();
    let expressions = expressions.join("\n");
    let named: BTreeSet<&str> = metrics(&asked)
        .union(&metrics(&expressions))
        .copied()
        .collect();
    assert!(named.len() > 25, "{named:?}");
    let unknown: Vec<_> = named.difference(&exist).collect();
    assert!(unknown.is_empty(), "nobody exports {unknown:?}");
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["definition"].as_str().unwrap_or_default();
        assert!(metrics(query).is_subset(&exist), "{query}");
    }

    // Each is evaluated, and what is tried shows: it has to go on for two minutes before somebody is woken.
    let mut state = Value::Null;
    let waited = wait_until("the leak that was tried is pending", LIMIT, || {
        watch.leak();
        state = watch.ask("rules", None);
        Ok(rules_of(&state)
            .any(|rule| rule["name"] == "LeakguardLeakTried" && rule["state"] == "pending"))
    });
    assert!(waited.is_ok(), "{state:#}");
    assert!(rules_of(&state).count() > 25, "{state:#}");
    for rule in rules_of(&state) {
        assert_eq!(rule["health"], "ok", "{rule:#}");
    }
    let loud: Vec<_> = rules_of(&state)
        .filter(|rule| rule["state"] == "firing")
        .collect();
    assert!(loud.is_empty(), "nothing is wrong: {loud:#?}");

    let refused = watch.series("sum by (class) (rate(leakguard_packets_total[1m])");
    assert!(refused.is_err(), "control: {refused:?}");
    let nothing = watch.series("leakguard_packets_dropped_total");
    assert_eq!(nothing, Ok(0), "control: a metric that nobody exports");
}

fn rules_of(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["data"]["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|group| group["rules"].as_array().into_iter().flatten())
}
