//! A storm over a device that leakguard protects.

#![expect(
    clippy::print_stdout,
    reason = "what was counted is for people to read"
)]

use std::collections::BTreeMap;

use super::storm::USUAL;
use super::{Bench, KINDS, Place, Storm, Stormed, escaped};

/// How many probes of each kind the control sends.
const CONTROL: u64 = 500;

/// Whether the long forms of the tests were asked for (`cargo xtask soak`).
pub fn soaks() -> bool {
    std::env::var_os("LEAKGUARD_SOAK").is_some()
}

/// A device under a [`Storm`]. Without leakguard, the same storm has been seen to get out of it.
#[derive(Debug)]
pub struct Scene {
    storm: Option<Storm>,
    /// The device.
    pub bench: Bench,
}

impl Scene {
    /// Shows that a storm gets out of a device that nothing protects yet.
    pub fn new(mut bench: Bench) -> Self {
        // What has led here does not count.
        all_escaped(&mut bench);
        let storm = start(&bench, USUAL);
        storm.go_on(CONTROL);
        let sent = storm.stop();
        sent.assert_rate();
        let seen = all_escaped(&mut bench);
        for (name, tally) in sent.kinds() {
            assert_eq!(
                seen.get(name).copied(),
                Some(tally.sent),
                "control: {name} is seen outside; {seen:?} of {sent}"
            );
        }
        assert_eq!(seen.len(), KINDS.len(), "{seen:?}");
        println!("control, without leakguard: every one seen of {sent}");
        Self { storm: None, bench }
    }

    /// Begins the storm over the device, which is protected now.
    pub fn begin(&mut self) {
        self.begin_at(USUAL);
    }

    /// Begins a storm of that many probes of each kind in a second.
    pub fn begin_at(&mut self, rate: u32) {
        // What got out before does not count.
        all_escaped(&mut self.bench);
        self.storm = Some(start(&self.bench, rate));
        self.storm().go_on(100);
    }

    /// The storm that was begun.
    pub fn storm(&self) -> &Storm {
        self.storm.as_ref().unwrap()
    }

    /// Ends the storm, and asserts that it was strong enough and that nothing of it got out.
    #[track_caller]
    pub fn end(&mut self, when: &str) -> Stormed {
        let sent = self.storm.take().unwrap().stop();
        let seen = all_escaped(&mut self.bench);
        assert_eq!(seen, BTreeMap::new(), "{when}: escaped of {sent}");
        println!("{when}: 0 escaped of {sent}");
        sent.assert_rate();
        sent
    }
}

fn start(bench: &Bench, rate: u32) -> Storm {
    let origins = [Place::Host, Place::Client].map(|place| (place, bench.origin(place)));
    Storm::start_at(rate, origins)
}

/// What has got out since the last look.
fn all_escaped(bench: &mut Bench) -> BTreeMap<String, u64> {
    // A fence behind each sender, for they come different ways.
    let mut frames = bench.frames(Place::Host);
    frames.extend(bench.frames(Place::Client));
    escaped(&frames)
}
