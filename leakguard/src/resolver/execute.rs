//! Carries a plan out, and takes it back.
//!
//! Before each change the journal says what was there, and that outlasts a loss of power. Each step can be done again,
//! whatever was done of it: whoever was killed is followed by an `apply` or a `revert` that ends as if nobody had been.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::attributes::Set;
use super::change::{Change, Kind, changes, is_needed, original};
use super::error::ResolverError;
use super::host::Host;
use super::journal::{Entry, Journal, Standing, Store, look};
use super::node::{Node, Wanted};
use super::plan::{Check, Item, Plan};
use super::root::Root;
use super::seam;
use super::surroundings::Surroundings;
use super::units::Unit;
use crate::config::Resolver;
use crate::error::chain;

/// What was done.
#[derive(Debug, Default)]
pub struct Done {
    /// What was changed.
    pub changes: Vec<Change>,
    /// Whether anything was done at all, and if only the rest of what somebody had begun.
    pub changed: bool,
    /// What others had changed meanwhile.
    pub foreign: Vec<Foreign>,
    /// What is left to do by hand, or to know.
    pub notes: Vec<String>,
}

/// A version of somebody else's that was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Where it was.
    pub path: String,
    /// Where it is kept; nowhere, if there was nothing to keep.
    pub copy: Option<PathBuf>,
}

/// Works out what is to be where, and what would be changed.
pub fn plan(
    root: &Root,
    settings: &Resolver,
    around: &Surroundings,
) -> Result<(Plan, Vec<Change>), ResolverError> {
    let journal = Journal::read(root)?;
    let host = Host::read(root, journal.as_ref())?;
    let plan = Plan::new(&host, settings, around)?;
    let changes = changes(root, journal.as_ref(), &plan)?;
    Ok((plan, changes))
}

/// Has everything as the settings say.
pub fn apply(
    root: &Root,
    settings: &Resolver,
    around: &Surroundings,
) -> Result<Done, ResolverError> {
    // What cannot be done leaves no trace.
    plan(root, settings, around)?;
    let store = Store::open(root)?;
    let before = Journal::read(root)?;
    let host = Host::read(root, before.as_ref())?;
    let plan = Plan::new(&host, settings, around)?;
    let changes = changes(root, before.as_ref(), &plan)?;
    let mut journal = before.unwrap_or_default();
    let mut done = Done {
        notes: plan.notes.clone(),
        ..Done::default()
    };
    let same = journal.what == plan.what && journal.watch == plan.watch;
    if changes.is_empty() && !journal.underway && (same || journal.entries.is_empty()) {
        if journal.entries.is_empty() {
            store.close()?;
        }
        return Ok(done);
    }
    if let Some(check) = &plan.check
        && let Err(error) = accept(root, &store, check, &mut done.notes)
    {
        if journal.entries.is_empty() {
            store.close()?;
        }
        return Err(error);
    }
    let first = journal.entries.is_empty();
    journal.what.clone_from(&plan.what);
    journal.watch = plan.watch;
    journal.underway = true;
    store.write(&mut journal)?;
    match carry_out(root, &store, &mut journal, &plan, &changes, &mut done) {
        Ok(()) => {
            done.changes = changes;
            done.changed = true;
            Ok(done)
        }
        Err(error) if first => Err(match take_back(root, store, journal, &mut done) {
            Ok(()) => ResolverError::PutBack(Box::new(error)),
            Err(undone) => ResolverError::HalfWay {
                undone: chain(&undone),
                source: Box::new(error),
            },
        }),
        Err(error) => Err(error),
    }
}

/// Has everything as it was before.
pub fn revert(root: &Root) -> Result<Done, ResolverError> {
    let mut done = Done::default();
    let leftover = root.has(super::journal::DIRECTORY) && !root.has(super::journal::KEPT_PATH);
    if Journal::read(root)?.is_none() && !leftover {
        return Ok(done);
    }
    let store = Store::open(root)?;
    let Some(mut journal) = Journal::read(root)? else {
        store.close()?;
        return Ok(done);
    };
    done.changes = super::change::restorations(root, &journal)?;
    done.changed = true;
    journal.underway = true;
    store.write(&mut journal)?;
    take_back(root, store, journal, &mut done)?;
    Ok(done)
}

