//! The second net: an nftables table that catches forwarded DNS on interfaces that are not permitted.
//!
//! A device that appears is attached to within milliseconds, not at once, and the agent may be dead;
//! in netfilter's forward hooks the default is there already. The table exists in the families
//! `inet` (routed) and `bridge` (bridged) and stays when the agent goes. Uplinks with a TC program
//! are left to that, so that it counts and reports; for 15 seconds at a time, as long as an agent says so.
//!
//! An interface is permitted by number *and* name *and* kind: a number that somebody takes over and a
//! name that somebody steals are not enough, not even both.
//!
//! Where `br_netfilter` is on (`net.bridge.bridge-nf-call-iptables`), a bridged packet passes both
//! tables, with its port as the exit in one and the whole bridge in the other; both have to permit it.
//! nftables cannot tell it from a packet that is routed back to the bridge it came from.
//!
//! A third table, in the family `netdev`, is there only if packet sockets are treated strictly ([`Egress`]). Those in the
//! families `ip` and `ip6` are there only if questions are redirected ([`Redirection`]).

/// Appends formatted text; writing to a `String` cannot fail.
macro_rules! push {
    ($text:expr, $($arguments:tt)*) => {
        $text.push_str(&format!($($arguments)*))
    };
}

mod egress;
mod let_out;
mod listings;
mod nfnetlink;
mod permitted;
mod redirect;
mod ruleset;
mod state;

use std::{io, path::Path, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command, task::spawn_blocking, time};

pub use self::{
    egress::{Egress, EgressTable},
    listings::{Listings, Renewal},
    permitted::{NameError, Permitted},
    redirect::Redirection,
    ruleset::{Action, Restriction, Ruleset, Transport},
    state::{Count, State, Table},
};

/// Name of the table in every family.
const TABLE: &str = "leakguard";

/// How long one run of nft may take.
///
/// It waits for the transaction lock of the kernel, which a large foreign ruleset holds for seconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where distributions put nft; `PATH` of a cron job or a minimal unit often lacks them.
const PROGRAMS: [&str; 4] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/bin/nft",
    "/usr/local/sbin/nft",
];

/// What [`apply`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Applied {
    /// The kernel held exactly this ruleset already.
    Unchanged,
    /// The ruleset was put in place.
    Replaced,
}

/// Puts a ruleset in place of whatever the tables held, in one transaction.
///
/// There is no moment without the table. The counters keep their values.
pub async fn apply(ruleset: &Ruleset) -> Result<Applied, NetfilterError> {
    let present = match read_back(&mut Listings::default()).await {
        Ok(state) => state,
        // A table that somebody else's program filled is replaced, whatever it holds.
        Err(NetfilterError::Decode { .. }) => None,
        Err(error) => return Err(error),
    };
    if present
        .as_ref()
        .is_some_and(|state| state.satisfies(ruleset))
    {
        return Ok(Applied::Unchanged);
    }
    log::debug!("the nftables tables are {present:?}, and should be {ruleset:?}");
    let counts = present.unwrap_or_default();
    run(&["-f", "-"], &ruleset.replacement(&counts)).await?;
    Ok(Applied::Replaced)
}

/// Changes which interfaces are permitted and covered, in one transaction, and leaves the rest as it is.
///
/// It also renews the leases of the covered ones.
pub async fn update_interfaces(ruleset: &Ruleset) -> Result<(), NetfilterError> {
    run(&["-f", "-"], &ruleset.interfaces_update()).await?;
    Ok(())
}

/// Renews the leases of the covered interfaces, and changes nothing else; says how to tell, if that is known.
///
/// This is done all the time, so that no program is started for it where netlink does.
pub async fn renew(ruleset: &Ruleset) -> Result<Option<Renewal>, NetfilterError> {
    let (families, leases) = (ruleset.families(), ruleset.leases());
    let families: Vec<_> = families.map(ruleset::Family::name).collect();
    // The kernel may be busy with somebody else's transaction.
    let renewed = spawn_blocking(move || {
        let before = nfnetlink::generation()?;
        let after = nfnetlink::refill(&families, &leases, before)?;
        Ok::<_, io::Error>(Renewal { before, after })
    });
    match renewed.await.map_err(io::Error::other).flatten() {
        Ok(renewal) => Ok(Some(renewal)),
        Err(error) => {
            log::debug!("cannot renew the leases by netlink: {error}");
            update_interfaces(ruleset).await?;
            Ok(None)
        }
    }
}

/// The number of the namespace's ruleset: every transaction, whoever makes it, gives it the next. `None` if the kernel does
/// not say.
pub fn generation() -> Option<u32> {
    nfnetlink::generation()
        .inspect_err(|error| log::debug!("cannot ask for the ruleset's number: {error}"))
        .ok()
}

/// Puts the netdev table in place of whatever it held, in one transaction, or removes it.
///
/// A transaction of its own: a device that has just gone, or a kernel without the hook, keeps nothing else from being
/// changed.
pub async fn apply_egress(egress: Option<&Egress>) -> Result<Applied, NetfilterError> {
    let present = match read_egress(&mut Listings::default()).await {
        Ok(present) => present,
        // What somebody else's program filled is replaced, whatever it holds.
        Err(NetfilterError::Decode { .. }) => Some(EgressTable::default()),
        Err(error) => return Err(error),
    };
    let batch = match (egress, &present) {
        (None, None) => return Ok(Applied::Unchanged),
        (None, Some(_)) => ruleset::deletion(egress::FAMILY),
        (Some(egress), Some(present)) if present.satisfies(egress) => {
            return Ok(Applied::Unchanged);
        }
        (Some(egress), present) => egress.replacement(present.as_ref()),
    };
    run(&["-f", "-"], &batch).await?;
    Ok(Applied::Replaced)
}

