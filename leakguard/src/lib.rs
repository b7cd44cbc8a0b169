//! leakguard's agent: loads the kernel programs, keeps them in step with the host, reports what they drop.

pub mod host;
pub mod kernel;
pub mod lab;