/// Puts back what others have changed, at these places; says which of them it was.
pub(super) fn put_back(
    root: &Root,
    paths: &BTreeSet<String>,
) -> Result<Vec<Foreign>, ResolverError> {
    let store = Store::open(root)?;
    let Some(mut journal) = Journal::read(root)? else {
        store.close()?;
        return Ok(Vec::new());
    };
    if journal.underway {
        return Err(ResolverError::Busy);
    }
    let mut done = Done::default();
    for path in paths {
        let now = look(root, path)?;
        let Some(entry) = journal.entry_mut(path) else {
            continue;
        };
        let wanted = match super::state::wanted_now(entry, &now)? {
            Some(wanted) if !wanted.holds(&now) => wanted,
            _ => continue,
        };
        if entry.merged {
            entry.before = original(entry, &now);
        } else {
            keep(&store, entry, &now, &mut done)?;
        }
        entry.was = Some(std::mem::replace(&mut entry.wanted, wanted.clone()));
        journal.pending.extend(entry_units(&journal, path));
        store.write(&mut journal)?;
        let place = root.locate(path).map_err(ResolverError::io("find", path))?;
        wanted
            .put(&place, &now)
            .map_err(ResolverError::io("write", path))?;
        if !done.foreign.iter().any(|foreign| foreign.path == *path) {
            done.foreign.push(Foreign {
                path: path.clone(),
                copy: None,
            });
        }
    }
    let pending = std::mem::take(&mut journal.pending);
    if root.has_manager() {
        for unit in &pending {
            unit.apply()?;
        }
    }
    store.write(&mut journal)?;
    Ok(done.foreign)
}

fn entry_units(journal: &Journal, path: &str) -> BTreeSet<Unit> {
    journal
        .entry(path)
        .map(|entry| entry.units.clone())
        .unwrap_or_default()
}

fn carry_out(
    root: &Root,
    store: &Store,
    journal: &mut Journal,
    plan: &Plan,
    changes: &[Change],
    done: &mut Done,
) -> Result<(), ResolverError> {
    let stale: Vec<Entry> = journal
        .entries
        .iter()
        .filter(|entry| !is_needed(plan, entry))
        .cloned()
        .collect();
    for entry in stale.into_iter().rev() {
        journal.pending.extend(&entry.units);
        store.write(journal)?;
        put_one_back(root, store, &entry, done)?;
        journal.entries.retain(|kept| kept.path != entry.path);
        store.write(journal)?;
    }
    for change in changes {
        let Kind::Put(item) = &change.kind else {
            continue;
        };
        // Programs are sent to the cache when it answers, and not before.
        if !item.units.contains(&Unit::Cache) {
            tell(root, journal, plan, Some(Unit::Cache))?;
        }
        put(root, store, journal, item, done)?;
    }
    tell(root, journal, plan, None)?;
    journal.pending.clear();
    journal.underway = false;
    store.write(journal)
}

/// Tells services of what was changed: one of them, or all that are left. The journal knows of it until all of them were
/// told.
fn tell(
    root: &Root,
    journal: &mut Journal,
    plan: &Plan,
    only: Option<Unit>,
) -> Result<(), ResolverError> {
    let wanted: Vec<Unit> = journal
        .pending
        .iter()
        .copied()
        .filter(|unit| only.is_none_or(|only| only == *unit))
        .collect();
    for unit in wanted {
        let used = plan.items.iter().any(|item| item.units.contains(&unit));
        if only.is_some() && !used {
            // It is stopped when nobody asks it any more.
            continue;
        }
        if root.has_manager() {
            if used {
                unit.apply()?;
            } else {
                unit.revert()?;
            }
            seam::changed();
        }
        journal.pending.remove(&unit);
    }
    Ok(())
}

fn put(
    root: &Root,
    store: &Store,
    journal: &mut Journal,
    item: &Item,
    done: &mut Done,
) -> Result<(), ResolverError> {
    make_parents(root, store, journal, &item.path)?;
    let now = look(root, &item.path)?;
    if now == Node::Directory {
        return Err(ResolverError::Unfit(format!(
            "{} is a directory; move it away",
            item.path
        )));
    }
    journal.pending.extend(&item.units);
    match journal.entry_mut(&item.path) {
        Some(entry) => {
            if entry.merged {
                entry.before = original(entry, &now);
            } else {
                keep(store, entry, &now, done)?;
            }
            let was = std::mem::replace(&mut entry.wanted, item.wanted.clone());
            entry.was = (was != entry.wanted).then_some(was);
            entry.units.clone_from(&item.units);
        }
        None => journal.entries.push(Entry {
            path: item.path.clone(),
            before: now.clone(),
            wanted: item.wanted.clone(),
            was: None,
            merged: item.merged,
            changeable: false,
            units: item.units.clone(),
        }),
    }
    store.write(journal)?;
    let place = root
        .locate(&item.path)
        .map_err(ResolverError::io("find", &item.path))?;
    let set = item
        .wanted
        .put(&place, &now)
        .map_err(ResolverError::io("write", &item.path))?;
    if set == Set::Unsupported {
        done.notes.push(format!(
            "{} is not immutable: its file system knows no such thing. The agent puts it back when others change it",
            item.path
        ));
    }
    if let Some(entry) = journal.entry_mut(&item.path) {
        entry.was = None;
        if set == Set::Unsupported {
            entry.changeable = true;
            entry.wanted.leave_changeable();
        }
    }
    Ok(())
}

