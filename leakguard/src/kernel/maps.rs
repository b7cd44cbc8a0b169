//! Typed access to the maps, whether just loaded or found pinned.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{
    Array, DevMapHash, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, RingBuf,
};
use leakguard_common::abi::{
    ASKED_RING_BYTES, EVENT_RING_BYTES, Endpoint, EndpointKey, FirstFragment, FragmentKey, LanKey,
    Liveness, MAX_CARRIERS, MAX_DOH_ADDRESSES, MAX_DOH_NAMES, MAX_ENDPOINTS, MAX_FRAGMENTS,
    MAX_INTERFACES, MAX_LAN, MAX_NEAR, MAX_RATES, MAX_SPARED, NameKey, Original, Outcome, Owner,
    Rate, RateKey, Role, Settings, SparedKey, map,
};
use leakguard_common::counter::{SERIES, Series};
use leakguard_common::restriction;
use leakguard_common::sieve::Sieve;

use super::exemptions::{ExemptionTables, Exemptions};
use super::pins::Pins;
use super::recognition::{Recognition, RecognitionTables};
use super::redirection::{Redirection, RedirectionTables};
use super::tables::PrefixSet;
use super::{KernelError, boot_time};

/// What a pinned map must look like to be used; aya opens whatever is at the path.
struct Layout {
    name: &'static str,
    kind: MapType,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

const LAYOUTS: [Layout; 20] = [
    // A devmap's value is an interface number and a program (since 5.8).
    layout(map::TUNNELS, MapType::DevMapHash, 4, 8, MAX_INTERFACES),
    layout(map::LOCALS, MapType::DevMapHash, 4, 8, MAX_INTERFACES),
    layout(map::SETTINGS, MapType::Array, 4, size_of::<Settings>(), 1),
    layout(map::LIVENESS, MapType::Array, 4, size_of::<Liveness>(), 1),
    layout(
        map::ENDPOINTS,
        MapType::Hash,
        size_of::<EndpointKey>(),
        size_of::<Endpoint>(),
        2 * MAX_ENDPOINTS,
    ),
    layout(map::LAN, MapType::LpmTrie, size_of::<LanKey>(), 4, MAX_LAN),
    layout(
        map::DOH_ADDRESSES,
        MapType::LpmTrie,
        size_of::<LanKey>(),
        4,
        MAX_DOH_ADDRESSES,
    ),
    layout(map::DOH_SIEVE, MapType::Array, 4, size_of::<Sieve>(), 1),
    layout(
        map::DOH_NAMES,
        MapType::LpmTrie,
        size_of::<NameKey>(),
        4,
        2 * MAX_DOH_NAMES,
    ),
    layout(
        map::CARRIERS,
        MapType::Hash,
        size_of::<EndpointKey>(),
        4,
        MAX_CARRIERS,
    ),
    layout(
        map::FRAGMENTS,
        MapType::LruHash,
        size_of::<FragmentKey>(),
        size_of::<FirstFragment>(),
        MAX_FRAGMENTS,
    ),
    layout(map::PACKETS, MapType::PerCpuArray, 4, 8, SERIES),
    layout(map::OUTCOMES, MapType::PerCpuArray, 4, 8, OUTCOMES),
    layout(map::EVENTS, MapType::RingBuf, 0, 0, EVENT_RING_BYTES),
    layout(map::OWNERS, MapType::SkStorage, 4, size_of::<Owner>(), 0),
    layout(
        map::ORIGINALS,
        MapType::SkStorage,
        4,
        size_of::<Original>(),
        0,
    ),
    layout(
        map::NEAR,
        MapType::LpmTrie,
        size_of::<LanKey>(),
        4,
        MAX_NEAR,
    ),
    layout(
        map::SPARED,
        MapType::Hash,
        size_of::<SparedKey>(),
        4,
        MAX_SPARED,
    ),
    layout(
        map::RATES,
        MapType::LruHash,
        size_of::<RateKey>(),
        size_of::<Rate>(),
        MAX_RATES,
    ),
    layout(map::ASKED, MapType::RingBuf, 0, 0, ASKED_RING_BYTES),
];

#[expect(clippy::cast_possible_truncation, reason = "a handful")]
const OUTCOMES: u32 = Outcome::ALL.len() as u32;

const fn layout(
    name: &'static str,
    kind: MapType,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
) -> Layout {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "sizes of a few dozen bytes"
    )]
    let (key_size, value_size) = (key_size as u32, value_size as u32);
    Layout {
        name,
        kind,
        key_size,
        value_size,
        max_entries,
    }
}

