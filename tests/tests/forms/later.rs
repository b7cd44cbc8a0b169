//! What becomes of the fragments behind a first one that was dropped.

use leakguard_tests::Sightings;

use crate::forms;
use crate::probe::{DNS, FAMILIES, Probe};
use crate::round::{Stage, Witness};
use crate::stage::Uplink;

/// Probes of each kind.
const N: usize = 5;
/// Forms with a fragment that has ports and one that has none.
const CUT: [&str; 3] = ["fragments", "reversed fragments", "tiny first fragment"];

#[test]
fn later_fragments_follow_their_first_one_and_pass_if_they_overtake_it() {
    let (mut stage, mut wire) = Uplink::new();
    let cut = forms(|form| CUT.contains(&form.name));
    assert_eq!(cut.len(), CUT.len());
    for protected in [false, true] {
        if protected {
            stage.protect();
        }
        let mut sightings = Sightings::default();
        let mut sent = Vec::new();
        // A raw socket's are dropped at the cgroup.
        let on_the_wire = |path: &crate::path::Path| !path.drops_later_fragments;
        for mut path in stage.paths().into_iter().filter(on_the_wire) {
            for form in &cut {
                for (family, name) in FAMILIES.into_iter().enumerate() {
                    for _ in 0..N {
                        let ends = (path.sources[family], path.targets[family]);
                        let shot = form.shape.shoot(&Probe::new(ends.0, ends.1, DNS[0]));
                        for frame in &shot.frames {
                            // Whoever is refused one fragment may go on with the next.
                            drop(path.send(frame));
                        }
                        sightings.expect(&shot.marks);
                        let label = format!("{} by {}, {name}", form.name, path.name);
                        // What has overtaken its first fragment was sent when nobody knew of that.
                        let overtakes = form.name == "reversed fragments";
                        sent.push((label, overtakes, shot.marks));
                    }
                }
            }
        }
        for sender in stage.senders() {
            sightings.look(&wire.settle(sender));
        }
        for (label, overtakes, marks) in sent {
            let seen = |mark: &_| sightings.has_all(std::slice::from_ref(mark));
            let passes = !protected || overtakes;
            assert_eq!(
                seen(&marks[0]),
                !protected,
                "{label}, protected: {protected}"
            );
            assert!(
                marks[1..].iter().all(|mark| seen(mark) == passes),
                "the rest of {label}, protected: {protected}"
            );
        }
    }
}
