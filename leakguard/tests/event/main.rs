//! Events out of packets that somebody else wrote: what the fuzzer starts from, what it has found, and near those.

#![expect(clippy::unwrap_used, reason = "everything here is a test, helpers too")]

mod check;
mod name;

use std::fs;
use std::path::Path;

use self::check::check;
use self::name::HEAD;

fn seeds() -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/query");
    let files = fs::read_dir(directory).unwrap();
    let seeds: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            (path.display().to_string(), fs::read(path).unwrap())
        })
        .collect();
    assert!(seeds.len() > 10, "{}", seeds.len());
    seeds
}

#[test]
fn seeds_become_events_that_can_be_shown() {
    let mut named = 0;
    for (name, input) in seeds() {
        let event = check(&input).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        named += usize::from(event.is_some_and(|event| event.query.is_some()));
    }
    assert!(named > 5, "they all ask for nothing");
}

#[test]
fn no_byte_of_a_seed_makes_an_event_that_cannot_be_shown() {
    for (name, input) in seeds() {
        for at in HEAD..input.len() {
            for value in [0, 1, b'.', 0x1b, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff] {
                let mut input = input.clone();
                input[at] = value;
                check(&input).unwrap_or_else(|wrong| panic!("{name}, {at}, {value}: {wrong}"));
            }
        }
    }
}
