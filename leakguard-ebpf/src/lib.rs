//! Empty: it exists so that the loader can build-depend on this package and is rebuilt when it changes.
#![no_std]
