//! The embedded object, loaded onto the pinned maps, and which programs in the kernel are its own.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use leakguard_common::abi::map;
use leakguard_common::packet::LinkLayer;

use super::KernelError;
use super::held::{Held, open};
use super::instance::{Instance, Limit, Way};
use super::maps::{self, Maps};
use super::pins::Pins;
use super::rates::Rates;
use super::ring::EventRing;
use super::syscall::{CgroupHook, ProgramInfo, program_by_id, program_info};

/// The variants of the programs at cgroups, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVariant {
    /// Asks the kernel for the namespace's cookie and for the sending task.
    Cookie,
    /// Reads the namespace's inode from the socket.
    Inode,
    /// As the one before, and judges by headers alone: for kernels that take no pointers as arguments of global functions
    /// (before 5.12). Programs at TC are then lean too.
    Lean,
}

impl CgroupVariant {
    /// Every variant, best first.
    pub const ALL: [Self; 3] = [Self::Cookie, Self::Inode, Self::Lean];

    /// The program's name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Cookie => "egress_cookie",
            Self::Inode => "egress_inode",
            Self::Lean => LEAN_EGRESS,
        }
    }

    /// The TC program for a device's link layer, that goes with it.
    pub const fn tc_program(self, link: LinkLayer) -> &'static str {
        match (self, link) {
            (Self::Lean, LinkLayer::Ethernet) => "tc_lean_ethernet",
            (Self::Lean, LinkLayer::Ip) => "tc_lean_ip",
            (Self::Lean, LinkLayer::Unknown) => "tc_lean_any",
            (Self::Cookie | Self::Inode, LinkLayer::Ethernet) => "tc_ethernet",
            (Self::Cookie | Self::Inode, LinkLayer::Ip) => "tc_ip",
            (Self::Cookie | Self::Inode, LinkLayer::Unknown) => "tc_any",
        }
    }

    /// The variants to be tried.
    fn wanted() -> &'static [Self] {
        // For the test of a kernel that refuses the others, of which there is none among those that are tested.
        #[cfg(debug_assertions)]
        if std::env::var_os("LEAKGUARD_LEAN").is_some() {
            return &[Self::Lean];
        }
        &Self::ALL
    }

    /// The name of the program that judges socket options.
    pub const fn setsockopt_program(self) -> &'static str {
        match self {
            Self::Cookie => "setsockopt_cookie",
            Self::Inode | Self::Lean => "setsockopt_inode",
        }
    }
}

/// The program of a hook that has only one; `None` for those with variants.
pub(super) const fn program_at(hook: CgroupHook) -> Option<&'static str> {
    match hook {
        CgroupHook::Egress | CgroupHook::Setsockopt => None,
        CgroupHook::Create => Some("owner_create"),
        hook => Some(hook.name()),
    }
}

/// The lean program for local sockets.
const LEAN_EGRESS: &str = "egress_lean";

/// Whether a program in the kernel is one that judges by headers alone.
pub(super) fn is_lean(program: &ProgramInfo) -> bool {
    program.name == LEAN_EGRESS.as_bytes()
}

/// The link layers that there is a TC program for.
pub const LINK_LAYERS: [LinkLayer; 3] = [LinkLayer::Ethernet, LinkLayer::Ip, LinkLayer::Unknown];

/// What the programs write for user space.
pub struct Reports {
    /// Packets that are worth an event.
    pub events: EventRing,
    /// Questions that pass, to local resolvers and in other namespaces.
    pub asked: EventRing,
    /// What got no event of its own.
    pub rates: Rates,
}

/// A program that is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its name.
    pub name: &'static str,
    /// The instructions that the verifier walked (since 5.16).
    pub verified_instructions: Option<u32>,
    /// The size of its machine code in bytes; 0 without a JIT.
    pub jited_bytes: u32,
}

