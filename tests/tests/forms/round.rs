//! Everything by every way once, and what of it was seen outside.

use std::io;
use std::os::fd::OwnedFd;

use leakguard::lab::Netns;
use leakguard_tests::{Mark, Row, Sightings, report};
use nix::errno::Errno;

use crate::form::Form;
use crate::path::Path;
use crate::probe::{FAMILIES, Flow, Probe};
use crate::way::{Aim, Place, WAYS, Way};

/// Probes of each kind.
const N: usize = 5;

/// A device under test, and the ways out of it.
pub(crate) trait Stage {
    /// What tells its paths from those of other stages.
    fn prefix(&self) -> &'static str {
        ""
    }

    /// Ways for packets of any form.
    fn paths(&self) -> Vec<Path>;

    /// Ways for what UDP sockets carry.
    fn datagrams(&self) -> Vec<Path>;

    /// Where ordinary sockets send from.
    fn places(&self) -> Vec<Place<'_>>;

    /// Everybody who sends, in the order in which their packets pass one another's.
    fn senders(&self) -> Vec<&Netns>;

    /// Starts leakguard.
    fn protect(&mut self);
}

/// Whoever stands outside and sees what comes.
pub(crate) trait Witness {
    /// What has come since the last call.
    fn collect(&mut self) -> Vec<Vec<u8>>;

    /// The same, and all that this sender's packets still on their way turn into.
    fn settle(&mut self, sender: &Netns) -> Vec<Vec<u8>>;
}

/// What has to be seen of a probe for it to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The packet with the ports is not to be seen.
    Blocked,
    /// Every packet is to be seen.
    Passed,
}

/// Probes of one kind, on one way.
#[derive(Debug)]
struct Salvo {
    form: &'static str,
    path: String,
    family: &'static str,
    class: &'static str,
    probes: Vec<Vec<Mark>>,
    errors: Vec<io::Error>,
}

/// The salvoes of one round, and the marks that were seen.
#[derive(Debug)]
pub(crate) struct Round {
    expected: Expected,
    salvoes: Vec<Salvo>,
    sightings: Sightings,
}

/// The sockets of all ways out, made and not yet used.
#[derive(Debug)]
pub(crate) struct Arms {
    /// What stands in front of a path's name.
    prefix: String,
    flows: Vec<Flow>,
    paths: Vec<Path>,
    ordinary: Vec<Ordinary>,
}

/// Ordinary sockets of one way and family.
#[derive(Debug)]
struct Ordinary {
    place: &'static str,
    way: &'static Way,
    family: usize,
    aims: Vec<(Flow, Aim)>,
    sockets: Vec<OwnedFd>,
}

impl Arms {
    /// Sockets for one round.
    pub(crate) fn new(stage: &dyn Stage, flows: &[Flow]) -> Self {
        Self::for_rounds("", 1, stage, flows)
    }

    /// Sockets that are there before leakguard, for the round without it and the one with it.
    pub(crate) fn from_before(stage: &dyn Stage, flows: &[Flow]) -> Self {
        Self::for_rounds("from before: ", 2, stage, flows)
    }

    /// Sockets of these paths alone.
    pub(crate) fn of_paths(stage: &dyn Stage, paths: Vec<Path>, flows: &[Flow]) -> Self {
        Self {
            prefix: stage.prefix().to_owned(),
            flows: flows.to_vec(),
            paths,
            ordinary: Vec::new(),
        }
    }

    fn for_rounds(since: &'static str, rounds: usize, stage: &dyn Stage, flows: &[Flow]) -> Self {
        let mut ordinary = Vec::new();
        for place in stage.places() {
            for way in &WAYS {
                for family in 0..FAMILIES.len() {
                    let takes = |flow: &&Flow| way.takes(flow, place.is_local, family);
                    let aims: Vec<_> = flows
                        .iter()
                        .filter(takes)
                        .map(|flow| (*flow, place.aim(family, flow.port)))
                        .collect();
                    if aims.is_empty() {
                        continue;
                    }
                    ordinary.push(Ordinary {
                        place: place.name,
                        way,
                        family,
                        sockets: way.arm(&place, family, rounds * N * aims.len()),
                        aims,
                    });
                }
            }
        }
        Self {
            prefix: format!("{since}{}", stage.prefix()),
            flows: flows.to_vec(),
            paths: stage.paths(),
            ordinary,
        }
    }
}

impl Round {
    /// Sends every flow in every form by every way.
    pub(crate) fn send(
        arms: &mut Arms,
        stage: &dyn Stage,
        witness: &mut dyn Witness,
        expected: Expected,
        forms: &[Form],
    ) -> Self {
        let mut round = Self {
            expected,
            salvoes: Vec::new(),
            sightings: Sightings::default(),
        };
        let Arms {
            prefix,
            flows,
            paths,
            ordinary,
        } = arms;
        for path in paths {
            for form in forms {
                round.form(prefix, path, form, flows);
                round.sightings.look(&witness.collect());
            }
        }
        for sockets in ordinary {
            round.ordinary(prefix, sockets);
            round.sightings.look(&witness.collect());
        }
        for sender in stage.senders() {
            round.sightings.look(&witness.settle(sender));
        }
        round
    }