/// Makes the directories of a path that are missing, and remembers which.
fn make_parents(
    root: &Root,
    store: &Store,
    journal: &mut Journal,
    path: &str,
) -> Result<(), ResolverError> {
    let mut missing = Vec::new();
    let mut parent = Path::new(path).parent();
    while let Some(directory) = parent.and_then(Path::to_str) {
        if root.has(directory) {
            break;
        }
        missing.push(directory.to_owned());
        parent = Path::new(directory).parent();
    }
    for path in missing.into_iter().rev() {
        if journal.entry(&path).is_none() {
            journal.entries.push(Entry {
                path: path.clone(),
                before: Node::Absent,
                wanted: Wanted::Directory,
                was: None,
                merged: false,
                changeable: false,
                units: BTreeSet::new(),
            });
            store.write(journal)?;
        }
        let place = root
            .locate(&path)
            .map_err(ResolverError::io("find", &path))?;
        Wanted::Directory
            .put(&place, &Node::Absent)
            .map_err(ResolverError::io("create", &path))?;
    }
    Ok(())
}

/// Puts everything back and forgets it.
fn take_back(
    root: &Root,
    store: Store,
    mut journal: Journal,
    done: &mut Done,
) -> Result<(), ResolverError> {
    for entry in &journal.entries {
        journal.pending.extend(&entry.units);
    }
    store.write(&mut journal)?;
    for entry in journal.entries.iter().rev() {
        put_one_back(root, &store, entry, done)?;
    }
    let mut failed = None;
    if root.has_manager() {
        for unit in &journal.pending {
            if let Err(error) = unit.revert() {
                failed.get_or_insert(error);
            }
            seam::changed();
        }
    }
    match failed {
        // The journal stays, so that it can be tried again.
        Some(error) => Err(error),
        None => store.close(),
    }
}

fn put_one_back(
    root: &Root,
    store: &Store,
    entry: &Entry,
    done: &mut Done,
) -> Result<(), ResolverError> {
    let path = &entry.path;
    let now = look(root, path)?;
    if !entry.merged {
        keep(store, entry, &now, done)?;
    }
    if matches!(entry.before, Node::Value { .. }) && now == Node::Absent {
        // The interface has gone.
        return Ok(());
    }
    let place = root.locate(path).map_err(ResolverError::io("find", path))?;
    original(entry, &now)
        .restore(&place, path)
        .map_err(ResolverError::io("put back", path))
}

/// Keeps what somebody else has made of it since.
fn keep(store: &Store, entry: &Entry, now: &Node, done: &mut Done) -> Result<(), ResolverError> {
    if entry.standing(now) == Standing::Foreign && entry.wanted != Wanted::Directory {
        let copy = store.keep(&entry.path, now)?;
        done.foreign.push(Foreign {
            path: entry.path.clone(),
            copy,
        });
    }
    Ok(())
}

/// Has a program look at its configuration, as the host would see it.
fn accept(
    root: &Root,
    store: &Store,
    check: &Check,
    notes: &mut Vec<String>,
) -> Result<(), ResolverError> {
    let Check {
        program,
        arguments,
        content,
    } = check;
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"]
        .iter()
        .map(|directory| format!("{directory}/{program}"))
        .find(|path| is_executable(root, path));
    let Some(found) = found else {
        notes.push(format!(
            "{program} is not there, so its configuration was not checked"
        ));
        return Ok(());
    };
    let draft = store.draft(content.as_bytes())?;
    let inside = match draft.strip_prefix(root.path()) {
        Ok(inside) => Path::new("/").join(inside),
        Err(_) => draft,
    };
    let mut command = Command::new(&found);
    command.args(*arguments).arg(inside);
    if !root.is_host() {
        let path = root.path().to_owned();
        // SAFETY: chroot and chdir are system calls and async-signal-safe; the paths were made before the fork.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::chroot(&path)?;
                nix::unistd::chdir("/")?;
                Ok(())
            });
        }
    }
    let output = command.output().map_err(ResolverError::io("run", &found))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stderr, output.stdout].concat();
    Err(ResolverError::Refused {
        program,
        output: String::from_utf8_lossy(&text).trim().to_owned(),
    })
}

fn is_executable(root: &Root, path: &str) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    root.follow(path)
        .and_then(std::fs::metadata)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
