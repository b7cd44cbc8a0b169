//! `docs/doctor.md` has what the code has.

use std::fmt::Write as _;

use super::super::messages::messages;
use super::super::rules;

const DOCUMENT: &str = include_str!("../../../../docs/doctor.md");

#[test]
fn the_document_has_the_table_of_findings() {
    let mut table =
        String::from("| finding | | what is found | why it matters |\n|---|---|---|---|\n");
    for rule in rules() {
        let (id, severity) = (rule.id, rule.severity.name());
        writeln!(
            table,
            "| `{id}` | {severity} | {} | {} |",
            rule.title, rule.why
        )
        .unwrap();
    }
    assert!(
        DOCUMENT.contains(&table),
        "docs/doctor.md has to have:\n{table}"
    );
}

#[test]
fn the_document_has_the_table_of_messages() {
    let mut table = String::from(
        "| message | said by | means | is it leakguard? | what to do |\n|---|---|---|---|---|\n",
    );
    for message in messages() {
        let (text, leakguard) = (message.text, message.leakguard());
        writeln!(
            table,
            "| `{text}` | {} | {} | {leakguard} | {} |",
            message.said_by, message.means, message.remedy
        )
        .unwrap();
    }
    assert!(
        DOCUMENT.contains(&table),
        "docs/doctor.md has to have:\n{table}"
    );
}
