//! What the privileged tests share, besides `leakguard::lab`.

#![expect(
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a helper that fails has to fail its test"
)]

mod batch;
mod bench;
mod bounded;
mod bpf;
mod budgets;
mod cluster;
mod config;
mod daemon_set;
pub mod dhcp;
mod foreign;
mod guest;
mod kill_switch;
mod mark;
mod memory;
mod metrics;
mod origin;
mod packet_socket;
mod podman;
pub mod radvd;
mod report;
mod resolving;
mod scene;
mod shape;
mod signed;
mod status;
mod storm;
mod tun;
mod volley;
mod way;
mod xdp;

use std::path::PathBuf;

pub use batch::{send_many, send_many_to};
pub use bench::{Bench, Place, isp, join_lan};
pub use bounded::Bounded;
pub use bpf::{bpf, detach, edit_value, open_pin};
pub use budgets::{Budgets, ProgramBudget, WorkBudget};
pub use cluster::{Cluster, Kdig, Node};
pub use config::write_config;
pub use daemon_set::{DaemonSet, Host};
pub use foreign::Foreign;
pub use guest::Guest;
pub use kill_switch::{ELSEWHERE, kill_switch};
pub use mark::{Mark, Sightings, payload_mark, serial};
pub use memory::{MemoryLimit, Resident, resident};
pub use metrics::assert_metrics;
pub use origin::{Origin, connect, hand_over, take_over};
pub use packet_socket::{PacketSocket, set_option};
pub use podman::{Container, Podman};
pub use report::{Row, Times, report, report_times};
pub use resolving::{cares_program, go_program, musl_program, with_resolver};
pub use scene::{Scene, soaks};
pub use shape::Shape;
pub use signed::{SignedAuthority, SignedZones};
pub use status::{interface, packets, second_net};
pub use storm::{KINDS, Storm, Stormed, Tally, escaped};
pub use tun::Tun;
pub use volley::{Transport, Volley};
pub use way::Carrier;
pub use xdp::XdpSocket;

/// The agent under test; `cargo xtask test` builds it and names it in `LEAKGUARD_BIN`.
///
/// # Panics
///
/// If it is not named: a test must not pick up some other build.
pub fn agent_binary() -> PathBuf {
    binary("LEAKGUARD_BIN")
}

/// An agent with the next ABI version, for the tests of an upgrade; named in `LEAKGUARD_NEXT_BIN`.
///
/// # Panics
///
/// If it is not named.
pub fn next_agent_binary() -> PathBuf {
    binary("LEAKGUARD_NEXT_BIN")
}

/// What does one piece of work again and again, in the optimised build; named in `LEAKGUARD_WORK`.
///
/// # Panics
///
/// If it is not named.
pub fn work_binary() -> PathBuf {
    binary("LEAKGUARD_WORK")
}

/// The OpenTelemetry collector; `cargo xtask setup` fetches it, `cargo xtask test` names it in `LEAKGUARD_ROTEL`.
///
/// # Panics
///
/// If it is not named.
pub fn rotel_binary() -> PathBuf {
    binary("LEAKGUARD_ROTEL")
}

fn binary(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => path.into(),
        None => panic!("{variable} is not set: run the tests with `cargo xtask test`"),
    }
}
