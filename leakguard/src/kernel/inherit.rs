//! What an earlier process has left: checked before anything is done, and completed where half of it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::os::fd::AsFd;

use aya::maps::MapInfo;
use leakguard_common::abi::{Settings, map};

use super::links::{self, open_link};
use super::maps;
use super::netns::Identity;
use super::object::programs;
use super::pins::Pins;
use super::syscall::{ProgramInfo, first_element, link_info, object_pin};
use super::{KernelError, held};

// The namespace stands first in the settings of every version, so that each can tell whose state another has left.
const _: () = {
    assert!(offset_of!(Settings, netns_cookie) == 0);
    assert!(offset_of!(Settings, netns_inode) == 8);
};

/// Checks the state that is pinned, and pins again what programs still use; says what is missing all the same.
///
/// Refuses what is not leakguard's, and what enforces in another namespace: interface numbers there mean other devices.
pub(super) fn inherit(pins: &Pins) -> Result<Vec<String>, KernelError> {
    let running = links::check_pinned(pins)?;
    maps::check_pinned(pins)?;
    // Whatever is pinned, this is what they work on.
    let used = used_maps(&running, None);
    check_namespace(pins)?;
    let mut missing = Vec::new();
    for name in maps::names() {
        let pin = pins.map(name);
        if pin.exists() {
            continue;
        }
        missing.push(name.to_owned());
        if let Some(map) = used.get(name).and_then(|used| used.first()) {
            let opened = map.fd().map_err(|error| KernelError::map(name, error))?;
            object_pin(&pin, opened.as_fd())
                .map_err(KernelError::call("BPF_OBJ_PIN", pin.display().to_string()))?;
        }
    }
    if open_link(&pins.cgroup_link())?.is_none() {
        missing.push("the cgroup link".into());
    }
    Ok(missing)
}

/// The maps of this version's layout that programs use, by name. Where the `first` of them uses one of a name, those of the
/// others do not count.
pub(super) fn used_maps(
    running: &BTreeSet<u32>,
    first: Option<u32>,
) -> BTreeMap<&'static str, Vec<MapInfo>> {
    let (firsts, others): (Vec<_>, Vec<_>) =
        programs(running).partition(|program| Some(program.id) == first);
    let mut used = by_name(maps_of(firsts));
    for (name, maps) in by_name(maps_of(others)) {
        used.entry(name).or_insert(maps);
    }
    used
}

fn by_name(maps: impl Iterator<Item = MapInfo>) -> BTreeMap<&'static str, Vec<MapInfo>> {
    let mut named: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for info in maps {
        if let Some(name) = maps::name_of(&info) {
            named.entry(name).or_default().push(info);
        }
    }
    named
}

/// The maps that are in use, but not pinned, or with another one pinned in their place; one sentence if there are any.
pub(super) fn gaps(pins: &Pins, used: &BTreeMap<&'static str, Vec<MapInfo>>) -> Vec<String> {
    let is_pinned = |name: &str| {
        let pinned = MapInfo::from_pin(pins.map(name));
        pinned.is_ok_and(|pinned| {
            let used = used.get(name);
            used.is_none_or(|used| used.iter().any(|map| map.id() == pinned.id()))
        })
    };
    let missing: Vec<&str> = maps::names().filter(|name| !is_pinned(name)).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "the maps {} are not pinned, so that nobody can change what they hold; `leakguard run` or `leakguard apply` \
         pins them again",
        missing.join(", ")
    )]
}

fn maps_of(programs: impl IntoIterator<Item = ProgramInfo>) -> impl Iterator<Item = MapInfo> {
    let ids: BTreeSet<u32> = programs
        .into_iter()
        .flat_map(|program| program.maps)
        .collect();
    ids.into_iter().filter_map(|id| MapInfo::from_id(id).ok())
}

/// Refuses state that enforces in another namespace.
pub(super) fn check_namespace(pins: &Pins) -> Result<(), KernelError> {
    let current = Identity::current()?;
    if identities(pins)?.into_iter().all(|found| found == current) {
        return Ok(());
    }
    Err(KernelError::OtherNamespace {
        path: pins.root().to_owned(),
        bpffs: pins.bpffs().to_owned(),
    })
}

/// The namespaces that the state of any version is for: by the pinned settings, and by those that the linked programs
/// use, whatever is pinned.
pub(super) fn identities(pins: &Pins) -> Result<Vec<Identity>, KernelError> {
    let error = |error| KernelError::map(map::SETTINGS, error);
    let mut found = Vec::new();
    if let Some(settings) = held::open(&pins.map(map::SETTINGS))? {
        found.extend(identity(&first_element(settings.as_fd()).map_err(error)?));
    }
    let mut linked = BTreeSet::new();
    for pin in pins.links()? {
        if let Some(link) = held::open(&pin)?
            && let Ok(info) = link_info(link.as_fd())
        {
            linked.insert(info.program_id);
        }
    }
    for info in maps_of(programs(&linked)) {
        if info.name() != map::SETTINGS.as_bytes() {
            continue;
        }
        let settings = info
            .fd()
            .map_err(|error| KernelError::map(map::SETTINGS, error))?;
        found.extend(identity(&first_element(settings.as_fd()).map_err(error)?));
    }
    Ok(found)
}

/// Reads it from the settings; `None` before they are written.
fn identity(settings: &[u8]) -> Option<Identity> {
    let cookie = u64::from_ne_bytes(*settings.first_chunk()?);
    let inode = u32::from_ne_bytes(*settings.get(8..)?.first_chunk()?);
    (inode != 0).then_some(Identity { cookie, inode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_read_from_settings_of_any_length() {
        let mut settings = [0; 40];
        assert_eq!(identity(&settings), None, "not written yet");
        settings[..8].copy_from_slice(&7_u64.to_ne_bytes());
        settings[8..12].copy_from_slice(&9_u32.to_ne_bytes());
        let expected = Some(Identity {
            cookie: 7,
            inode: 9,
        });
        assert_eq!(identity(&settings), expected);
        assert_eq!(identity(&settings[..12]), expected);
        for length in 0..12 {
            assert_eq!(identity(&settings[..length]), None);
        }
    }
}
