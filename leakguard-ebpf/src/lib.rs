//! Kernel programs; built for the BPF target only.
