//! Names of interfaces that do not mean what they seem to.

use super::{Interfaces, permitted};
use crate::interfaces::{Interface, tunnel_of_kind};

/// Warns of interfaces that have come with a name that nft cannot express, which the second net does not permit, or with
/// a tunnel's name but not its kind.
pub(super) fn warn_of_names(before: &Interfaces, after: &Interfaces) {
    for (ifindex, interface) in after {
        let Interface { name, .. } = interface;
        if before.get(ifindex).is_some_and(|was| was.name == *name) {
            continue;
        }
        if let Err(error) = permitted(interface) {
            log::warn!("{error}");
        }
        if let Some(warning) = passed_over(interface) {
            log::warn!("{warning}");
        }
    }
}

/// What to say of an interface that a tunnel's pattern names, but is of a kind that the pattern does not take.
fn passed_over(interface: &Interface) -> Option<String> {
    let Interface {
        ifindex,
        name,
        role,
        kind,
        passed_over,
        ..
    } = interface;
    let pattern = passed_over.as_ref()?;
    let kind_text = kind
        .as_ref()
        .map_or_else(|| "no kind".to_owned(), |kind| format!("kind {kind}"));
    Some(format!(
        "{name} ({ifindex}) has a name of the tunnel `{pattern}`, but is of {kind_text}: it is no tunnel, and stays \
         {role}; if it is meant, name it `{}`",
        tunnel_of_kind(name, kind.as_deref())
    ))
}
