//! What leakguard's kernel and user side share.
#![no_std]
