//! The chart of a report: stacked columns over time, as SVG.

use jiff::Timestamp;
use maud::{Markup, html};

use super::timeline::{Drawn, SERIES};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 26.0;
const TOP: f64 = 8.0;

/// About so many times are written below the chart.
const TICKS: usize = 8;

/// Draws the timeline; `names` are those of the series.
#[expect(
    clippy::cast_precision_loss,
    reason = "a pixel is far coarser than what is lost"
)]
pub(super) fn timeline(drawn: &Drawn, names: &[String]) -> Markup {
    let Drawn {
        start,
        width,
        count,
        counts,
    } = drawn;
    let most = counts.iter().map(|(_, counts)| sum(counts)).max();
    let scale = nice(most.unwrap_or(1).max(1));
    let (plot_width, plot_height) = (WIDTH - LEFT, HEIGHT - BOTTOM - TOP);
    let column = plot_width / *count as f64;
    let x = |interval: usize| LEFT + interval as f64 * column;
    let y = |packets: u64| TOP + plot_height * (1.0 - packets as f64 / scale as f64);
    let gap = if column > 4.0 { 1.0 } else { 0.0 };
    let every = count.div_ceil(TICKS).max(1);
    html! {
        svg class="timeline" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img"
            aria-label=(format!("Packets every {}", length(*width))) {
            @for part in 0..=4_u64 {
                @let value = scale * part / 4;
                line class="grid" x1=(LEFT) x2=(WIDTH) y1=(round(y(value))) y2=(round(y(value))) {}
                text class="tick" x=(LEFT - 8.0) y=(round(y(value) + 4.0)) text-anchor="end" {
                    (grouped(value))
                }
            }
            @for (interval, counts) in counts {
                g {
                    title {
                        (at(start.saturating_add(*width * i64::try_from(*interval).unwrap_or_default()), "%F %T"))
                        " UTC: " (grouped(sum(counts))) " packets"
                        @for (series, packets) in counts.iter().enumerate().filter(|(_, packets)| **packets > 0) {
                            "; " (label(series, names)) " " (grouped(*packets))
                        }
                    }
                    @for (series, packets) in counts.iter().enumerate().filter(|(_, packets)| **packets > 0) {
                        @let below: u64 = counts[..series].iter().sum();
                        rect class=(format!("s{series}")) x=(round(x(*interval))) y=(round(y(below + packets)))
                            width=(round((column - gap).max(0.5)))
                            height=(round((y(below) - y(below + packets)).max(0.5))) {}
                    }
                }
            }
            @for interval in (0..*count).step_by(every) {
                text class="tick" x=(round(x(interval))) y=(HEIGHT - 8.0) {
                    (at(start.saturating_add(*width * i64::try_from(interval).unwrap_or_default()), format_of(*width, *count)))
                }
            }
        }
        p class="legend" {
            @for series in 0..SERIES {
                @if counts.iter().any(|(_, counts)| counts[series] > 0) {
                    span {
                        svg class="key" viewBox="0 0 10 10" { rect class=(format!("s{series}")) width="10" height="10" {} }
                        (label(series, names))
                    }
                }
            }
            span class="muted" { "one column is " (length(*width)) ", times are UTC" }
        }
    }
}

fn label(series: usize, names: &[String]) -> &str {
    names.get(series).map_or("other", String::as_str)
}

fn sum(counts: &[u64; SERIES]) -> u64 {
    counts
        .iter()
        .fold(0, |sum, count| sum.saturating_add(*count))
}

/// To a hundredth: what is finer only makes the file long.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The next number from `most` on that a scale of four steps can end with.
fn nice(most: u64) -> u64 {
    let mut step = 1_u64;
    loop {
        for factor in [4, 8, 12, 16, 20, 24, 32, 40] {
            let end = step.saturating_mul(factor);
            if end >= most {
                return end;
            }
        }
        step = step.saturating_mul(10);
    }
}

fn format_of(width: i64, count: usize) -> &'static str {
    let span = width.saturating_mul(i64::try_from(count).unwrap_or(i64::MAX));
    match (width, span) {
        (0..60, _) => "%H:%M:%S",
        (_, ..86_400) => "%H:%M",
        (..86_400, _) => "%m-%d %H:%M",
        _ => "%F",
    }
}

/// A time; nothing, if there is no such year.
fn at(second: i64, format: &str) -> String {
    Timestamp::from_second(second)
        .map_or_else(|_| String::new(), |time| time.strftime(format).to_string())
}

/// A number of seconds in words.
fn length(seconds: i64) -> String {
    let (count, unit) = match seconds {
        ..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    if count == 1 {
        format!("1 {unit}")
    } else {
        format!("{count} {unit}s")
    }
}

/// A number of things, in words.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        grouped(number),
        if number == 1 { one } else { many }
    )
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_numbers_are_round() {
        assert_eq!([1, 4, 5, 9, 39, 41].map(nice), [4, 4, 8, 12, 40, 80]);
        assert_eq!(nice(2_301), 2_400);
        assert!(nice(u64::MAX) > 0);
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(length(14_400), "4 hours");
    }
}
