//! Every form of DNS by every way out: each row of the table that `cargo xtask test --report` prints is an assertion.
//!
//! A row is a form of the packet, a path, a family and a class. Its probes are sent twice, without leakguard, when all
//! must be seen outside, and with it, when none may be. The second table is of traffic that must pass, in the same forms
//! by the same paths; there all must be seen both times.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod call;
mod connection;
mod encapsulated;
mod form;
mod later;
mod path;
mod probe;
mod round;
mod shape;
mod stage;
mod way;

use form::{FORMS, Form};
use probe::{DNS, OTHER};
use round::{Arms, Expected, Round, Stage, Witness, conclude};

/// The forms that fulfil a condition.
fn forms(condition: impl Fn(&Form) -> bool) -> Vec<Form> {
    FORMS.into_iter().filter(condition).collect()
}

/// Sends DNS and everything else, without leakguard and with it, and compares.
fn compare(part: &str, stage: &mut dyn Stage, witness: &mut dyn Witness) {
    let with_ports = forms(|form| form.shape.has_ports());
    let well_formed = forms(|form| form.shape.is_well_formed());
    let [without, with] = [false, true].map(|protected| {
        if protected {
            stage.protect();
        }
        let mut dns = Arms::new(stage, &DNS);
        let mut other = Arms::new(stage, &OTHER);
        [
            Round::send(&mut dns, stage, witness, Expected::Blocked, &with_ports),
            Round::send(&mut other, stage, witness, Expected::Passed, &well_formed),
        ]
    });
    conclude(part, &without, &with);
}

#[test]
fn no_form_of_dns_leaves_by_an_ethernet_uplink_and_everything_else_does() {
    let (mut stage, mut wire) = stage::Uplink::new();
    compare("ethernet", &mut stage, &mut wire);
}

#[test]
fn no_form_of_dns_leaves_by_a_bridged_uplink_and_everything_else_does() {
    let (mut stage, mut wire) = stage::Bridge::new();
    compare("bridge", &mut stage, &mut wire);
}

#[test]
fn no_form_of_dns_leaves_by_a_tun_uplink_and_everything_else_does() {
    let (mut stage, mut far_end) = stage::Layer3::new("up0");
    compare("tun", &mut stage, &mut far_end);
}

#[test]
fn every_form_of_everything_goes_through_the_tunnel() {
    let (mut stage, mut far_end) = stage::Layer3::new(leakguard_tests::Bench::TUNNEL);
    let flows = [&DNS[..], &OTHER].concat();
    let [without, with] = [false, true].map(|protected| {
        if protected {
            stage.protect();
        }
        let mut arms = Arms::new(&stage, &flows);
        Round::send(&mut arms, &stage, &mut far_end, Expected::Passed, &FORMS)
    });
    conclude("tunnel", &[without], &[with]);
}

#[test]
fn sockets_from_before_send_no_dns_any_more() {
    let (mut stage, mut wire) = stage::Uplink::new();
    let plain = forms(|form| form.name == "plain");
    let mut dns = Arms::from_before(&stage, &DNS);
    let mut other = Arms::from_before(&stage, &OTHER);
    let [without, with] = [false, true].map(|protected| {
        if protected {
            stage.protect();
        }
        [
            Round::send(&mut dns, &stage, &mut wire, Expected::Blocked, &plain),
            Round::send(&mut other, &stage, &mut wire, Expected::Passed, &plain),
        ]
    });
    conclude("before", &without, &with);
}
