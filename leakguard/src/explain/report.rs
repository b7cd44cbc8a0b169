//! What is told of a packet, and of all of them. The JSON forms are a contract, to which fields may be added.

use std::collections::BTreeMap;
use std::fmt;

use leakguard_common::abi::Class;
use serde::Serialize;

use super::look::Look;
use crate::error::escape_control;
use crate::event::{InterfaceRef, Query};

/// The version of the forms.
pub(super) const VERSION: u32 = 1;

/// One packet.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The version of this form, 1.
    pub v: u32,
    /// `packet`.
    pub kind: &'static str,
    /// Its place in the capture, from 1 on.
    pub number: u64,
    /// `pass`, `drop` or `would_drop`; absent if no program was asked about it.
    pub verdict: Option<&'static str>,
    /// What it was judged as; `other` if as nothing of leakguard's business.
    pub reason: Option<&'static str>,
    /// Its class, whether or not that is blocked; absent if it has none.
    pub class: Option<&'static str>,
    /// The IP version.
    pub family: &'static str,
    /// The transport by name, or its number.
    pub protocol: String,
    /// Address, and port where there is one.
    pub source: String,
    /// Address, and port where there is one.
    pub destination: String,
    /// Bytes of the packet as it was captured, from the link layer on.
    pub length: u32,
    /// The first question, where the packet holds one that can be read.
    pub query: Option<Query>,
    /// The exit interface; absent if it would leave by none.
    pub interface: Option<InterfaceRef>,
    /// The hook that decides, or the first of those that let it go; absent if it meets none.
    pub hook: Option<&'static str>,
    /// What each hook says, in the order in which the packet meets them. After a drop it meets no other.
    pub hooks: Vec<HookRuling>,
    /// Why, as a sentence for people.
    pub why: String,
}

/// What one hook says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HookRuling {
    /// The hook.
    pub hook: &'static str,
    /// `pass`, `drop` or `would_drop`.
    pub verdict: &'static str,
    /// What the packet was judged as.
    pub reason: &'static str,
}

/// All packets, and what they were judged by.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The version of this form, 1.
    pub v: u32,
    /// `summary`.
    pub kind: &'static str,
    /// Whether each packet was read: the capture is whole.
    pub complete: bool,
    /// `enforced`: the tables that enforce now; `configuration`: what `leakguard run` would write.
    pub basis: &'static str,
    /// `enforce` or `observe`.
    pub mode: &'static str,
    /// `off`, `tunnel-down` or `always`.
    pub kill_switch: &'static str,
    /// Whether the kill switch was engaged.
    pub engaged: bool,
    /// `dns-only` or `block-off-tunnel`.
    pub ipv6: &'static str,
    /// The programs that were asked.
    pub programs: Vec<ProgramRef>,
    /// What has to be known to read this rightly, one sentence each.
    pub notes: Vec<String>,
    /// How many packets.
    pub packets: u64,
    /// How many of each kind.
    pub counts: Vec<Count>,
}

/// A program that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramRef {
    /// Its name.
    pub name: &'static str,
    /// The kernel's hash of its instructions, as `bpftool prog` shows it.
    pub tag: String,
    /// Whether what is attached has the same instructions; absent if nothing is attached.
    pub attached: Option<bool>,
}

/// Packets of which the same is to be said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// What they have in common.
    #[serde(flatten)]
    pub key: CountKey,
    /// How many.
    pub count: u64,
}

/// What packets have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct CountKey {
    /// As in [`Explanation`].
    pub verdict: Option<&'static str>,
    /// As in [`Explanation`].
    pub reason: Option<&'static str>,
    /// As in [`Explanation`].
    pub class: Option<&'static str>,
    /// As in [`Explanation`].
    pub family: &'static str,
    /// As in [`Explanation`].
    pub protocol: String,
    /// As in [`Explanation`].
    pub hook: Option<&'static str>,
    /// The exit interface's name.
    pub interface: Option<String>,
}

/// The kind of a packet's line.
const PACKET: &str = "packet";

