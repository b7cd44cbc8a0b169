//! The page of the configuration file, in section 5: the example's comments and keys, in its order.

use anyhow::{Context as _, Result, ensure};
use clap_mangen::roff::{Roff, bold, roman};

/// How the page's file is called.
pub(crate) const FILE: &str = "leakguard.toml.5";

/// Where the agent looks for the file.
const PATH: &str = "/etc/leakguard/leakguard.toml";

/// Makes the page of an example with all keys, each below the comment that explains it.
pub(crate) fn page(example: &str) -> Result<Vec<u8>> {
    let source = concat!("leakguard ", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    roff.control("TH", ["leakguard.toml", "5", "", source, "leakguard"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("leakguard.toml - configuration of leakguard")]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold(PATH)]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "The file is TOML. What follows is the example that comes with leakguard: every key with its value there.",
    )]);
    roff.control("PP", []);
    let live: Vec<&str> = example
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(setting(line)?.0))
        .collect();
    ensure!(!live.is_empty(), "the example sets nothing");
    let mut comment: Vec<&str> = Vec::new();
    for line in example.lines() {
        if let Some(table) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            roff.control("SH", [format!("[{table}]").as_str()]);
            paragraphs(&comment, &mut roff);
            comment.clear();
        } else if let Some((key, value)) = setting(line)
            // What a comment shows of a key that is there too belongs to the comment.
            && (!line.starts_with('#') || !live.contains(&key))
        {
            roff.control("TP", []);
            roff.text([bold(key), roman(" = "), roman(value)]);
            paragraphs(&comment, &mut roff);
            comment.clear();
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push(text.strip_prefix(' ').unwrap_or(text));
        } else if !comment.is_empty() && line.is_empty() {
            paragraphs(&comment, &mut roff);
            comment.clear();
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("leakguard"),
        roman("(8), "),
        bold("leakguard-config-check"),
        roman("(8)"),
    ]);
    let mut text = Vec::new();
    roff.to_writer(&mut text)
        .context("cannot render the page")?;
    Ok(text)
}

/// The key and the value of a line, which may be commented out.
fn setting(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("# ").unwrap_or(line);
    let (key, value) = line.split_once(" = ")?;
    let is_key = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
    };
    is_key(key).then_some((key, value))
}

/// A comment's lines as text; what is indented keeps its lines.
fn paragraphs(comment: &[&str], roff: &mut Roff) {
    let mut filled = true;
    for line in comment {
        if line.is_empty() {
            roff.control("PP", []);
            continue;
        }
        let indented = line.starts_with("  ");
        if indented && filled {
            roff.control("nf", []);
        } else if !indented && !filled {
            roff.control("fi", []);
        }
        filled = !indented;
        roff.text([roman(*line)]);
    }
    if !filled {
        roff.control("fi", []);
    }
}