impl Layout {
    fn fits(&self, info: &MapInfo) -> bool {
        let Self {
            name: _,
            kind,
            key_size,
            value_size,
            max_entries,
        } = self;
        info.map_type().is_ok_and(|found| found == *kind)
            && info.key_size() == *key_size
            && info.value_size() == *value_size
            && info.max_entries() == *max_entries
    }
}

/// Which of leakguard's maps this one is, by its name in the kernel and its layout.
pub(super) fn name_of(info: &MapInfo) -> Option<&'static str> {
    let layout = LAYOUTS
        .iter()
        .find(|layout| info.name() == layout.name.as_bytes())?;
    layout.fits(info).then_some(layout.name)
}

/// The maps that programs only look into. They write the others, which `leakguard explain` must have for itself.
const LOOKED_UP: [&str; 12] = [
    map::TUNNELS,
    map::LOCALS,
    map::SETTINGS,
    map::LIVENESS,
    map::ENDPOINTS,
    map::LAN,
    map::DOH_ADDRESSES,
    map::DOH_SIEVE,
    map::DOH_NAMES,
    map::CARRIERS,
    map::NEAR,
    map::SPARED,
];

/// The names of the maps that programs only look into.
pub(super) fn looked_up() -> impl Iterator<Item = &'static str> {
    LOOKED_UP.into_iter()
}

/// The names of all maps.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    LAYOUTS.iter().map(|layout| layout.name)
}

/// Checks every map that is pinned; says whether all are there.
pub(super) fn check_pinned(pins: &Pins) -> Result<bool, KernelError> {
    let mut complete = true;
    for layout in &LAYOUTS {
        let name = layout.name;
        let path = pins.map(name);
        if !path.exists() {
            complete = false;
            continue;
        }
        let foreign = || KernelError::Foreign {
            path: path.clone(),
            expected: "map",
        };
        let info = MapInfo::from_pin(&path).map_err(|error| KernelError::map(name, error))?;
        if !layout.fits(&info) {
            return Err(foreign());
        }
    }
    Ok(complete)
}

/// The maps that the agent reads and writes.
pub struct Maps {
    tunnels: DevMapHash<MapData>,
    locals: DevMapHash<MapData>,
    settings: Array<MapData, Settings>,
    liveness: Array<MapData, Liveness>,
    exemptions: ExemptionTables,
    recognition: RecognitionTables,
    redirection: RedirectionTables,
    packets: PerCpuArray<MapData, u64>,
    outcomes: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Opens the maps of enforcing state; `None` if there is none.
    pub fn open(pins: &Pins) -> Result<Option<Self>, KernelError> {
        if !check_pinned(pins)? {
            return Ok(None);
        }
        Self::collect(|name| MapData::from_pin(pins.map(name)).and_then(Map::from_map_data))
            .map(Some)
    }