impl Explanation {
    /// Of a packet that no program was asked about.
    pub(super) fn unjudged(
        number: u64,
        length: u32,
        look: Option<Look>,
        interface: Option<InterfaceRef>,
        why: impl Into<String>,
    ) -> Self {
        let look = look.unwrap_or_default();
        Self {
            v: VERSION,
            kind: PACKET,
            number,
            verdict: None,
            reason: None,
            class: look.class.map(Class::name),
            family: look.family.name(),
            protocol: look.protocol,
            source: look.source,
            destination: look.destination,
            length,
            query: look.query,
            interface,
            hook: None,
            hooks: Vec::new(),
            why: why.into(),
        }
    }
}

/// Counts packets.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(BTreeMap<CountKey, u64>);

impl Tally {
    pub(super) fn add(&mut self, explanation: &Explanation) {
        let Explanation {
            verdict,
            reason,
            class,
            family,
            protocol,
            hook,
            interface,
            ..
        } = explanation;
        let key = CountKey {
            verdict: *verdict,
            reason: *reason,
            class: *class,
            family,
            protocol: protocol.clone(),
            hook: *hook,
            interface: interface.as_ref().and_then(|found| found.name.clone()),
        };
        *self.0.entry(key).or_default() += 1;
    }

    pub(super) fn counts(&self) -> Vec<Count> {
        let count = |(key, &count): (&CountKey, &u64)| Count {
            key: key.clone(),
            count,
        };
        self.0.iter().map(count).collect()
    }
}

/// In place of what there is none of.
const NONE: &str = "-";

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            verdict,
            reason,
            protocol,
            source,
            destination,
            query,
            interface,
            hooks,
            why,
            ..
        } = self;
        write!(
            formatter,
            "{number} {} {} {protocol} {source} > {destination}",
            verdict.unwrap_or(NONE),
            reason.unwrap_or(NONE),
        )?;
        if let Some(Query { name, kind }) = query {
            write!(formatter, " {kind} {}", escape_control(name))?;
        }
        if let Some(interface) = interface {
            write!(
                formatter,
                " out {} ({})",
                named(interface.name.as_deref(), interface.index),
                interface.role
            )?;
        }
        for (number, HookRuling { hook, verdict, .. }) in hooks.iter().enumerate() {
            let separator = if number == 0 { " at " } else { ", " };
            write!(formatter, "{separator}{hook}: {verdict}")?;
        }
        write!(formatter, "; {}", escape_control(why))
    }
}

pub(super) fn named(name: Option<&str>, index: u32) -> String {
    name.map_or_else(|| format!("#{index}"), escape_control)
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            basis,
            mode,
            kill_switch,
            engaged,
            ipv6,
            programs,
            notes,
            packets,
            counts,
            ..
        } = self;
        let basis = match *basis {
            ENFORCED => "what is enforced now",
            _ => "the configuration: nothing of it is enforced by this",
        };
        writeln!(formatter, "judged by  {basis}")?;
        let engaged = if *engaged { ", engaged" } else { "" };
        writeln!(
            formatter,
            "mode       {mode}; kill switch {kill_switch}{engaged}; ipv6 {ipv6}"
        )?;
        for ProgramRef {
            name,
            tag,
            attached,
        } in programs
        {
            let attached = match attached {
                Some(true) => "the same as is attached",
                Some(false) => "NOT the same as is attached",
                None => "none is attached",
            };
            writeln!(formatter, "program    {name}, tag {tag}: {attached}")?;
        }
        for note in notes {
            writeln!(formatter, "note       {}", escape_control(note))?;
        }
        writeln!(
            formatter,
            "{:<10} {:<11} {:<8} {:<7} {:<8} {:<10} {:<15} {:>8}",
            "verdict", "reason", "class", "family", "protocol", "hook", "interface", "packets"
        )?;
        for Count { key, count } in counts {
            let CountKey {
                verdict,
                reason,
                class,
                family,
                protocol,
                hook,
                interface,
            } = key;
            let word = |word: Option<&'static str>| word.unwrap_or(NONE);
            writeln!(
                formatter,
                "{:<10} {:<11} {:<8} {family:<7} {protocol:<8} {:<10} {:<15} {count:>8}",
                word(*verdict),
                word(*reason),
                word(*class),
                word(*hook),
                interface
                    .as_deref()
                    .map_or_else(|| NONE.to_owned(), escape_control),
            )?;
        }
        write!(formatter, "{packets} packets")
    }
}

/// The basis that says what is so.
pub(super) const ENFORCED: &str = "enforced";
/// The basis that says what would be so.
pub(super) const CONFIGURATION: &str = "configuration";
