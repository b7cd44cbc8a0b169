//! leakguard's kernel programs; an empty binary on the host, so that workspace-wide commands work.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Atomic addition; core offers it on this target only so. The compiler is pinned, see rust-toolchain.toml.
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    expect(internal_features)
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
