//! Which interfaces exist in the managed network namespace, which role each has, and when that changes.
//!
//! [`snapshot()`] reads links and routes, [`classify`] turns them into roles without touching the
//! kernel, [`Watcher`] says when to read again. A caller creates the watcher *before* its first
//! snapshot: a change in between then shows up as an event, never as a hole.
//!
//! Invariant: nothing here guesses towards "safe". A route that cannot be resolved, a kind that is
//! not known and an event that was lost all end in [`Role::Uplink`](leakguard_common::abi::Role) or
//! in a full re-read.

mod carriers;
mod listener;
mod lookup;
mod netlink;
mod pattern;
mod role;
mod routes;
mod snapshot;
mod table;
mod tunnels;
mod watch;

pub(crate) use self::listener::{Listener, each_message};
pub(crate) use self::netlink::{attribute, attributes};
pub(crate) use self::pattern::tunnel_of_kind;
pub use self::{
    lookup::{Exit, Path, exit_towards, path_towards},
    netlink::NetlinkError,
    pattern::{Pattern, PatternError},
    role::{Interface, RolePatterns, classify},
    routes::{Reach, Routes},
    snapshot::{Link, Snapshot, is_up, snapshot},
    table::{Address, PolicyRule, RouteEntry, Tables, addresses, tables},
    tunnels::visible_tunnels,
    watch::{Changes, WatchError, Watcher},
};