    /// Opens the maps that programs work on, and those that are pinned of the rest; an error if one is neither.
    pub(super) fn of_programs(
        used: &BTreeMap<&'static str, Vec<MapInfo>>,
        pins: &Pins,
    ) -> Result<Self, KernelError> {
        if used.is_empty() {
            return Err(KernelError::map(map::SETTINGS, "unused"));
        }
        Self::collect(|name| {
            match used.get(name).and_then(|maps| maps.first()) {
                Some(info) => MapData::from_id(info.id()),
                None => MapData::from_pin(pins.map(name)),
            }
            .and_then(Map::from_map_data)
        })
    }

    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Self::collect(|name| ebpf.take_map(name).ok_or_else(|| absent(name)))
    }

    fn collect(
        mut find: impl FnMut(&'static str) -> Result<Map, MapError>,
    ) -> Result<Self, KernelError> {
        fn typed<M: TryFrom<Map, Error = MapError>>(
            name: &'static str,
            found: Result<Map, MapError>,
        ) -> Result<M, KernelError> {
            found
                .and_then(M::try_from)
                .map_err(|error| KernelError::map(name, error))
        }
        Ok(Self {
            tunnels: typed(map::TUNNELS, find(map::TUNNELS))?,
            locals: typed(map::LOCALS, find(map::LOCALS))?,
            settings: typed(map::SETTINGS, find(map::SETTINGS))?,
            liveness: typed(map::LIVENESS, find(map::LIVENESS))?,
            exemptions: ExemptionTables {
                endpoints: typed(map::ENDPOINTS, find(map::ENDPOINTS))?,
                lan: PrefixSet::new(map::LAN, typed(map::LAN, find(map::LAN))?),
            },
            recognition: RecognitionTables {
                doh_addresses: PrefixSet::new(
                    map::DOH_ADDRESSES,
                    typed(map::DOH_ADDRESSES, find(map::DOH_ADDRESSES))?,
                ),
                doh_sieve: typed(map::DOH_SIEVE, find(map::DOH_SIEVE))?,
                doh_names: PrefixSet::new(
                    map::DOH_NAMES,
                    typed(map::DOH_NAMES, find(map::DOH_NAMES))?,
                ),
                carriers: typed(map::CARRIERS, find(map::CARRIERS))?,
            },
            redirection: RedirectionTables {
                near: PrefixSet::new(map::NEAR, typed(map::NEAR, find(map::NEAR))?),
                spared: typed(map::SPARED, find(map::SPARED))?,
            },
            packets: typed(map::PACKETS, find(map::PACKETS))?,
            outcomes: typed(map::OUTCOMES, find(map::OUTCOMES))?,
        })
    }

    /// What the programs are told now.
    pub fn settings(&self) -> Result<Settings, KernelError> {
        self.settings
            .get(&0, 0)
            .map_err(|error| KernelError::map(map::SETTINGS, error))
    }

    /// Tells the programs something else; says whether it was different before.
    pub fn set_settings(&mut self, settings: Settings) -> Result<bool, KernelError> {
        if self.settings()? == settings {
            return Ok(false);
        }
        self.settings
            .set(0, settings, 0)
            .map_err(|error| KernelError::map(map::SETTINGS, error))?;
        Ok(true)
    }

    /// What an agent vouches for now, or has vouched for.
    pub fn liveness(&self) -> Result<Liveness, KernelError> {
        self.liveness
            .get(&0, 0)
            .map_err(|error| KernelError::map(map::LIVENESS, error))
    }

    /// Vouches for a tunnel, or for none any more.
    pub(super) fn set_liveness(&mut self, liveness: Liveness) -> Result<(), KernelError> {
        self.liveness
            .set(0, liveness, 0)
            .map_err(|error| KernelError::map(map::LIVENESS, error))
    }

    /// What an engaged kill switch lets out.
    pub fn exemptions(&self) -> Result<Exemptions, KernelError> {
        self.exemptions.read()
    }

    /// Lets exactly this out of an engaged kill switch; says whether it was different before.
    pub(super) fn set_exemptions(&mut self, exemptions: &Exemptions) -> Result<bool, KernelError> {
        self.exemptions.write(exemptions)
    }

    /// What the programs know packets by, besides their ports.
    pub fn recognition(&self) -> Result<Recognition, KernelError> {
        self.recognition.read()
    }

    /// Makes the programs know packets by exactly this; says whether it was different before.
    pub(super) fn set_recognition(
        &mut self,
        recognition: &Recognition,
    ) -> Result<bool, KernelError> {
        self.recognition.write(recognition)
    }

    /// Which calls are left alone by redirection.
    pub fn redirection(&self) -> Result<Redirection, KernelError> {
        self.redirection.read()
    }

    /// Leaves exactly these calls alone; says whether it was different before.
    pub(super) fn set_redirection(
        &mut self,
        redirection: &Redirection,
    ) -> Result<bool, KernelError> {
        self.redirection.write(redirection)
    }

    /// The role that the programs give an interface of the managed namespace.
    pub fn role(&self, ifindex: u32) -> Role {
        if ifindex == leakguard_common::abi::LOOPBACK_IFINDEX || self.locals.get(ifindex, 0).is_ok()
        {
            Role::Local
        } else if self.tunnels.get(ifindex, 0).is_ok() {
            Role::Tunnel
        } else {
            Role::Uplink
        }
    }

    /// Takes every permission that `keep` does not grant; says whether there was one.
    pub fn retain(&mut self, keep: impl Fn(u32) -> Role) -> Result<bool, KernelError> {
        let tunnels = retain(map::TUNNELS, &mut self.tunnels, |ifindex| {
            keep(ifindex) == Role::Tunnel
        })?;
        let locals = retain(map::LOCALS, &mut self.locals, |ifindex| {
            keep(ifindex) == Role::Local
        })?;
        Ok(tunnels || locals)
    }

    /// Permits an interface of the current namespace; says whether it was not so before.
    ///
    /// An interface that has gone meanwhile is not an error: the kernel refuses it, which is what is wanted.
    pub fn permit(&mut self, ifindex: u32, role: Role) -> Result<bool, KernelError> {
        let (name, table) = match role {
            Role::Tunnel => (map::TUNNELS, &mut self.tunnels),
            Role::Local => (map::LOCALS, &mut self.locals),
            Role::Uplink => return Ok(false),
        };
        if table.get(ifindex, 0).is_ok() {
            return Ok(false);
        }
        match table.insert(ifindex, ifindex, None, 0) {
            Ok(()) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(KernelError::map(name, error)),
        }
    }

    /// The packet counters that are not 0.
    pub fn packets(&self) -> Result<Vec<(Series, u64)>, KernelError> {
        let mut found = Vec::new();
        for series in Series::all() {
            let count = total(map::PACKETS, &self.packets, series.index())?;
            if count > 0 {
                found.push((series, count));
            }
        }
        Ok(found)
    }

    /// How many packets one series counts.
    pub(super) fn count(&self, series: Series) -> Result<u64, KernelError> {
        total(map::PACKETS, &self.packets, series.index())
    }

    /// Whether the kill switch is engaged now, as the programs see it.
    pub fn is_engaged(&self) -> Result<bool, KernelError> {
        let settings = self.settings()?;
        let liveness = self.liveness()?;
        let now = boot_time()?;
        Ok(restriction::is_engaged(&settings, || {
            liveness.holds(|| now, |ifindex| self.role(ifindex) == Role::Tunnel)
        }))
    }

    /// How many events had an outcome.
    pub fn events(&self, outcome: Outcome) -> Result<u64, KernelError> {
        total(map::OUTCOMES, &self.outcomes, u32::from(outcome as u8))
    }
}

