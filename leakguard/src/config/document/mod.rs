//! The TOML document: its keys, and where in the text something is wrong.

use std::net::IpAddr;
use std::ops::Range;

use leakguard_common::abi::{ClassSet, MAX_SPARED, Role};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use self::kill_switch::KillSwitch;
use self::outputs::{Events, Metrics};
use self::resolver::Resolver;
use self::shape::{List, PortNumber, Table, unplaced};
use self::verify::Verify;
use super::{
    Config, DohResolvers, ExtraPorts, Fragments, Ipv6Policy, Layer, Mode, NetlinkBuffer, OnExit,
    PacketSockets, Position, Preflight, Problem, Redirect, RuleError, Spared, check_role,
    class_named,
};
use crate::interfaces::Pattern;

mod kill_switch;
mod outputs;
mod resolver;
mod shape;
#[cfg(test)]
mod tests;
mod verify;

/// The keys; what a file leaves out is `None`.
///
/// Names are read as text and looked up afterwards, because only then an error can point at the very element.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    mode: Option<Spanned<String>>,
    on_exit: Option<Spanned<String>>,
    preflight: Option<Spanned<String>>,
    interfaces: Table<Interfaces>,
    dns: Table<Dns>,
    kill_switch: Table<KillSwitch>,
    ipv6: Table<Ipv6>,
    hardening: Table<Hardening>,
    events: Table<Events>,
    metrics: Table<Metrics>,
    resolver: Table<Resolver>,
    verify: Table<Verify>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Interfaces {
    tunnel: Option<List<String>>,
    local: Option<List<String>>,
    uplink: Option<List<String>>,
    netlink_buffer: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Dns {
    block: Option<Spanned<List<String>>>,
    ports: Option<List<PortNumber>>,
    doh_resolvers: Option<Spanned<String>>,
    fragments: Option<Spanned<String>>,
    report_shaped: Option<bool>,
    redirect: Option<List<String>>,
    redirect_except: Option<List<String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Ipv6 {
    policy: Option<Spanned<String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Hardening {
    packet_sockets: Option<Spanned<String>>,
}

/// What is wrong with a text, and where.
#[derive(Debug)]
pub(super) struct ParseError {
    pub(super) position: Position,
    pub(super) problem: Problem,
}

/// A problem and the bytes it is about.
type Placed = (Range<usize>, Problem);

/// Reads the text of a file.
pub(super) fn parse(text: &str) -> Result<Layer, ParseError> {
    toml::from_str::<Document>(text)
        .map_err(|error| {
            let message = error.message().replace('\n', "; ");
            (error.span().unwrap_or(0..0), Problem::Syntax(message))
        })
        .and_then(Document::into_layer)
        .map_err(|(span, problem)| ParseError {
            position: Position::after(text.get(..span.start).unwrap_or_default()),
            problem,
        })
}

/// Writes a configuration as a file.
pub(super) fn render(config: &Config) -> Result<String, toml::ser::Error> {
    let patterns =
        |patterns: &[Pattern]| Some(List::unplaced(patterns.iter().map(Pattern::to_string)));
    let block = List::unplaced(
        config
            .blocked_classes()
            .map(|class| class.name().to_owned()),
    );
    let ports = config
        .extra_ports()
        .iter()
        .map(|&port| PortNumber(port.into()));
    toml::to_string(&Document {
        mode: Some(unplaced(config.mode().name().to_owned())),
        on_exit: Some(unplaced(config.on_exit().name().to_owned())),
        preflight: Some(unplaced(config.preflight().name().to_owned())),
        interfaces: Table(Interfaces {
            tunnel: patterns(config.tunnel()),
            local: patterns(config.local()),
            uplink: patterns(config.uplink()),
            netlink_buffer: i64::try_from(config.netlink_buffer().bytes())
                .ok()
                .map(unplaced),
        }),
        dns: Table(Dns {
            block: Some(unplaced(block)),
            ports: Some(List::unplaced(ports)),
            doh_resolvers: Some(unplaced(config.doh_resolvers().text())),
            fragments: Some(unplaced(config.fragments().name().to_owned())),
            report_shaped: Some(config.report_shaped()),
            redirect: Some(List::unplaced(
                config
                    .redirect()
                    .addresses()
                    .map(|address| address.to_string()),
            )),
            redirect_except: Some(List::unplaced(
                config.spared().iter().map(Spared::to_string),
            )),
        }),
        kill_switch: Table(KillSwitch::of(config.kill_switch())),
        ipv6: Table(Ipv6 {
            policy: Some(unplaced(config.ipv6().name().to_owned())),
        }),
        hardening: Table(Hardening {
            packet_sockets: Some(unplaced(config.packet_sockets().name().to_owned())),
        }),
        events: Table(Events::of(config.events(), config.rate_per_key)),
        metrics: Table(Metrics::of(config.metrics())),
        resolver: Table(Resolver::of(config.resolver())),
        verify: Table(Verify::of(config.verify())),
    })
}

impl Document {
    fn into_layer(self) -> Result<Layer, Placed> {
        let Self {
            mode,
            on_exit,
            preflight,
            interfaces,
            dns,
            kill_switch: Table(kill_switch),
            ipv6: Table(Ipv6 { policy }),
            hardening: Table(Hardening { packet_sockets }),
            events: Table(events),
            metrics: Table(metrics),
            resolver: Table(resolver),
            verify: Table(verify),
        } = self;
        let Table(Interfaces {
            tunnel,
            local,
            uplink,
            netlink_buffer,
        }) = interfaces;
        let Table(Dns {
            block,
            ports,
            doh_resolvers,
            fragments,
            report_shaped,
            redirect,
            redirect_except,
        }) = dns;

        let tunnel = tunnel.map(|list| patterns(&list, |_| Ok(()))).transpose()?;
        let tunnels = tunnel.as_deref().unwrap_or_default();
        let others = |role| move |pattern: &Pattern| check_role(role, pattern, tunnels);
        Ok(Layer {
            mode: mode
                .map(|name| placed(&name, |name| Mode::named(name)))
                .transpose()?,
            on_exit: on_exit
                .map(|name| placed(&name, |name| OnExit::named(name)))
                .transpose()?,
            preflight: preflight
                .map(|name| placed(&name, |name| Preflight::named(name)))
                .transpose()?,
            local: local
                .map(|list| patterns(&list, others(Role::Local)))
                .transpose()?,
            uplink: uplink
                .map(|list| patterns(&list, others(Role::Uplink)))
                .transpose()?,
            netlink_buffer: netlink_buffer
                .map(|bytes| placed(&bytes, |&bytes| NetlinkBuffer::new(bytes)))
                .transpose()?,
            block: block.map(|list| classes(&list)).transpose()?,
            ports: ports.map(|list| extra_ports(&list)).transpose()?,
            doh_resolvers: doh_resolvers
                .map(|text| placed(&text, |text| DohResolvers::named(text)))
                .transpose()?,
            fragments: fragments
                .map(|name| placed(&name, |name| Fragments::named(name)))
                .transpose()?,
            report_shaped,
            redirect: redirect.map(|list| targets(&list)).transpose()?,
            spared: redirect_except.map(|list| spared(&list)).transpose()?,
            kill_switch: kill_switch.into_layer()?,
            ipv6: policy
                .map(|name| placed(&name, |name| Ipv6Policy::named(name)))
                .transpose()?,
            packet_sockets: packet_sockets
                .map(|name| placed(&name, |name| PacketSockets::named(name)))
                .transpose()?,
            events: events.into_layer()?,
            metrics: metrics.into_layer()?,
            resolver: resolver.into_layer()?,
            verify: verify.into_layer()?,
            tunnel,
        })
    }
}

/// Applies a rule to a value and, if it breaks it, says where the value stands.
fn placed<T, U, E: Into<Problem>>(
    value: &Spanned<T>,
    rule: impl FnOnce(&T) -> Result<U, E>,
) -> Result<U, Placed> {
    rule(value.get_ref()).map_err(|error| (value.span(), error.into()))
}

fn patterns(
    list: &List<String>,
    rule: impl Fn(&Pattern) -> Result<(), RuleError>,
) -> Result<Vec<Pattern>, Placed> {
    list.0
        .iter()
        .map(|text| {
            let pattern = placed(text, |text| text.parse::<Pattern>())?;
            placed(text, |_| rule(&pattern))?;
            Ok(pattern)
        })
        .collect()
}

fn classes(list: &Spanned<List<String>>) -> Result<ClassSet, Placed> {
    let names = &list.get_ref().0;
    if names.is_empty() {
        return Err((list.span(), RuleError::NothingBlocked.into()));
    }
    names
        .iter()
        .map(|name| placed(name, |name| class_named(name)))
        .collect::<Result<ClassSet, _>>()
}

fn targets(list: &List<String>) -> Result<Vec<IpAddr>, Placed> {
    let mut redirect = Redirect::default();
    for text in &list.0 {
        placed(text, |text| {
            let address = text.parse().ok();
            let refused = || RuleError::Address { text: text.clone() };
            redirect.add(address.ok_or_else(refused)?)
        })?;
    }
    Ok(redirect.addresses().collect())
}

/// [`MAX_SPARED`] as a length.
const MOST_SPARED: usize = MAX_SPARED as usize;

fn spared(list: &List<String>) -> Result<Vec<Spared>, Placed> {
    let mut spared = Vec::new();
    for text in &list.0 {
        placed(text, |text| {
            if spared.len() >= MOST_SPARED {
                return Err(RuleError::TooManySpared);
            }
            spared.push(Spared::named(text)?);
            Ok(())
        })?;
    }
    Ok(spared)
}

fn extra_ports(list: &List<PortNumber>) -> Result<ExtraPorts, Placed> {
    let mut ports = ExtraPorts::default();
    for number in &list.0 {
        placed(number, |&PortNumber(number)| ports.add(number))?;
    }
    Ok(ports)
}