/// The object, loaded: its programs are in the kernel, attached to nothing yet.
pub struct Object {
    instance: Instance,
    pinned: Arc<[(&'static str, Held)]>,
}

impl Object {
    /// Loads every program, reusing the maps that are pinned and pinning the rest.
    pub fn load(pins: &Pins) -> Result<Self, KernelError> {
        Self::load_variants(pins, CgroupVariant::wanted())
    }

    /// Loads with the first of the given cgroup variants that this kernel takes.
    pub fn load_variants(pins: &Pins, variants: &[CgroupVariant]) -> Result<Self, KernelError> {
        let mut object = Self::begin_variants(pins, variants)?;
        object.finish()?;
        Ok(object)
    }

    /// Reuses the maps that are pinned and pins the rest, and loads no more than the program that judges local packets.
    pub(super) fn begin(pins: &Pins) -> Result<Self, KernelError> {
        Self::begin_variants(pins, CgroupVariant::wanted())
    }

    fn begin_variants(pins: &Pins, variants: &[CgroupVariant]) -> Result<Self, KernelError> {
        maps::check_pinned(pins)?;
        let pinned = maps::names().map(|name| (name, pins.map(name)));
        let instance = Instance::begin(pinned, variants, Limit::OfSettings)?;
        Ok(Self {
            pinned: hold_maps(pins)?,
            instance,
        })
    }

    /// Loads the other programs. The variant may be another afterwards.
    pub(super) fn finish(&mut self) -> Result<(), KernelError> {
        self.instance.finish()
    }

    /// The cgroup variant that this kernel took.
    pub fn variant(&self) -> CgroupVariant {
        self.instance.variant
    }

    /// The variant of the program for socket options that this kernel took; `None` if it takes none, which is not the
    /// same variant on kernels from 6.1 to 6.12.
    pub fn setsockopt_variant(&self) -> Option<CgroupVariant> {
        self.instance.setsockopt
    }

    /// The programs of hooks that have only one, of those that this kernel took.
    pub(super) fn at(
        &self,
        hooks: impl IntoIterator<Item = CgroupHook>,
    ) -> Result<Vec<(CgroupHook, ProgramHandle)>, KernelError> {
        let taken = |name| self.loaded().iter().any(|loaded| loaded.name == name);
        hooks
            .into_iter()
            .filter_map(|hook| Some((hook, program_at(hook).filter(|&name| taken(name))?)))
            .map(|(hook, name)| Ok((hook, self.handle(name)?)))
            .collect()
    }

    /// What was loaded.
    pub fn loaded(&self) -> &[Loaded] {
        &self.instance.loaded
    }

    /// Runs a program once over a packet without sending it, as [`Instance::test_run`] does; returns the program's own
    /// return code.
    pub fn test_run(&self, program: &str, packet: &[u8], ifindex: u32) -> Result<i32, KernelError> {
        let way = Way {
            ifindex,
            ..Way::default()
        };
        self.instance.test_run(program, packet, &way)
    }

    pub(super) fn maps(&mut self) -> Result<Maps, KernelError> {
        Maps::take(&mut self.instance.ebpf)
    }

    /// The pinned maps by name, held open.
    pub(super) fn pinned(&self) -> &Arc<[(&'static str, Held)]> {
        &self.pinned
    }

    /// What the programs write for user space, to be taken once.
    pub(super) fn reports(&mut self) -> Result<Reports, KernelError> {
        let ebpf = &mut self.instance.ebpf;
        Ok(Reports {
            events: EventRing::of(maps::take_ring(ebpf, map::EVENTS)?)?,
            asked: EventRing::of(maps::take_ring(ebpf, map::ASKED)?)?,
            rates: Rates::new(maps::take_rates(ebpf)?),
        })
    }

    /// A descriptor of a loaded program, and what it is known by.
    pub(super) fn handle(&self, name: &str) -> Result<ProgramHandle, KernelError> {
        let (fd, info) = self.instance.program(name)?;
        let fd = fd
            .as_fd()
            .try_clone_to_owned()
            .map_err(KernelError::call("dup", name))?;
        Ok(ProgramHandle {
            fd,
            id: info.id,
            tag: info.tag,
            maps: self.pinned_among(&info.maps),
            pinned: self.pinned.iter().map(|(_, map)| map.id()).collect(),
        })
    }

    fn pinned_among(&self, ids: &[u32]) -> BTreeSet<u32> {
        let pinned = self.pinned.iter().map(|(_, map)| map.id());
        pinned.filter(|id| ids.contains(id)).collect()
    }
}

/// Opens what the loader has pinned or found pinned.
fn hold_maps(pins: &Pins) -> Result<Arc<[(&'static str, Held)]>, KernelError> {
    maps::names()
        .map(|name| {
            let pin = pins.map(name);
            let held = open(&pin)?.and_then(|map| Held::map(map).ok());
            match held {
                Some(map) => Ok((name, map)),
                None => Err(KernelError::Foreign {
                    path: pin,
                    expected: "map",
                }),
            }
        })
        .collect()
}

/// The programs in the kernel that have one of these numbers.
pub(super) fn programs(ids: &BTreeSet<u32>) -> impl Iterator<Item = ProgramInfo> {
    // One that has gone, or may not be looked at, is none.
    ids.iter()
        .filter_map(|&id| program_by_id(id).ok().flatten())
        .filter_map(|program| program_info(program.as_fd()).ok())
}

/// A program that can be attached.
#[derive(Debug)]
pub(super) struct ProgramHandle {
    pub(super) fd: OwnedFd,
    pub(super) id: u32,
    /// A hash of its instructions, whatever maps they name.
    tag: u64,
    /// Those of the pinned maps that it uses.
    maps: BTreeSet<u32>,
    /// All of the pinned maps.
    pinned: BTreeSet<u32>,
}

/// Which programs in the kernel do the same as ones of this process. A program never changes, so this is asked once.
#[derive(Debug, Default)]
pub(super) struct Twins(BTreeSet<(u32, u32)>);

impl Twins {
    /// Whether a program in the kernel has the same instructions, and works on the same maps.
    pub(super) fn are(&mut self, program_id: u32, program: &ProgramHandle) -> bool {
        if program_id == program.id || self.0.contains(&(program_id, program.id)) {
            return true;
        }
        let ProgramHandle {
            tag, maps, pinned, ..
        } = program;
        let same = programs(&BTreeSet::from([program_id])).any(|info| {
            // Constants are a map of their own for each load.
            let used = info.maps.into_iter().filter(|id| pinned.contains(id));
            info.tag == *tag && used.collect::<BTreeSet<u32>>() == *maps
        });
        if same {
            self.0.insert((program_id, program.id));
        }
        same
    }
}