fn absent(name: &str) -> MapError {
    MapError::PinError {
        name: Some(name.into()),
        error: aya::pin::PinError::NoFd { name: name.into() },
    }
}

/// Takes a ring out of a loaded object.
pub(super) fn take_ring(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<RingBuf<MapData>, KernelError> {
    RingBuf::try_from(take(ebpf, name)?).map_err(|error| KernelError::map(name, error))
}

/// Takes the rates out of a loaded object.
pub(super) fn take_rates(ebpf: &mut Ebpf) -> Result<HashMap<MapData, RateKey, Rate>, KernelError> {
    HashMap::try_from(take(ebpf, map::RATES)?).map_err(|error| KernelError::map(map::RATES, error))
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name)
        .ok_or_else(|| KernelError::map(name, "absent"))
}

fn retain(
    name: &'static str,
    table: &mut DevMapHash<MapData>,
    keep: impl Fn(u32) -> bool,
) -> Result<bool, KernelError> {
    let listed: Vec<u32> = table
        .keys()
        .collect::<Result<_, _>>()
        .map_err(|error| KernelError::map(name, error))?;
    let mut removed = false;
    for ifindex in listed.into_iter().filter(|&ifindex| !keep(ifindex)) {
        match table.remove(ifindex) {
            Ok(()) => removed = true,
            // The kernel was first.
            Err(MapError::KeyNotFound) => {}
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(KernelError::map(name, error)),
        }
    }
    Ok(removed)
}

fn total(
    name: &'static str,
    counters: &PerCpuArray<MapData, u64>,
    index: u32,
) -> Result<u64, KernelError> {
    let values = counters
        .get(&index, 0)
        .map_err(|error| KernelError::map(name, error))?;
    Ok(values.iter().sum())
}

/// A devmap refuses the number of an interface that is not there with EINVAL (`kernel/bpf/devmap.c`, 6.18).
fn is_gone(error: &aya::maps::xdp::XdpMapError) -> bool {
    let aya::maps::xdp::XdpMapError::MapError(MapError::SyscallError(error)) = error else {
        return false;
    };
    error.io_error.raw_os_error() == Some(nix::libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A new map belongs into one of the lists.
    #[test]
    fn it_is_known_of_each_map_whether_programs_write_it() {
        const WRITTEN: [&str; 8] = [
            map::FRAGMENTS,
            map::PACKETS,
            map::OUTCOMES,
            map::EVENTS,
            map::OWNERS,
            map::ORIGINALS,
            map::RATES,
            map::ASKED,
        ];
        let listed: Vec<&str> = LOOKED_UP.into_iter().chain(WRITTEN).collect();
        assert_eq!(listed.len(), LAYOUTS.len());
        let all: BTreeSet<&str> = names().collect();
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), all);
    }
}
