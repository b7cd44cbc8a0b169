//! Whether what was set up is still there.

use serde::Serialize;
use serde_json::{Map, Value};

use super::error::ResolverError;
use super::journal::{Entry, Journal, look};
use super::json;
use super::node::{Node, Wanted};
use super::plan::DOCKER_KEY;
use super::root::Root;

/// What was set up, and what has become of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// Whether anything was set up.
    pub applied: bool,
    /// What, in a few words.
    pub what: String,
    /// Whether somebody is at it, or was killed.
    pub underway: bool,
    /// Whether the agent puts back what others change.
    pub watch: bool,
    /// Where something was set up.
    pub paths: Vec<String>,
    /// What others have changed.
    pub drift: Vec<Drift>,
}

/// Something that is not as it was set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Where.
    pub path: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl State {
    /// Looks.
    pub fn read(root: &Root) -> Result<Self, ResolverError> {
        let Some(journal) = Journal::read(root)? else {
            return Ok(Self::default());
        };
        let mut drift = Vec::new();
        for entry in &journal.entries {
            let now = look(root, &entry.path)?;
            if let Some(problem) = problem(entry, &now)? {
                drift.push(Drift {
                    path: entry.path.clone(),
                    problem,
                });
            }
        }
        Ok(Self {
            applied: true,
            paths: journal
                .entries
                .iter()
                .filter(|entry| entry.wanted != Wanted::Directory)
                .map(|entry| entry.path.clone())
                .collect(),
            what: journal.what,
            underway: journal.underway,
            watch: journal.watch,
            drift,
        })
    }

    /// Whether everything is as it was set up.
    pub fn is_sound(&self) -> bool {
        !self.underway && self.drift.is_empty()
    }
}

/// What is to be at a place, where something is now: of a file that is leakguard's only in part, the rest is others'.
/// `None` if nothing is to be there that could be missing.
pub(super) fn wanted_now(entry: &Entry, now: &Node) -> Result<Option<Wanted>, ResolverError> {
    if entry.wanted == Wanted::Directory {
        return Ok(None);
    }
    let (Wanted::File { content, .. }, Node::File { content: now, .. }, true) =
        (&entry.wanted, now, entry.merged)
    else {
        return Ok(Some(entry.wanted.clone()));
    };
    let failed = |source| ResolverError::Json {
        path: entry.path.clone(),
        source,
    };
    let ours: Map<String, Value> = serde_json::from_slice(content).map_err(failed)?;
    let Some(value) = ours.get(DOCKER_KEY) else {
        return Ok(None);
    };
    // One that is no object any more is set up anew.
    let Ok(theirs) = serde_json::from_slice::<Map<String, Value>>(now) else {
        return Ok(Some(entry.wanted.clone()));
    };
    if theirs.get(DOCKER_KEY) == Some(value) {
        return Ok(None);
    }
    let text = json::set(
        &String::from_utf8_lossy(now),
        DOCKER_KEY,
        &value.to_string(),
    )
    .map_err(failed)?;
    Ok(Some(Wanted::text(text)))
}

fn problem(entry: &Entry, now: &Node) -> Result<Option<&'static str>, ResolverError> {
    let Some(wanted) = wanted_now(entry, now)? else {
        return Ok(None);
    };
    Ok(if wanted.holds(now) {
        None
    } else if wanted.is_said_by(now) {
        Some("is not immutable any more")
    } else if *now == Node::Absent {
        Some("is gone")
    } else if entry.before.says_the_same(now) {
        Some("is as it was before")
    } else {
        Some("was changed")
    })
}
