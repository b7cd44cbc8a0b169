//! What `top` shows: a picture of the model, at any size of the terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};

use super::model::{Model, Snapshot, deed, offender};
use crate::error::escape_control;
use crate::event::Entry;
use crate::status::{Level, Netfilter, Status};
use leakguard_common::abi::Verdict;

/// From this size on there is room for tables side by side.
const WIDE: u16 = 60;
const HIGH: u16 = 16;

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws the model.
pub fn draw(model: &Model, frame: &mut Frame<'_>) {
    let head = head(model);
    let [header, body, footer] = Layout::vertical([
        Constraint::Length(u16::try_from(head.len()).unwrap_or(u16::MAX)),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head), header);
    frame.render_widget(Paragraph::new(keys(model)), footer);
    if body.width >= WIDE && frame.area().height >= HIGH {
        draw_wide(model, frame, body);
    } else {
        draw_narrow(model, frame, body);
    }
}

fn draw_wide(model: &Model, frame: &mut Frame<'_>, body: Rect) {
    let interfaces = model
        .snapshot()
        .map_or(0, |snapshot| snapshot.status.interfaces.len());
    let rows = u16::try_from(model.classes().len().max(interfaces)).unwrap_or(u16::MAX);
    let tables = rows.saturating_add(3).max(6).min(body.height * 2 / 5);
    let [tables, offenders, recent] = Layout::vertical([
        Constraint::Length(tables),
        Constraint::Fill(2),
        Constraint::Fill(3),
    ])
    .areas(body);
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(55), Constraint::Fill(1)]).areas(tables);
    draw_classes(model, frame, left);
    draw_interfaces(model, frame, right);
    draw_offenders(model, frame, offenders);
    draw_recent(model, frame, recent);
}

fn draw_narrow(model: &Model, frame: &mut Frame<'_>, body: Rect) {
    let rows = u16::try_from(model.classes().len()).unwrap_or(u16::MAX);
    let classes = rows.saturating_add(1).clamp(1, (body.height / 2).max(1));
    let [classes, recent] =
        Layout::vertical([Constraint::Length(classes), Constraint::Fill(1)]).areas(body);
    frame.render_widget(class_table(model), classes);
    frame.render_widget(Paragraph::new(events(model, recent.height)), recent);
}

/// The first lines: how much is enforced, what keeps it from more, and the totals.
fn head(model: &Model) -> Vec<Line<'static>> {
    let Some(Snapshot { status, agent, .. }) = model.snapshot() else {
        return vec![Line::from("leakguard top: reading what is enforced …")];
    };
    let level = Span::styled(
        format!("level {}", status.level.name()),
        BOLD.fg(match status.level {
            Level::Full => Color::Green,
            Level::Reduced => Color::Yellow,
            Level::None => Color::Red,
        }),
    );
    let mut first = vec![level];
    first.extend(status.mode.map(|mode| Span::raw(format!("  mode {mode}"))));
    if let Some(switch) = &status.kill_switch {
        let text = format!("  kill switch {}", switch.mode);
        first.push(if switch.engaged {
            Span::styled(format!("{text} ENGAGED"), BOLD.fg(Color::Red))
        } else {
            Span::raw(text)
        });
    }
    first.push(match agent {
        Some((pid, _)) => Span::raw(format!("  agent {pid}")),
        None => Span::styled("  no agent", Style::new().fg(Color::Yellow)),
    });
    let second = match (model.trouble(), status.causes.first(), agent) {
        (Some(trouble), ..) => Span::styled(escape_control(trouble), Style::new().fg(Color::Red)),
        (None, Some(cause), _) => {
            Span::styled(escape_control(cause), Style::new().fg(Color::Yellow))
        }
        (None, None, None) => Span::styled(
            "read-only, from the kernel: no agent runs, so no events come, and no names",
            Style::new().fg(Color::Yellow),
        ),
        (None, None, Some(_)) => Span::raw(""),
    };
    let mut lines = vec![Line::from(first)];
    if !second.content.is_empty() {
        lines.push(Line::from(second));
    }
    lines.push(Line::from(totals(model, status)));
    lines
}

