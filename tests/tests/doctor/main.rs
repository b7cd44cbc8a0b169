//! `leakguard doctor` on real hosts: it finds what is broken, its remedies mend it, and it knows what programs say.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a step that fails is a test that fails"
)]

mod findings;
mod machine;
mod messages;
mod tunnels;
mod unprivileged;
