//! The programs. Each is a thin shell: parse, ask the shared verdict, count, report.
//!
//! | program | hook | let go on | drop |
//! |---|---|---|---|
//! | `egress_cookie`, `egress_inode` | `cgroup_skb/egress` | 1 | 0 (EPERM to the sender) |
//! | `tc_ethernet`, `tc_ip`, `tc_any` | TC egress | -1 (next program) | 2 |
//! | `egress_lean`, `tc_lean_ethernet`, `tc_lean_ip`, `tc_lean_any` | the same, where a kernel refuses those | | |
//! | `setsockopt_cookie`, `setsockopt_inode` | `cgroup/setsockopt` | 1 | 0 (EPERM to the caller) |
//! | `owner_create` | `cgroup/sock_create` | 1 | never |
//! | `connect4`, `connect6` | `cgroup/connect4`, `connect6` | 1 | 0 (ENETUNREACH to the caller, EPERM before 6.1) |
//! | `sendmsg4`, `sendmsg6` | `cgroup/sendmsg4`, `sendmsg6` | 1 | the same |
//! | `recvmsg4`, `recvmsg6`, `getpeername4`, `getpeername6` | `cgroup/recvmsg4` and so on | 1 | never |
//!
//! Of each row with variants one is attached: user space tries to load them in order.

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
mod redirect;
mod sender;
mod sockopt;
