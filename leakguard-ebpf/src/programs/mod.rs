//! The programs. Each is a thin shell: parse, ask the shared verdict, count, report.
//!
//! | program | hook | let go on | drop |
//! |---|---|---|---|
//! | `egress_cookie`, `egress_inode` | `cgroup_skb/egress` | 1 | 0 (EPERM to the sender) |
//! | `tc_ethernet`, `tc_ip`, `tc_any` | TC egress | -1 (next program) | 2 |
//! | `egress_lean`, `tc_lean_ethernet`, `tc_lean_ip`, `tc_lean_any` | the same, where a kernel refuses those | | |
//! | `setsockopt_cookie`, `setsockopt_inode` | `cgroup/setsockopt` | 1 | 0 (EPERM to the caller) |
//! | `owner_create`, `owner_connect4`, `owner_connect6` | `cgroup/sock_create`, `connect4`, `connect6` | 1 | never |
//!
//! Of each row but the last one variant is attached: user space tries to load them in order.

mod context;
mod counters;
mod egress;
mod events;
mod facts;
mod fragments;
mod gate;
mod interface;
mod maps;
mod netns;
mod owners;
mod rates;
mod sender;
mod sockopt;
