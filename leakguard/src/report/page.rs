//! The page: one HTML file without scripts and without anything from elsewhere. maud escapes all that is put in.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{counted, grouped, timeline};
use super::collect::{Gap, NAMED, NOTICES, Report, Told, Unreadable};
use crate::error::escape_control;
use crate::tally::{Counted, Tally};

/// How many rows the table of processes has, and each of the others.
const PROCESSES: usize = 25;
const ROWS: usize = 12;

/// Nothing may be fetched and nothing may run; the style sheet is in the page.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const STYLE: &str = include_str!("style.css");

/// Renders the page.
pub(super) fn page(report: &Report, written: Timestamp) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                meta name="color-scheme" content="light dark";
                title { "leakguard report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "DNS off the tunnel" }
                    p class="muted" { (period(report)) }
                }
                main {
                    (figures(report))
                    (warnings(report))
                    section {
                        h2 { "When" }
                        @match report.timeline.drawn() {
                            Some(drawn) => (timeline(&drawn, &report.series)),
                            None => p class="muted" { "No packets." },
                        }
                    }
                    (processes(&report.processes))
                    div class="grid" {
                        (ranking("Names asked for", &report.names))
                        (ranking("Destinations", &report.destinations))
                        (ranking("Classes", &report.classes))
                        (ranking("Verdicts", &report.verdicts))
                        (ranking("Users", &report.users))
                        (ranking("Units", &report.units))
                        (ranking("Containers", &report.containers))
                        (ranking("Interfaces", &report.interfaces))
                    }
                    (notices(report))
                    (sources(report))
                }
                footer class="muted" {
                    "leakguard " (env!("CARGO_PKG_VERSION")) ", written " (written.strftime("%F %T").to_string())
                    " UTC. Packets are counted with those that got no event of their own. What the kernel counted exactly is in "
                    code { "leakguard status" } "."
                }
            }
        }
    }
}

fn period(report: &Report) -> String {
    match (report.first, report.last) {
        (Some(first), Some(last)) => format!(
            "{} to {} UTC",
            first.strftime("%F %T"),
            last.strftime("%F %T")
        ),
        _ => "No times in these files.".to_owned(),
    }
}

fn figures(report: &Report) -> Markup {
    let packets = report.packets.saturating_add(report.suppressed);
    let figure = |id: &str, name: &str, value: u64| {
        html! {
            div class="figure" { div class="value" id=(id) { (grouped(value)) } div class="muted" { (name) } }
        }
    };
    let notices = report.notice_kinds.values().sum();
    html! {
        section class="figures" {
            (figure("packets", "packets", packets))
            (figure("events", "events", report.events))
            (figure("suppressed", "without an event", report.suppressed))
            (figure("processes", "senders", report.processes.len() as u64))
            (figure("names", "names", report.names.len() as u64))
            (figure("notices", "notices", notices))
        }
    }
}

/// What a reader has to know before trusting the numbers.
fn warnings(report: &Report) -> Markup {
    let Report {
        gaps,
        lost,
        missed,
        torn,
        unreadable,
        ..
    } = report;
    let sound = [gaps, missed, torn, unreadable]
        .into_iter()
        .all(|count| *count == 0);
    html! {
        @if sound {
            p class="note sound" id="complete" { "The record is complete: no event is missing between its first and its last, and every line was read." }
        } @else {
            div class="note" id="incomplete" {
                @if *gaps > 0 {
                    p { b id="lost" { (counted(*lost, "event is", "events are")) } " missing from the record, in " (counted(*gaps, "gap", "gaps")) " of their numbers." }
                    ul {
                        @for Gap { file, line, missing } in &report.named_gaps {
                            li { (grouped(*missing)) " before line " (line) " of " (shown(file)) }
                        }
                    }
                }
                @if *missed > 0 {
                    p { b { (counted(*missed, "event was", "events were")) } " missed by a reader that was too slow." }
                }
                @if *torn > 0 {
                    p { b { (counted(*torn, "time", "times")) } " a crash has left half a line in an audit log." }
                }
                @if *unreadable > 0 {
                    p { b id="unreadable" { (counted(*unreadable, "line", "lines")) } " could not be read, and what they said is not counted." }
                    ul {
                        @for Unreadable { file, line, why } in &report.named {
                            li { "line " (line) " of " (shown(file)) ": " (why) }
                        }
                        @if *unreadable > NAMED as u64 { li { "and so on" } }
                    }
                }
            }
        }
    }
}

