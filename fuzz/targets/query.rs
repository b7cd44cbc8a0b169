//! Reads the question out of any packet's bytes.
//!
//! The inputs begin like those of `leakguard/tests/event`, which makes whole events of them.

#![no_main]

#[path = "../../leakguard/tests/event/name.rs"]
mod name;
#[path = "../../leakguard/src/event/query.rs"]
mod query;

use libfuzzer_sys::{Corpus, fuzz_target};

/// What is read, as in `leakguard::event`.
struct Query {
    name: String,
    kind: String,
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some(([protocol, ..], packet)) = input.split_first_chunk::<{ name::HEAD }>() else {
        return Corpus::Reject;
    };
    if let Some(Query { name, kind }) = query::first_question(*protocol, packet)
        && let Err(wrong) = name::check(&name, &kind)
    {
        panic!("{wrong}");
    }
    Corpus::Keep
});
