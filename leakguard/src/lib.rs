//! leakguard's agent: loads the kernel programs, keeps them in step with the host, reports what they drop.

pub mod capture;
pub mod change;
pub mod cli;
pub mod config;
pub mod confirm;
pub mod daemon;
pub mod doctor;
pub mod doh;
pub mod error;
pub mod event;
pub mod explain;
pub mod guard;
pub mod host;
pub mod interfaces;
pub mod kernel;
pub mod lab;
pub mod netfilter;
pub mod outputs;
pub mod prefix;
pub mod preflight;
pub mod purge;
pub mod report;
pub mod sockets;
pub mod status;
pub mod tally;
pub mod top;
