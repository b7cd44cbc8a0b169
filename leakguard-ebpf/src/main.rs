//! leakguard's kernel programs; an empty binary on the host, so that workspace-wide commands work.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    expect(
        internal_features,
        reason = "core offers atomic addition on this target only so; the compiler is pinned in rust-toolchain.toml"
    ),
    expect(
        clippy::needless_pass_by_value,
        reason = "the attribute macros call each program with its context by value"
    ),
    expect(
        clippy::cast_possible_truncation,
        reason = "a fallible conversion is a branch that the verifier walks; sizes and lengths here are bounded"
    )
)]

#[cfg(target_arch = "bpf")]
mod programs;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // A panic that can be reached becomes a loop, which the verifier refuses to load.
    loop {}
}

/// GPL-only helpers (`bpf_probe_read_kernel`) are open to "Dual MIT/GPL" programs.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