fn totals(model: &Model, status: &Status) -> Vec<Span<'static>> {
    let rate: f64 = model
        .classes()
        .iter()
        .map(|(_, row)| row.stopped_rate)
        .sum();
    let mut spans = vec![
        Span::styled(
            format!("dropped {}", short(status.total(Verdict::Drop))),
            BOLD,
        ),
        Span::raw(format!(" ({}/s)", per_second(rate))),
    ];
    let Netfilter {
        routed,
        bridged,
        egress,
    } = status.netfilter;
    let caught: u64 = [routed, bridged, egress].into_iter().flatten().sum();
    if caught > 0 {
        spans.push(Span::raw(format!(" +{} by nftables", short(caught))));
    }
    let observed = status.total(Verdict::WouldDrop);
    if observed > 0 {
        spans.push(Span::raw(format!("  would drop {}", short(observed))));
    }
    let lost = status.events.lost;
    let told = format!("  events {}  lost ", short(status.events.submitted));
    spans.push(Span::raw(told));
    spans.push(if lost > 0 {
        Span::styled(short(lost), BOLD.fg(Color::Red))
    } else {
        Span::raw("0")
    });
    spans.push(Span::raw(format!(
        "  suppressed {}",
        short(model.suppressed())
    )));
    if model.missed() > 0 {
        spans.push(Span::raw(format!(
            "  missed here {}",
            short(model.missed())
        )));
    }
    spans
}

fn keys(model: &Model) -> Line<'static> {
    let key = |name: &'static str| Span::styled(name, BOLD.add_modifier(Modifier::REVERSED));
    let mut spans = vec![
        key(" q "),
        Span::raw(" quit "),
        key(" p "),
        Span::raw(if model.paused() { " go on " } else { " pause " }),
        key(" c "),
        Span::raw(" clear "),
        key(" +/- "),
        Span::raw(format!(" every {:?}", model.interval())),
    ];
    if model.paused() {
        spans.push(Span::styled("  PAUSED", BOLD.fg(Color::Yellow)));
    }
    Line::from(spans)
}

fn draw_classes(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let block = Block::bordered().title(" Classes ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let rows = u16::try_from(model.classes().len()).unwrap_or(u16::MAX);
    // The curve takes what the table leaves.
    let [table, curve] = Layout::vertical([
        Constraint::Length(rows.saturating_add(1)),
        Constraint::Fill(1),
    ])
    .areas(inner);
    frame.render_widget(class_table(model), table);
    if curve.height >= 1 {
        let width = usize::from(curve.width);
        let skipped = model.history().len().saturating_sub(width);
        let rates: Vec<u64> = model.history().skip(skipped).collect();
        let sparkline = Sparkline::default()
            .data(rates)
            .style(Style::new().fg(Color::Red));
        frame.render_widget(sparkline, curve);
    }
}

fn class_table(model: &Model) -> Table<'static> {
    let rows = model.classes().into_iter().map(|(class, row)| {
        let style = if row.stopped_rate > 0.0 {
            Style::new().fg(Color::Red)
        } else {
            Style::new()
        };
        Row::new([
            Cell::from(class),
            number(per_second(row.stopped_rate)),
            number(short(row.stopped)),
            number(short(row.passed)),
        ])
        .style(style)
    });
    let header = ["class", "stopped/s", "stopped", "passed"];
    Table::new(
        rows,
        [
            Constraint::Min(11),
            Constraint::Length(9),
            Constraint::Length(8),
            Constraint::Length(8),
        ],
    )
    .header(
        Row::new(header.into_iter().enumerate().map(|(column, name)| {
            if column == 0 {
                Cell::from(name)
            } else {
                number(name.to_owned())
            }
        }))
        .style(DIM),
    )
}

