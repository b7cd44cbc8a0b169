//! The netdev table's text, and reading it back.

use serde_json::json;

use super::*;

fn egress() -> Egress {
    let ruleset = Ruleset::new(Action::Drop, [Class::Dns, Class::Doq], &[5300]);
    Egress::new(
        &ruleset,
        BTreeSet::from([Permitted::new(2, "eth0", None).unwrap()]),
    )
}

/// The rules as nft lists them.
fn listing(egress: &Egress) -> Value {
    let mut objects = vec![json!({"counter": {"name": "dns", "packets": 4, "bytes": 240}})];
    let mut rule = |chain: &str, rule: &Rule| {
        let mut expressions: Vec<Value> = Vec::new();
        for field in &rule.fields {
            let values: Vec<_> = field.values.iter().collect();
            let right = match values.as_slice() {
                [one] => json!(one),
                many => json!({"set": many}),
            };
            expressions.push(json!({"match": {"op": "==", "right": right, "left": {
                "payload": {"base": "nh", "offset": field.offset, "len": field.length}}}}));
        }
        match &rule.then {
            Then::Jump(chain) => expressions.push(json!({"jump": {"target": chain}})),
            Then::Goto(chain) => expressions.push(json!({"goto": {"target": chain}})),
            Then::Catch(reason, _) => expressions.extend([
                json!({"match": {
                    "op": "!=", "left": {"meta": {"key": "skuid"}}, "right": NO_UID}}),
                json!({"counter": reason.name()}),
                json!({"drop": null}),
            ]),
        }
        objects.push(json!({"rule": {"chain": chain, "expr": expressions}}));
    };
    for (name, rules) in egress.chains() {
        for found in &rules {
            rule(&name, found);
        }
    }
    rule("uplink_2", &Rule::new(Vec::new(), Then::Jump(JUDGE.into())));
    for name in egress.chains().keys() {
        objects.push(json!({"chain": {"name": name}}));
    }
    objects.push(json!({"chain": {"name": "uplink_2", "hook": "egress"}}));
    json!({"nftables": objects})
}

const TEXT: &str = "\
table netdev other {
	chain uplink_7 {
		type filter hook egress device \"eth7\" priority filter; policy accept;
	}
}
table netdev leakguard {
	chain uplink_2 {
		type filter hook egress devices = { eth0 } priority filter; policy accept;
		jump judge
	}
}
";

#[test]
fn ports_are_looked_for_behind_every_header_and_tag() {
    let chains = egress().chains();
    let judge = &chains[JUDGE];
    let text: Vec<String> = judge.iter().map(Rule::text).collect();
    assert_eq!(
        text[0],
        "@nh,0,8 { 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79 } jump ip4_0"
    );
    assert!(text[2].starts_with("@nh,16,16 { 2048 } @nh,32,8 { 69, "));
    assert!(text[5].starts_with("@nh,16,16 { 33024, 34984 } @nh,48,16 { 34525 } @nh,64,8 { 96, "));
    assert!(text[6].ends_with(" meta skuid != 4294967295 counter name \"malformed\" drop"));
    // The destination port stands 16 bits behind the header before it.
    assert_eq!(
        chains["udp_160"][0].text(),
        "@nh,176,16 { 53, 5300 } meta skuid != 4294967295 counter name \"dns\" drop"
    );
    assert_eq!(chains["tcp_160"].len(), 1, "DNS over QUIC is not over TCP");
    for chain in ["udp_480", "udp_320", "udp_384", "udp_896"] {
        assert_eq!(chains[chain].len(), 2, "{chain}");
    }
}

#[test]
fn every_chain_that_is_led_to_exists() {
    let chains = egress().chains();
    for rule in chains.values().flatten() {
        if let Then::Jump(chain) | Then::Goto(chain) = &rule.then {
            assert!(chains.contains_key(chain), "{chain}");
        }
    }
}

#[test]
fn a_listing_is_understood_and_every_difference_shows() {
    let egress = egress();
    let listing = listing(&egress);
    let read = |listing: &Value| EgressTable::parse(&listing.to_string(), TEXT).unwrap();
    let table = read(&listing);
    assert!(table.satisfies(&egress), "{table:?}");
    assert_eq!(table.counts[&Reason::Dns].packets, 4);
    for (index, object) in listing["nftables"].as_array().unwrap().iter().enumerate() {
        let mut changed = listing.clone();
        changed["nftables"][index] = json!({});
        let table = read(&changed);
        // A chain is known by its rules too.
        let is_rule = object["rule"].is_object();
        assert_eq!(table.satisfies(&egress), !is_rule, "{object}");
    }
    let mut other = egress.clone();
    other
        .uplinks
        .insert(Permitted::new(3, "eth1", None).unwrap());
    assert!(!table.satisfies(&other));
    assert_eq!(table.lacking(&other.uplinks).len(), 1);
    other.uplinks.clear();
    assert!(!table.satisfies(&other), "it is attached to more");
    for text in ["", &TEXT.replace("eth0", "eth1"), &TEXT.replace("_2", "_3")] {
        let table = EgressTable::parse(&listing.to_string(), text).unwrap();
        assert!(!table.satisfies(&egress), "{text}");
        assert!(table.has_rules(&egress));
    }
    let quoted = TEXT.replace("devices = { eth0 }", "device \"eth0\"");
    let table = EgressTable::parse(&listing.to_string(), &quoted).unwrap();
    assert!(table.satisfies(&egress));
}

#[test]
fn a_rule_without_its_verdict_is_another() {
    let egress = egress();
    let mut listing = listing(&egress);
    let rules = listing["nftables"].as_array_mut().unwrap();
    let caught = rules
        .iter_mut()
        .filter_map(|object| object.pointer_mut("/rule/expr")?.as_array_mut())
        .find(|expressions| expressions.last() == Some(&json!({"drop": null})))
        .unwrap();
    caught.pop();
    let table = EgressTable::parse(&listing.to_string(), TEXT).unwrap();
    assert!(!table.satisfies(&egress));
}

#[test]
fn the_text_goes_on_counting() {
    let egress = egress();
    let table = EgressTable::parse(&listing(&egress).to_string(), TEXT).unwrap();
    let text = egress.replacement(Some(&table));
    assert!(text.starts_with("add table netdev leakguard\ndelete table netdev leakguard\n"));
    assert!(text.contains("\tcounter dns { packets 4 bytes 240 }\n"));
    assert!(text.contains("\tcounter malformed { packets 0 bytes 0 }\n"));
    assert!(text.contains(
        "\tchain uplink_2 {\n\t\ttype filter hook egress device \"eth0\" priority filter; policy accept;\n\
         \t\tjump judge\n\t}\n"
    ));
}