/// Reads what the kernel holds of the netdev table; `None` if there is none.
pub async fn read_egress(listings: &mut Listings) -> Result<Option<EgressTable>, NetfilterError> {
    let Some(listing) = listings.table(egress::FAMILY).await? else {
        return Ok(None);
    };
    let text = listings.chains(egress::FAMILY).await?;
    let table =
        EgressTable::parse(&listing, &text).map_err(|source| NetfilterError::Decode { source })?;
    Ok(Some(table))
}

/// Puts the tables that redirect forwarded questions in place of whatever they held, in one transaction, or removes them.
///
/// A transaction of its own: a kernel that cannot translate addresses keeps nothing else from being changed.
pub async fn apply_redirection(
    redirection: Option<&Redirection>,
) -> Result<Applied, NetfilterError> {
    let mut batch = String::new();
    for family in redirect::FAMILIES {
        let wanted = redirection.and_then(|redirection| redirection.table(family));
        match (wanted, list_table(family).await?) {
            (None, None) => {}
            (None, Some(_)) => batch.push_str(&ruleset::deletion(family)),
            (Some(wanted), listing) => {
                // What somebody else's program filled is replaced, whatever it holds.
                let is_listed = |listing: String| wanted.is_listed(&listing).unwrap_or(false);
                if !listing.is_some_and(is_listed) {
                    batch.push_str(&wanted.replacement());
                }
            }
        }
    }
    if batch.is_empty() {
        return Ok(Applied::Unchanged);
    }
    run(&["-f", "-"], &batch).await?;
    Ok(Applied::Replaced)
}

/// The families whose table does not redirect forwarded questions as it should, whatever interfaces it knows.
pub async fn lacking_redirection(
    redirection: &Redirection,
    listings: &mut Listings,
) -> Result<Vec<&'static str>, NetfilterError> {
    let mut lacking = Vec::new();
    for family in redirect::FAMILIES {
        if let Some(wanted) = redirection.table(family) {
            let has_rules = match listings.table(family).await? {
                Some(listing) => wanted
                    .has_rules(&listing)
                    .map_err(|source| NetfilterError::Decode { source })?,
                None => false,
            };
            if !has_rules {
                lacking.push(family);
            }
        }
    }
    Ok(lacking)
}

/// Reads what the kernel holds; `None` if there is no such table in either family.
pub async fn read_back(listings: &mut Listings) -> Result<Option<State>, NetfilterError> {
    let inet = listings.net("inet").await?;
    let bridge = listings.net("bridge").await?;
    Ok((inet.is_some() || bridge.is_some()).then_some(State { inet, bridge }))
}

/// Removes the tables, in one transaction; says whether there were any.
pub async fn remove() -> Result<bool, NetfilterError> {
    let mut batch = String::new();
    let families = ["inet", "bridge", egress::FAMILY].into_iter();
    for family in families.chain(redirect::FAMILIES) {
        if list_table(family).await?.is_some() {
            batch.push_str(&ruleset::deletion(family));
        }
    }
    if batch.is_empty() {
        return Ok(false);
    }
    run(&["-f", "-"], &batch).await?;
    Ok(true)
}

/// Why the second net could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetfilterError {
    /// There is no nft program.
    #[error("nft is not installed")]
    Missing,
    /// nft could not be run.
    #[error("cannot run nft")]
    Run {
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// nft did not finish in time and was ended.
    #[error("nft did not finish within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// nft or the kernel refused; nothing was changed.
    #[error("nft failed: {message}")]
    Refused {
        /// The first line of what nft printed.
        message: String,
    },
    /// nft was ended from outside: what it was told is done or not, as a whole.
    #[error("nft was ended by a signal")]
    Ended,
    /// What nft lists is not JSON.
    #[error("cannot decode what nft lists")]
    Decode {
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Lists one table as JSON; `None` if it does not exist.
async fn list_table(family: &str) -> Result<Option<String>, NetfilterError> {
    // Most of them are not there, which takes no program to find out.
    if let Ok(false) = nfnetlink::has_table(family) {
        return Ok(None);
    }
    match run(&["-j", "list", "table", family, TABLE], "").await {
        Ok(listing) => Ok(Some(listing)),
        // Absent table, or a kernel without the family.
        Err(NetfilterError::Refused { message })
            if message.contains("No such file or directory")
                || message.contains("not supported") =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// nft lists the number of an interface that exists as its name.
fn resolve(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Runs nft in this process's network namespace and returns what it prints.
async fn run(arguments: &[&str], input: &str) -> Result<String, NetfilterError> {
    let program = PROGRAMS
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("nft");
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => NetfilterError::Missing,
        _ => NetfilterError::Run { source },
    };
    let mut child = Command::new(program)
        .args(arguments)
        // Errors are told apart by their text.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        // Ctrl-C is for the agent: nft is to finish what it was told.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let exchange = async {
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input.as_bytes()).await {
                // It did not read everything: its exit status and its message say why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                result => result?,
            }
        }
        child.wait_with_output().await
    };
    let Ok(output) = time::timeout(TIMEOUT, exchange).await else {
        return Err(NetfilterError::TimedOut);
    };
    let output = output.map_err(failed)?;
    if output.status.code().is_none() {
        return Err(NetfilterError::Ended);
    }
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let message = text.lines().next().unwrap_or("no message").to_owned();
        return Err(NetfilterError::Refused { message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
