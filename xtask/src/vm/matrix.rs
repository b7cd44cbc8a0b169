//! The table of kernels: what is enforced on each, which tests passed there, and what is reduced.

use std::fmt::Write as _;

use super::console::Outcome;

/// What is not known of a kernel, because the suite that says it did not run there.
const UNKNOWN: &str = "–";

/// The facts that have a column, and its title.
const FACTS: [(&str, &str); 5] = [
    ("level", "level"),
    ("tc", "TC on an uplink"),
    ("egress", "program at the cgroup"),
    ("refused", "a refused call gets"),
    ("instructions", "most instructions verified"),
];

/// What a fact means that is not the best there is: its name, its value, and what is reduced and why.
const REDUCED: [(&str, &str, &str); 4] = [
    (
        "tc",
        "clsact",
        "no TCX (6.6): a filter on the clsact qdisc, overtaken by others for a moment until the agent has put it first",
    ),
    (
        "egress",
        "egress_inode",
        "no helper that names a packet's namespace (6.18): it is read from the socket, by way of BTF",
    ),
    (
        "egress",
        "egress_lean",
        "the verifier refuses the full programs: headers alone are judged",
    ),
    (
        "refused",
        "EPERM",
        "no choice of the error that a refused call gets (6.1): some programs wait for their time-out",
    ),
];

/// One kernel.
#[derive(Debug)]
pub(super) struct Row {
    /// As `uname -r` says it.
    pub(super) kernel: String,
    pub(super) outcome: Outcome,
}

impl Row {
    fn fact(&self, name: &str) -> &str {
        self.outcome.facts.get(name).map_or(UNKNOWN, String::as_str)
    }

    /// What it has less than the best.
    fn reductions(&self) -> Vec<&str> {
        let known = REDUCED
            .iter()
            .filter(|(name, value, _)| self.fact(name) == *value)
            .map(|(_, _, meaning)| *meaning);
        let causes = self.outcome.facts.get("causes").map(String::as_str);
        let mut found: Vec<&str> = known.chain(causes).collect();
        if found.is_empty() {
            found.push(if self.outcome.facts.is_empty() {
                "not known"
            } else {
                "nothing"
            });
        }
        found
    }
}

/// The tables in Markdown.
pub(super) fn render(rows: &[Row]) -> String {
    let mut text = String::from("## What is enforced\n\n");
    let titles = FACTS.iter().map(|(_, title)| *title);
    let titles = ["kernel"].into_iter().chain(titles);
    heading(&mut text, titles.chain(["passed", "failed"]));
    for row in rows {
        let tally = row.outcome.tally;
        let counts = [tally.passed, tally.failed].map(|count| count.to_string());
        let facts = FACTS.iter().map(|(name, _)| row.fact(name));
        let cells = [row.kernel.as_str()].into_iter().chain(facts);
        line(&mut text, cells.chain(counts.iter().map(String::as_str)));
    }

    let mut suites: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| &row.outcome.suites) {
        if !suites.contains(&name.as_str()) {
            suites.push(name);
        }
    }
    text.push_str("\n## Tests, passed/failed\n\n");
    heading(&mut text, ["kernel"].into_iter().chain(suites.clone()));
    for row in rows {
        let cells = suites.iter().map(|suite| {
            let ran = row.outcome.suites.iter().find(|(name, _)| name == suite);
            ran.map_or_else(
                || UNKNOWN.to_owned(),
                |(_, tally)| format!("{}/{}", tally.passed, tally.failed),
            )
        });
        let cells: Vec<String> = cells.collect();
        let cells = cells.iter().map(String::as_str);
        line(&mut text, [row.kernel.as_str()].into_iter().chain(cells));
    }

    text.push_str("\n## What is reduced, and why\n\n");
    for row in rows {
        // Writing to a string cannot fail.
        writeln!(text, "- {}: {}.", row.kernel, row.reductions().join("; ")).ok();
    }
    text
}

fn heading<'a>(text: &mut String, titles: impl Iterator<Item = &'a str> + Clone) {
    line(text, titles.clone());
    line(text, titles.map(|_| "---"));
}

fn line<'a>(text: &mut String, cells: impl Iterator<Item = &'a str>) {
    let cells: Vec<&str> = cells.collect();
    // Writing to a string cannot fail.
    writeln!(text, "| {} |", cells.join(" | ")).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::libtest::Tally;

    fn row(kernel: &str, suites: &[(&str, u64, u64)], facts: &[(&str, &str)]) -> Row {
        let mut outcome = Outcome::default();
        for &(name, passed, failed) in suites {
            let tally = Tally { passed, failed };
            outcome.tally += tally;
            outcome.suites.push((name.to_owned(), tally));
        }
        let facts = facts.iter().map(|(name, value)| (*name, *value));
        outcome.facts = facts.map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        Row {
            kernel: kernel.to_owned(),
            outcome,
        }
    }

    #[test]
    fn every_kernel_has_a_row_in_every_table_and_what_did_not_run_is_no_success() {
        let text = render(&[
            row(
                "6.1",
                &[("kernel", 3, 1), ("devices", 2, 0)],
                &[("level", "full"), ("tc", "clsact")],
            ),
            row("6.18", &[("kernel", 4, 0)], &[("tc", "head")]),
            row("none", &[], &[]),
        ]);
        assert!(
            text.contains("| 6.1 | full | clsact | – | – | – | 5 | 1 |"),
            "{text}"
        );
        assert!(text.contains("| kernel | kernel | devices |\n"), "{text}");
        assert!(text.contains("| 6.1 | 3/1 | 2/0 |"), "{text}");
        assert!(text.contains("| 6.18 | 4/0 | – |"), "{text}");
        assert!(text.contains("- 6.1: no TCX (6.6)"), "{text}");
        assert!(text.contains("- 6.18: nothing."), "{text}");
        assert!(text.contains("- none: not known."), "{text}");
    }

    #[test]
    fn causes_that_the_status_names_are_told() {
        let found = row("x", &[], &[("causes", "no nft program")]);
        assert_eq!(found.reductions(), ["no nft program"]);
    }
}
