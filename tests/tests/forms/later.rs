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
fn later_fragments_pass_on_the_wire_and_their_first_ones_do_not() {
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
                        sent.push((label, shot.marks));
                    }
                }
            }
        }
        for sender in stage.senders() {
            sightings.look(&wire.settle(sender));
        }
        for (label, marks) in sent {
            let seen = [&marks[..1], &marks[1..]].map(|marks| sightings.has_all(marks));
            assert_eq!(seen, [!protected, true], "{label}, protected: {protected}");
        }
    }
}
