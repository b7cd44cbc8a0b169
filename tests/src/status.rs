//! Reading what `leakguard status --json` and nft say.

use std::collections::BTreeSet;
use std::time::Duration;

use leakguard::lab::{Netns, output_within};
use serde_json::Value;

/// How long nft may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The sum of the packet counters that have all of these labels.
pub fn packets(status: &Value, labels: &[(&str, &str)]) -> u64 {
    let counters = status["packets"].as_array().unwrap().iter();
    counters
        .filter(|counter| labels.iter().all(|(label, value)| counter[label] == *value))
        .map(|counter| counter["count"].as_u64().unwrap())
        .sum()
}

/// What the status says of one interface.
pub fn interface<'status>(status: &'status Value, name: &str) -> Option<&'status Value> {
    let mut interfaces = status["interfaces"].as_array().unwrap().iter();
    interfaces.find(|interface| interface["name"] == name)
}

/// The names of the interfaces that the second net lets out by: `permitted` or `covered`.
pub fn second_net(host: &Netns, which: &str) -> BTreeSet<String> {
    let mut list = host.command("nft");
    list.args(["-j", "list", "table", "inet", "leakguard"]);
    let output = output_within(list, LIMIT).unwrap();
    let listing: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sets = listing["nftables"].as_array().unwrap().iter();
    let kindless = format!("{which}_kindless");
    let name = |element: &Value| {
        // With a time-out, an element is an object around its value.
        let value = element.pointer("/elem/val").unwrap_or(element);
        value["concat"][1].as_str().unwrap().to_owned()
    };
    sets.map(|object| &object["set"])
        .filter(|set| set["name"] == which || set["name"] == kindless)
        .filter_map(|set| set["elem"].as_array())
        .flatten()
        .map(name)
        .collect()
}
