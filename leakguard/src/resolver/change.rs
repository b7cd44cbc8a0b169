//! What would be changed: the plan against what is there and what was changed before.

use similar::TextDiff;

use super::error::ResolverError;
use super::journal::{Entry, Journal, Standing, look};
use super::json;
use super::node::{Node, Wanted};
use super::plan::{DOCKER_KEY, Item, Plan};
use super::root::Root;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where, as the host calls it.
    pub path: String,
    /// What is there.
    pub(super) now: Node,
    pub(super) kind: Kind,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is set up.
    Put(Item),
    /// It is put back to this.
    Restore(Node),
}

impl Change {
    /// Whether it puts back what was there before.
    pub fn restores(&self) -> bool {
        matches!(self.kind, Kind::Restore(_))
    }

    /// The change as a unified diff.
    pub fn diff(&self) -> String {
        let before = shown(&self.now);
        let after = match &self.kind {
            Kind::Put(item) => Some(wanted(&item.wanted)),
            Kind::Restore(node) => shown(node),
        };
        let name = |side: &Option<Shown>, prefix: &str| match side {
            None => "/dev/null".to_owned(),
            Some(Shown { what: "", .. }) => format!("{prefix}{}", self.path),
            Some(Shown { what, .. }) => format!("{prefix}{}\t({what})", self.path),
        };
        let (old, new) = (name(&before, "a"), name(&after, "b"));
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        let diff = TextDiff::from_lines(&before.text, &after.text);
        let mut text = diff.unified_diff().header(&old, &new).to_string();
        if text.is_empty() {
            // Only what stands in brackets changes.
            text = format!("--- {old}\n+++ {new}\n");
        }
        text
    }
}

/// One side of a diff.
#[derive(Debug, Default)]
struct Shown {
    what: &'static str,
    text: String,
}

fn shown(node: &Node) -> Option<Shown> {
    match node {
        Node::Absent => None,
        Node::File {
            content,
            attributes,
        } => Some(Shown {
            what: if attributes.is_immutable() {
                "immutable"
            } else {
                ""
            },
            text: String::from_utf8_lossy(content).into_owned(),
        }),
        Node::Link { .. } => Some(Shown {
            what: "link",
            text: format!(
                "{}\n",
                node.target().unwrap_or_else(|| "".as_ref()).display()
            ),
        }),
        Node::Directory => Some(Shown {
            what: "directory",
            text: String::new(),
        }),
        Node::Value { value } => Some(Shown {
            what: "",
            text: format!("{value}\n"),
        }),
    }
}

fn wanted(wanted: &Wanted) -> Shown {
    match wanted {
        Wanted::File { content, immutable } => Shown {
            what: if *immutable { "immutable" } else { "" },
            text: String::from_utf8_lossy(content).into_owned(),
        },
        Wanted::Link { target } => Shown {
            what: "link",
            text: format!("{target}\n"),
        },
        Wanted::Directory => Shown {
            what: "directory",
            text: String::new(),
        },
        Wanted::Value { value } => Shown {
            what: "",
            text: format!("{value}\n"),
        },
    }
}

/// What is to be put back for an entry, where something is now. Of a file that is leakguard's only in part, the rest
/// stays as others have made it since.
pub(super) fn original(entry: &Entry, now: &Node) -> Node {
    if !entry.merged || entry.standing(now) != Standing::Foreign {
        return entry.before.clone();
    }
    let Node::File {
        content,
        attributes,
    } = now
    else {
        return entry.before.clone();
    };
    let text = String::from_utf8_lossy(content);
    let before = String::from_utf8_lossy(entry.before.content().unwrap_or_default());
    // What is no object any more is theirs.
    let Ok(content) = json::restore(&text, &before, DOCKER_KEY) else {
        return now.clone();
    };
    Node::File {
        content: content.into_bytes(),
        attributes: attributes.clone(),
    }
}

/// What has to be changed for the plan to hold: first what is not wanted any more.
pub(super) fn changes(
    root: &Root,
    journal: Option<&Journal>,
    plan: &Plan,
) -> Result<Vec<Change>, ResolverError> {
    let mut changes = Vec::new();
    for entry in journal
        .into_iter()
        .flat_map(|journal| journal.entries.iter().rev())
    {
        if !is_needed(plan, entry) {
            changes.extend(restoring(root, entry)?);
        }
    }
    for item in &plan.items {
        let now = look(root, &item.path)?;
        let mut item = item.clone();
        if journal
            .and_then(|journal| journal.entry(&item.path))
            .is_some_and(|entry| entry.changeable)
        {
            item.wanted.leave_changeable();
        }
        if !item.wanted.holds(&now) {
            changes.push(Change {
                path: item.path.clone(),
                now,
                kind: Kind::Put(item),
            });
        }
    }
    Ok(changes)
}

/// What has to be changed to have everything as before.
pub(super) fn restorations(root: &Root, journal: &Journal) -> Result<Vec<Change>, ResolverError> {
    let mut changes = Vec::new();
    for entry in journal.entries.iter().rev() {
        changes.extend(restoring(root, entry)?);
    }
    Ok(changes)
}

fn restoring(root: &Root, entry: &Entry) -> Result<Option<Change>, ResolverError> {
    let now = look(root, &entry.path)?;
    let before = original(entry, &now);
    Ok((now != before).then(|| Change {
        path: entry.path.clone(),
        now,
        kind: Kind::Restore(before),
    }))
}

/// Whether a change that was made is a part of the plan.
pub(super) fn is_needed(plan: &Plan, entry: &Entry) -> bool {
    plan.items.iter().any(|item| {
        item.path == entry.path
            || (entry.wanted == Wanted::Directory
                && item
                    .path
                    .strip_prefix(&entry.path)
                    .is_some_and(|rest| rest.starts_with('/')))
    })
}
