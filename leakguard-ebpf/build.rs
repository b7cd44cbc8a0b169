//! Tells bpf-linker how to treat stores to memory.

fn main() {
    // A program that calls `memset` makes verifiers before 6.5 give up pruning: they do not follow precision through
    // calls, take every number for one that matters, and walk more than a million instructions. bpf-linker's default
    // is a call for every one of them; without it LLVM stores in place.
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "bpf") {
        println!("cargo::rustc-link-arg=--disable-expand-memcpy-in-order");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
