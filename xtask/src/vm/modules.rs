//! Kernel modules and what they need, in the order in which they have to be inserted.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The files of all wanted modules in the directory of a kernel.
pub(super) fn files(dir: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let path = dir.join("modules.dep");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(in_order(&text, wanted)
        .into_iter()
        .map(|file| dir.join(file))
        .collect())
}

/// Walks `modules.dep`: each line has a module's file and the files that it needs, the nearest first.
fn in_order<'a>(dependencies: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let lines: HashMap<&str, (&str, &str)> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (name(file), (file, needs)))
        .collect();
    let mut files = Vec::new();
    for (file, needs) in wanted.iter().filter_map(|wanted| lines.get(wanted)) {
        for file in needs.split_whitespace().rev().chain([*file]) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files
}

/// `veth` of `kernel/drivers/net/veth.ko.xz`.
pub(super) fn name(file: &str) -> &str {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split('.').next().unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let text = "net/llc.ko.xz:\nnet/stp.ko.xz: net/llc.ko.xz\n\
                    net/bridge.ko.xz: net/stp.ko.xz net/llc.ko.xz\nnet/veth.ko.xz:\n";
        assert_eq!(
            in_order(text, &["bridge", "builtin", "veth", "stp"]),
            [
                "net/llc.ko.xz",
                "net/stp.ko.xz",
                "net/bridge.ko.xz",
                "net/veth.ko.xz"
            ]
        );
    }
}
