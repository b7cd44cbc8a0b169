//! What leakguard's kernel and user side share: the map layout, the packet parser and the verdict.
//!
//! Everything here is pure and `no_std`, so that the same code decides in the kernel, in the host's unit
//! tests and in `explain`.

#![no_std]

pub mod abi;
pub mod counter;
pub mod encapsulation;
pub mod hardening;
pub mod packet;
pub mod plain;
pub mod redirect;
pub mod restriction;
pub mod server_name;
pub mod shape;
pub mod sieve;
pub mod verdict;