fn processes(tally: &Tally<(String, String), super::collect::Sender>) -> Markup {
    let top = tally.top(PROCESSES);
    let most = most(&top);
    html! {
        section {
            h2 { "Who" }
            @if top.is_empty() { p class="muted" { "Nobody." } }
            @else {
                div class="wide" {
                    table id="who" {
                        thead { tr {
                            th { "process" } th { "user" } th class="number" { "packets" } th {} th class="number" { "events" }
                            th { "unit or container" } th { "last asked for" } th { "executable" }
                        } }
                        tbody {
                            @for ((name, user), counted) in &top {
                                tr {
                                    td class="name" {
                                        (shown(name))
                                        @if let Some(pid) = counted.detail.pid { span class="muted" { " " (pid) } }
                                    }
                                    td { (shown(user)) }
                                    td class="number" { (grouped(counted.packets)) }
                                    td class="bar" { (bar(counted.packets, most)) }
                                    td class="number muted" { (grouped(counted.events)) }
                                    td { (shown(&counted.detail.place)) }
                                    td { (shown(&counted.detail.last)) }
                                    td class="muted" { (shown(&counted.detail.exe)) }
                                }
                            }
                        }
                    }
                }
                (rest(tally, top.len()))
            }
        }
    }
}

fn ranking(title: &str, tally: &Tally<String>) -> Markup {
    let top = tally.top(ROWS);
    let most = most(&top);
    html! {
        section {
            h2 { (title) }
            @if top.is_empty() { p class="muted" { "None." } }
            @else {
                table {
                    tbody {
                        @for (name, counted) in &top {
                            tr {
                                td class="name" { (shown(name)) }
                                td class="bar" { (bar(counted.packets, most)) }
                                td class="number" { (grouped(counted.packets)) }
                            }
                        }
                    }
                }
                (rest(tally, top.len()))
            }
        }
    }
}

/// What a table does not show.
fn rest<K: std::hash::Hash + Eq + Clone + Ord, D>(tally: &Tally<K, D>, shown: usize) -> Markup {
    let more = tally.len().saturating_sub(shown);
    html! {
        @if tally.set_aside() > 0 {
            p class="muted" {
                "There are too many to keep all: " (grouped(tally.set_aside())) " events of rare ones were set aside. None that ever had more than "
                (grouped(tally.least())) " packets is among those."
            }
        } @else if more > 0 {
            p class="muted" { "and " (grouped(more as u64)) " more" }
        }
    }
}

fn notices(report: &Report) -> Markup {
    html! {
        section {
            h2 { "What the agent told" }
            @if report.notices.is_empty() { p class="muted" { "Nothing." } }
            @else {
                p {
                    @for (number, (kind, count)) in report.notice_kinds.iter().enumerate() {
                        @if number > 0 { ", " } (shown(kind)) " " (grouped(*count))
                    }
                }
                div class="wide" {
                    table id="told" {
                        tbody {
                            @for Told { time, kind, subject, message } in &report.notices {
                                tr {
                                    td class="muted time" { (shown(time.get(..19).unwrap_or(time)).replace('T', " ")) }
                                    td { span class="tag" { (shown(kind)) } }
                                    td { (shown(subject)) }
                                    td { (shown(message)) }
                                }
                            }
                        }
                    }
                }
                @if report.notices.len() == NOTICES { p class="muted" { "Only the last " (NOTICES) " are listed." } }
            }
        }
    }
}

fn sources(report: &Report) -> Markup {
    html! {
        section {
            h2 { "From what" }
            ul {
                @for file in &report.files { li { (shown(file)) } }
            }
            p class="muted" {
                (counted(report.lines, "line", "lines")) ", of " (counted(report.runs, "run", "runs")) " of the agent. A run counts its events from 1; numbers that are missing are events that did not get into these files."
            }
        }
    }
}

fn most<K, D>(top: &[(&K, &Counted<D>)]) -> u64 {
    top.first().map_or(1, |(_, counted)| counted.packets.max(1))
}

/// A bar as SVG: a width in a style attribute would be another thing to allow.
fn bar(packets: u64, most: u64) -> Markup {
    let tenths = u128::from(packets) * 1000 / u128::from(most.max(1));
    let width = format!("{}.{}", tenths / 10, tenths % 10);
    html! {
        svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            rect class="track" width="100" height="8" {}
            rect class="s0" width=(width) height="8" {}
        }
    }
}

/// A text from outside as it is shown: control characters can be seen, and none turns its line around.
fn shown(text: &str) -> String {
    escape_control(text)
        .chars()
        .fold(String::new(), |mut text, character| {
            if matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
            {
                text.extend(character.escape_unicode());
            } else {
                text.push(character);
            }
            text
        })
}