fn number(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

fn draw_interfaces(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let mut interfaces: Vec<_> = model
        .snapshot()
        .map(|snapshot| snapshot.status.interfaces.iter().collect())
        .unwrap_or_default();
    // What matters first: tunnels and uplinks, and what is up.
    interfaces.sort_by_key(|interface| (interface.role == "local", !interface.up));
    let total = interfaces.len();
    let rows = interfaces.into_iter().map(|interface| {
        let style = match (interface.role, interface.tc) {
            ("tunnel", _) => Style::new().fg(Color::Green),
            ("uplink", "absent" | "behind") => Style::new().fg(Color::Red),
            _ => Style::new(),
        };
        Row::new([
            Cell::from(escape_control(&interface.name)),
            Cell::from(interface.role),
            Cell::from(if interface.up { "up" } else { "down" }),
            Cell::from(interface.tc),
        ])
        .style(style)
    });
    let table = Table::new(
        rows,
        [
            Constraint::Min(8),
            Constraint::Length(6),
            Constraint::Length(4),
            Constraint::Length(8),
        ],
    )
    .header(Row::new(["interface", "role", "link", "tc"]).style(DIM))
    .block(Block::bordered().title(format!(" Interfaces ({total}) ")));
    frame.render_widget(table, area);
}

fn draw_offenders(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let wide = area.width >= 100;
    let offenders = model.offenders();
    let height = usize::from(area.height.saturating_sub(3));
    let rows = offenders.top(height).into_iter().map(|(who, counted)| {
        let pid = counted
            .detail
            .pid
            .map_or_else(String::new, |pid| pid.to_string());
        let mut cells = vec![
            number(short(counted.packets)),
            number(pid),
            Cell::from(escape_control(&who.name)),
            Cell::from(escape_control(&who.user)),
            Cell::from(escape_control(&who.place)),
            Cell::from(escape_control(&counted.detail.target)),
        ];
        if wide {
            cells.push(Cell::from(escape_control(&counted.detail.reason)));
        }
        Row::new(cells)
    });
    let mut widths = vec![
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(15),
        Constraint::Length(8),
        Constraint::Fill(2),
        Constraint::Fill(3),
    ];
    let mut header = vec![
        number("packets".into()),
        number("pid".into()),
        Cell::from("process"),
        Cell::from("user"),
        Cell::from("unit, container"),
        Cell::from("last asked for"),
    ];
    if wide {
        widths.push(Constraint::Length(11));
        header.push(Cell::from("class"));
    }
    let title = match offenders.set_aside() {
        0 => format!(" Who ({}) ", offenders.len()),
        _ => format!(" Who (the most frequent of more than {}) ", offenders.len()),
    };
    let table = Table::new(rows, widths)
        .header(Row::new(header).style(DIM))
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn draw_recent(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let block = Block::bordered().title(" Recent events, newest first ");
    let inner = block.inner(area);
    frame.render_widget(
        Paragraph::new(events(model, inner.height)).block(block),
        area,
    );
}

fn events(model: &Model, height: u16) -> Vec<Line<'static>> {
    let lines = model.recent().rev().take(usize::from(height)).map(|entry| {
        let style = match entry {
            Entry::Packet(_) | Entry::Suppressed(_) => Style::new(),
            Entry::Notice(_) => Style::new().fg(Color::Cyan),
        };
        Line::styled(escape_control(&in_short(entry)), style)
    });
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() && model.snapshot().is_some() {
        return vec![Line::styled("none yet", DIM)];
    }
    lines
}

/// An event with what people look for first, so that it is not what a narrow line cuts off.
fn in_short(entry: &Entry) -> String {
    let event = match entry {
        Entry::Packet(event) => event,
        Entry::Suppressed(suppressed) => return suppressed.to_string(),
        Entry::Notice(notice) => return notice.to_string(),
    };
    let who = offender(event);
    let deed = deed(event);
    let mut words = vec![
        event.time.get(11..19).unwrap_or(&event.time).to_owned(),
        event.verdict.clone(),
        event.reason.clone(),
    ];
    words.push(match deed.pid {
        Some(pid) => format!("{}[{pid}]", who.name),
        None => who.name,
    });
    words.extend(event.option.clone());
    if let Some(query) = &event.query {
        words.push(format!("{} {}", query.kind, query.name));
    }
    if event.option.is_none() {
        words.push(format!("> {}", event.destination));
    }
    words.extend(event.interface.name.clone());
    if !who.place.is_empty() {
        words.push(format!("({})", who.place));
    }
    words.join(" ")
}

/// A number in at most six columns.
fn short(count: u64) -> String {
    match count {
        0..1_000_000 => count.to_string(),
        1_000_000..1_000_000_000 => format!("{}.{}M", count / 1_000_000, count / 100_000 % 10),
        _ => format!("{}.{}G", count / 1_000_000_000, count / 100_000_000 % 10),
    }
}

fn per_second(rate: f64) -> String {
    if rate == 0.0 {
        "0".to_owned()
    } else if rate < 10.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}
