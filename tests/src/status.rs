//! Reading what `leakguard status --json` says.

use serde_json::Value;

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
