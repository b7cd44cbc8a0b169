//! What is redirected is counted.

use std::time::Duration;

use leakguard::lab::{Netns, output_within};
use leakguard_tests::Place;

use crate::way::Way;
use crate::{FAMILIES, asked, bench, redirect};

const PAGE: &str = "127.0.0.1:9853";
const LIMIT: Duration = Duration::from_secs(10);

/// How many calls of a family and a protocol the page for Prometheus says were redirected.
fn redirected(host: &Netns, family: &str, protocol: &str) -> Option<u64> {
    let mut curl = host.command("curl");
    curl.args(["-sS", &format!("http://{PAGE}/metrics")]);
    let output = output_within(curl, LIMIT).unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    let start =
        format!("leakguard_redirected_total{{family=\"{family}\",protocol=\"{protocol}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&start));
    value.map(|value| value.parse().unwrap())
}

#[test]
fn redirected_calls_are_counted_from_0_on() {
    let mut bench = bench();
    redirect(&mut bench, &["--metrics", PAGE]);
    let host = bench.topology.host();
    for (family, name) in FAMILIES.into_iter().enumerate() {
        for (protocol, way, calls) in [("udp", Way::SendMany, 2), ("tcp", Way::Tcp, 1)] {
            assert_eq!(
                redirected(host, name, protocol),
                Some(0),
                "{name} {protocol}"
            );
            let origin = bench.origin(Place::Host);
            let told = way.ask(origin, asked(family), asked(family)).unwrap();
            assert!(told.by_tunnel, "{told:?}");
            assert_eq!(
                redirected(host, name, protocol),
                Some(calls),
                "{name} {protocol}"
            );
        }
    }
}