    fn form(&mut self, prefix: &str, path: &mut Path, form: &Form, flows: &[Flow]) {
        for (family, name) in FAMILIES.into_iter().enumerate() {
            if !form.shape.is_of(name) || !form.shape.fits(path.layer) {
                continue;
            }
            if path.drops_later_fragments && !form.shape.has_ports() {
                continue;
            }
            // A later fragment that comes first is that of a dropped datagram, if one had its number up to a minute ago. There
            // are 65,536 in IPv4, and stacks choose them: `later.rs` is about those, one at a time.
            if self.expected != Expected::Blocked && name == "ipv4" && form.is_reversed() {
                continue;
            }
            for flow in flows {
                let mut probes = Vec::new();
                let mut errors = Vec::new();
                for _ in 0..N {
                    let probe = Probe::new(path.sources[family], path.targets[family], *flow);
                    let mut shot = form.shape.shoot(&probe);
                    if self.expected == Expected::Blocked || path.drops_later_fragments {
                        shot.marks.truncate(1);
                    }
                    let results = shot.frames.iter().map(|frame| path.send(frame));
                    errors.extend(results.filter_map(Result::err));
                    probes.push(shot.marks);
                }
                if path.drops_later_fragments {
                    errors.clear();
                }
                self.add(Salvo {
                    form: form.name,
                    path: format!("{prefix}{}", path.name),
                    family: name,
                    class: flow.class,
                    probes,
                    errors,
                });
            }
        }
    }

    fn ordinary(&mut self, prefix: &str, ordinary: &mut Ordinary) {
        let Ordinary {
            place,
            way,
            family,
            aims,
            sockets,
        } = ordinary;
        for (flow, aim) in aims {
            let (mut probes, mut errors) = (Vec::new(), Vec::new());
            for mut fired in way.fire(sockets, aim, N) {
                if self.expected == Expected::Blocked {
                    fired.marks.truncate(1);
                }
                probes.push(fired.marks);
                errors.extend(fired.result.err());
            }
            self.add(Salvo {
                form: way.form,
                path: format!("{prefix}{place}: {}", way.name),
                family: FAMILIES[*family],
                class: flow.class,
                probes,
                errors,
            });
        }
    }

    fn add(&mut self, salvo: Salvo) {
        for marks in &salvo.probes {
            self.sightings.expect(marks);
        }
        self.salvoes.push(salvo);
    }

    fn seen(&self, salvo: &Salvo) -> usize {
        let is_seen = |marks: &&Vec<Mark>| self.sightings.has_all(marks);
        salvo.probes.iter().filter(is_seen).count()
    }
}

/// Writes the rows of pairs of rounds, without leakguard and with it, and then asserts each of them.
pub(crate) fn conclude(part: &str, without: &[Round], with: &[Round]) {
    let pairs = without.iter().zip(with);
    let wrong: Vec<String> = pairs
        .flat_map(|(without, with)| compare(part, without, with))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} rows are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Writes the rows of one table; gives those that are not as they should be.
fn compare(part: &str, without: &Round, with: &Round) -> Vec<String> {
    let mut rows = Vec::new();
    let mut wrong = Vec::new();
    assert_eq!(without.salvoes.len(), with.salvoes.len());
    for (before, after) in without.salvoes.iter().zip(&with.salvoes) {
        let Salvo {
            form,
            path,
            family,
            class,
            ..
        } = before;
        assert_eq!(
            (form, path, family, class),
            (&after.form, &after.path, &after.family, &after.class)
        );
        let row = Row {
            form,
            path: path.clone(),
            family,
            class,
            sent: before.probes.len(),
            without: without.seen(before),
            with: with.seen(after),
        };
        let right = match with.expected {
            Expected::Blocked => 0,
            Expected::Passed => row.sent,
        };
        if row.without != row.sent || row.with != right {
            wrong.push(format!("{row:?}"));
        }
        if !before.errors.is_empty() {
            wrong.push(format!("{row:?}: without leakguard: {:?}", before.errors));
        }
        let is_refusal = |error: &io::Error| {
            let errno = error.raw_os_error().map(Errno::from_raw);
            with.expected == Expected::Blocked
                && matches!(errno, Some(Errno::EPERM | Errno::ENOBUFS))
        };
        if !after.errors.iter().all(is_refusal) {
            wrong.push(format!("{row:?}: with leakguard: {:?}", after.errors));
        }
        rows.push(row);
    }
    let table = match with.expected {
        Expected::Blocked => "blocked",
        Expected::Passed => "passed",
    };
    report(table, part, &rows);
    wrong
}
