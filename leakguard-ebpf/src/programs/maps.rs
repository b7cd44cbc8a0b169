//! Every map; names, keys and values are the ABI in `leakguard_common::abi`.

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use leakguard_common::abi::{
    ASKED_RING_BYTES, EVENT_RING_BYTES, Endpoint, EndpointKey, FirstFragment, FragmentKey,
    Liveness, MAX_CARRIERS, MAX_DOH_ADDRESSES, MAX_DOH_NAMES, MAX_ENDPOINTS, MAX_FRAGMENTS,
    MAX_INTERFACES, MAX_LAN, MAX_NEAR, MAX_RATES, MAX_SPARED, NAME_BYTES, Original, Outcome, Owner,
    Rate, RateKey, Settings, SparedKey,
};
use leakguard_common::counter::SERIES;
use leakguard_common::sieve::Sieve;

/// Interfaces that may carry DNS. A `DEVMAP_HASH`, because the kernel itself removes an entry when the device is
/// unregistered or leaves the namespace (`dev_map_notification` in `kernel/bpf/devmap.c`, 5.4 and later): a
/// number that somebody takes over is never allowed, also with the agent dead.
#[map]
pub(super) static TUNNELS: DevMapHash = DevMapHash::with_max_entries(MAX_INTERFACES, 0);

/// Interfaces whose packets stay on the host; a `DEVMAP_HASH` for the same reason.
#[map]
pub(super) static LOCALS: DevMapHash = DevMapHash::with_max_entries(MAX_INTERFACES, 0);

/// What the agent tells the programs.
#[map]
pub(super) static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// What the agent vouches for, for a few seconds at a time.
#[map]
pub(super) static LIVENESS: Array<Liveness> = Array::with_max_entries(1, 0);

/// Where the tunnels' own packets go, and who may send there.
#[map]
pub(super) static ENDPOINTS: HashMap<EndpointKey, Endpoint> =
    HashMap::with_max_entries(2 * MAX_ENDPOINTS, 0);

/// What follows the length in a `LanKey`.
pub(super) type Prefix = [u8; 20];

/// Prefixes that an engaged kill switch lets out. The value says nothing.
#[map]
pub(super) static LAN: LpmTrie<Prefix, u32> = LpmTrie::with_max_entries(MAX_LAN, 0);

/// Resolvers of DNS over HTTPS. The value says nothing.
#[map]
pub(super) static DOH_ADDRESSES: LpmTrie<Prefix, u32> =
    LpmTrie::with_max_entries(MAX_DOH_ADDRESSES, 0);

/// Which destinations need not be looked for among them.
#[map]
pub(super) static DOH_SIEVE: Array<Sieve> = Array::with_max_entries(1, 0);

/// Their names, backwards. The value says nothing.
#[map]
pub(super) static DOH_NAMES: LpmTrie<[u8; NAME_BYTES], u32> =
    LpmTrie::with_max_entries(2 * MAX_DOH_NAMES, 0);

/// Where permitted tunnels that do not encrypt send what they have packed. The value says nothing.
#[map]
pub(super) static CARRIERS: HashMap<EndpointKey, u32> = HashMap::with_max_entries(MAX_CARRIERS, 0);

/// What became of first fragments; one that is forgotten is one that is not known.
#[map]
pub(super) static FRAGMENTS: LruHashMap<FragmentKey, FirstFragment> =
    LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);

/// Exact packet counts.
#[map]
pub(super) static PACKETS: PerCpuArray<u64> = PerCpuArray::with_max_entries(SERIES, 0);

/// What became of events.
#[map]
pub(super) static OUTCOMES: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(Outcome::ALL.len() as u32, 0);

/// Sampled packets for user space.
#[map]
pub(super) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES, 0);

/// Who uses each socket. Its memory is the socket's and goes with it.
#[btf_map]
pub(super) static OWNERS: SkStorage<Owner> = SkStorage::new();

/// How often what has been told. An entry that is used for another key meanwhile costs a number in an event; what the
/// counters say stays exact.
#[map]
pub(super) static RATES: LruHashMap<RateKey, Rate> = LruHashMap::with_max_entries(MAX_RATES, 0);

/// Whom redirected sockets were to reach. Its memory is the socket's and goes with it.
#[btf_map]
pub(super) static ORIGINALS: SkStorage<Original> = SkStorage::new();

/// Addresses of this host, and networks that do not leave it. The value says nothing.
#[map]
pub(super) static NEAR: LpmTrie<Prefix, u32> = LpmTrie::with_max_entries(MAX_NEAR, 0);

/// Whose calls are not redirected. The value says nothing.
#[map]
pub(super) static SPARED: HashMap<SparedKey, u32> = HashMap::with_max_entries(MAX_SPARED, 0);

/// Questions to local resolvers and in other namespaces, for whoever wants to know who asked.
#[map]
pub(super) static ASKED: RingBuf = RingBuf::with_byte_size(ASKED_RING_BYTES, 0);
