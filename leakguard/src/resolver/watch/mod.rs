//! Looks after what was set up while the agent runs: reports what others change, and puts it back a few times.
//!
//! On a thread of its own: reading the journal and writing files may block.

mod budget;
mod sensor;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use self::budget::{Budget, TIMES};
use self::sensor::Sensor;
use super::error::ResolverError;
use super::execute::{Foreign, put_back};
use super::journal::Journal;
use super::root::Root;
use super::state::{Drift, State};
use crate::error::chain;

/// How often it is looked at, whatever is seen meanwhile.
const INTERVAL: Duration = Duration::from_secs(5);
/// Who rewrites a file may remove it first: what is looked at has been quiet for so long, or changes for so long.
const QUIET: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(2);
/// How many changes may wait to be reported.
const WAITING: usize = 64;

/// Something that somebody has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: String,
    /// Whether it was put back.
    pub restored: bool,
    /// One sentence for people: what, by whom, and what was done about it.
    pub message: String,
}

/// The thread that looks.
#[derive(Debug)]
pub struct Watch(mpsc::Receiver<Found>);

impl Watch {
    /// Starts it; it ends when this is dropped.
    pub fn start(root: Root) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(WAITING);
        thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || Looking::default().run(&root, &sender))?;
        Ok(Self(receiver))
    }

    /// Waits for the next change; for ever, if the thread has ended.
    pub async fn found(&mut self) -> Found {
        match self.0.recv().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }
}

/// What the thread knows.
#[derive(Debug, Default)]
struct Looking {
    sensor: Sensor,
    budget: Budget,
    /// What was reported and is still so.
    told: BTreeMap<String, String>,
    /// What was wrong with looking.
    complaint: Option<String>,
}

impl Looking {
    fn run(mut self, root: &Root, sender: &mpsc::Sender<Found>) {
        while !sender.is_closed() {
            let found = match self.look(root) {
                Ok(found) => {
                    self.complaint = None;
                    found
                }
                Err(error) => {
                    let complaint = chain(&error);
                    if self.complaint.as_ref() != Some(&complaint) {
                        log::warn!("cannot look after the resolver: {complaint}");
                        self.complaint = Some(complaint);
                    }
                    Vec::new()
                }
            };
            for found in found {
                if let Err(error) = sender.try_send(found) {
                    log::warn!("a change of the resolver is not reported: {error}");
                }
            }
            if self.sensor.wait(INTERVAL) {
                let began = Instant::now();
                while began.elapsed() < PATIENCE && self.sensor.wait(QUIET) {}
            }
        }
    }

    fn look(&mut self, root: &Root) -> Result<Vec<Found>, ResolverError> {
        let Some(journal) = Journal::read(root)? else {
            self.sensor.watch(&[]);
            self.told.clear();
            return Ok(Vec::new());
        };
        // Somebody is at it.
        if journal.underway {
            return Ok(Vec::new());
        }
        self.sensor.watch(&directories(root, &journal));
        let drift = State::read(root)?.drift;
        self.told
            .retain(|path, _| drift.iter().any(|drift| drift.path == *path));
        let mut found = Vec::new();
        for drift in drift {
            found.extend(self.treat(root, journal.watch, &drift));
        }
        Ok(found)
    }

    /// Puts one back, or says why not.
    fn treat(&mut self, root: &Root, wanted: bool, drift: &Drift) -> Option<Found> {
        let Drift { path, problem } = drift;
        let now = Instant::now();
        let who = self.writer(root, path);
        let outcome = if !wanted {
            "left as it is, as `watch` has it".to_owned()
        } else if self.budget.allows(path, now) {
            match put_back(root, &BTreeSet::from([path.clone()])) {
                Ok(foreign) if foreign.is_empty() => return None,
                Ok(foreign) => {
                    self.budget.spend(path, now);
                    self.told.remove(path);
                    let message = format!("{problem}, by {who}; put back{}", kept(&foreign));
                    return Some(Found {
                        path: path.clone(),
                        restored: true,
                        message,
                    });
                }
                // It is looked at again.
                Err(ResolverError::Busy) => return None,
                Err(error) => format!("it cannot be put back: {}", chain(&error)),
            }
        } else {
            format!(
                "left as it is: it was put back {TIMES} times in 10 minutes; `leakguard resolver apply` puts it back"
            )
        };
        let told = format!("{problem}; {outcome}");
        if self.told.get(path) == Some(&told) {
            return None;
        }
        self.told.insert(path.clone(), told);
        let message = format!("{problem}, by {who}; {outcome}");
        Some(Found {
            path: path.clone(),
            restored: false,
            message,
        })
    }

    fn writer(&self, root: &Root, path: &str) -> String {
        let unknown = || "a process that is not known".to_owned();
        let Ok(place) = root.locate(path) else {
            return unknown();
        };
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let directory = place.parent().unwrap_or(Path::new("/"));
        self.sensor
            .writer(directory, &name)
            .map_or_else(unknown, ToString::to_string)
    }
}

/// The directories of what was set up; the kernel's settings tell nobody when they change.
fn directories(root: &Root, journal: &Journal) -> Vec<PathBuf> {
    let directories: BTreeSet<PathBuf> = journal
        .entries
        .iter()
        .filter(|entry| !super::node::is_sysctl(&entry.path))
        .filter_map(|entry| Some(root.locate(&entry.path).ok()?.parent()?.to_owned()))
        .collect();
    directories.into_iter().collect()
}

fn kept(foreign: &[Foreign]) -> String {
    match foreign.iter().find_map(|foreign| foreign.copy.as_ref()) {
        Some(copy) => format!("; their version is kept in {}", copy.display()),
        None => String::new(),
    }
}
