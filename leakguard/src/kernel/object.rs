//! The embedded object: which of its variants this kernel takes is found out by loading them.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use aya::maps::{MapData, RingBuf};
use aya::programs::{
    CgroupSkb, CgroupSockopt, Program, ProgramError, ProgramInfo, SchedClassifier, TestRun as _,
    TestRunOptions,
};
use aya::{Ebpf, EbpfLoader};
use leakguard_common::packet::LinkLayer;

use super::KernelError;
use super::held::{Held, open};
use super::maps::{self, Maps};
use super::netns::Offsets;
use super::pins::Pins;
use super::requirements::kernel_btf;
use crate::error::chain;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/leakguard"));

/// The variants of the programs at cgroups, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVariant {
    /// Asks the kernel for the namespace's cookie and for the sending task.
    Cookie,
    /// Reads the namespace's inode from the socket.
    Inode,
}

impl CgroupVariant {
    /// Every variant, best first.
    pub const ALL: [Self; 2] = [Self::Cookie, Self::Inode];

    /// The program's name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Cookie => "egress_cookie",
            Self::Inode => "egress_inode",
        }
    }

    /// The name of the program that judges socket options.
    pub const fn setsockopt_program(self) -> &'static str {
        match self {
            Self::Cookie => "setsockopt_cookie",
            Self::Inode => "setsockopt_inode",
        }
    }
}

/// The TC program for a device's link layer.
pub const fn tc_program(link: LinkLayer) -> &'static str {
    match link {
        LinkLayer::Ethernet => "tc_ethernet",
        LinkLayer::Ip => "tc_ip",
        LinkLayer::Unknown => "tc_any",
    }
}

/// The link layers that there is a TC program for.
pub const LINK_LAYERS: [LinkLayer; 3] = [LinkLayer::Ethernet, LinkLayer::Ip, LinkLayer::Unknown];

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
    ebpf: Ebpf,
    variant: CgroupVariant,
    setsockopt: Option<CgroupVariant>,
    loaded: Vec<Loaded>,
    pinned: Vec<(&'static str, Held)>,
    #[cfg(debug_assertions)]
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Object {
    /// Loads every program, reusing the maps that are pinned and pinning the rest.
    pub fn load(pins: &Pins) -> Result<Self, KernelError> {
        Self::load_variants(pins, &CgroupVariant::ALL)
    }

    /// Loads with the first of the given cgroup variants that this kernel takes.
    pub fn load_variants(pins: &Pins, variants: &[CgroupVariant]) -> Result<Self, KernelError> {
        maps::check_pinned(pins)?;
        let offsets = offsets();
        let mut loader = EbpfLoader::new();
        for name in maps::names() {
            loader.map_pin_path(name, pins.map(name));
        }
        if let Some(Offsets { skc_net, net_inum }) = offsets {
            loader.override_global("SKC_NET_OFFSET", skc_net, true);
            loader.override_global("NET_INUM_OFFSET", net_inum, true);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load {
            program: "the map layout".into(),
            source: Box::new(error),
        })?;
        let pinned = hold_maps(pins)?;
        #[cfg(debug_assertions)]
        let log = kernel_log(&mut ebpf);

        let mut loaded = Vec::new();
        let has_offsets = offsets.is_some();
        let mut first = |program: fn(CgroupVariant) -> &'static str| {
            load_first(&mut ebpf, variants, program, has_offsets, &mut loaded)
        };
        let variant = first(CgroupVariant::program)?;
        // What it keeps from happening takes privileges: without it the rest is still worth having.
        let setsockopt = first(CgroupVariant::setsockopt_program)
            .inspect_err(|error| log::debug!("{}", chain(error)))
            .ok();
        for link in LINK_LAYERS {
            loaded.push(load_program(&mut ebpf, tc_program(link))?);
        }
        Ok(Self {
            ebpf,
            variant,
            setsockopt,
            loaded,
            pinned,
            #[cfg(debug_assertions)]
            log,
        })
    }

    /// Forwards what the programs have logged since the last call; they only log in debug builds.
    pub fn flush_log(&mut self) {
        #[cfg(debug_assertions)]
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// The cgroup variant that this kernel took.
    pub fn variant(&self) -> CgroupVariant {
        self.variant
    }

    /// The variant of the program for socket options that this kernel took; `None` if it takes none, which is not the
    /// same variant on kernels from 6.1 to 6.12.
    pub fn setsockopt_variant(&self) -> Option<CgroupVariant> {
        self.setsockopt
    }

    /// What was loaded.
    pub fn loaded(&self) -> &[Loaded] {
        &self.loaded
    }

    /// Runs a program once over a packet without sending it; returns the program's own return code.
    ///
    /// For TC programs `packet` starts as the device's packets do; for the cgroup program 14 bytes of Ethernet
    /// header come first, which the kernel strips (`bpf_prog_test_run_skb`, 6.18). `ifindex` must exist in the
    /// current namespace.
    pub fn test_run(&self, program: &str, packet: &[u8], ifindex: u32) -> Result<i32, KernelError> {
        let run = |result: Result<aya::programs::TestRunResult, ProgramError>| {
            result.map_err(|error| load_error(program, error))
        };
        // `ifindex` is the eleventh word of `struct __sk_buff`.
        let mut context = [0_u8; 192];
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        let options = || TestRunOptions {
            data_in: Some(packet),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = match self.ebpf.program(program) {
            Some(Program::SchedClassifier(found)) => run(found.test_run(options()))?,
            Some(Program::CgroupSkb(found)) => run(found.test_run(options()))?,
            _ => return Err(load_error(program, "no such program")),
        };
        Ok(result.return_value.cast_signed())
    }

    pub(super) fn maps(&mut self) -> Result<Maps, KernelError> {
        Maps::take(&mut self.ebpf)
    }

    /// The pinned maps by name, held open.
    pub(super) fn pinned(&self) -> &[(&'static str, Held)] {
        &self.pinned
    }

    pub(super) fn ring(&mut self) -> Result<RingBuf<MapData>, KernelError> {
        maps::take_ring(&mut self.ebpf)
    }

    /// A descriptor of a loaded program, and what it is known by.
    pub(super) fn handle(&self, name: &str) -> Result<ProgramHandle, KernelError> {
        let error = |error: ProgramError| load_error(name, error);
        let (fd, info) = match self.ebpf.program(name) {
            Some(Program::SchedClassifier(found)) => {
                (found.fd().map_err(error)?, found.info().map_err(error)?)
            }
            Some(Program::CgroupSkb(found)) => {
                (found.fd().map_err(error)?, found.info().map_err(error)?)
            }
            Some(Program::CgroupSockopt(found)) => {
                (found.fd().map_err(error)?, found.info().map_err(error)?)
            }
            _ => return Err(load_error(name, "no such program")),
        };
        let fd = fd
            .as_fd()
            .try_clone_to_owned()
            .map_err(KernelError::call("dup", name))?;
        Ok(ProgramHandle {
            fd,
            id: info.id(),
            tag: info.tag(),
            maps: self.pinned_among(&map_ids(&info)),
            pinned: self.pinned.iter().map(|(_, map)| map.id()).collect(),
        })
    }

    fn pinned_among(&self, ids: &[u32]) -> BTreeSet<u32> {
        let pinned = self.pinned.iter().map(|(_, map)| map.id());
        pinned.filter(|id| ids.contains(id)).collect()
    }
}

/// Where this kernel keeps what the programs read; looked for once.
fn offsets() -> Option<&'static Offsets> {
    static OFFSETS: OnceLock<Option<Offsets>> = OnceLock::new();
    OFFSETS
        .get_or_init(|| kernel_btf().and_then(|path| Offsets::from_btf(&path)))
        .as_ref()
}

/// Opens what the loader has pinned or found pinned.
fn hold_maps(pins: &Pins) -> Result<Vec<(&'static str, Held)>, KernelError> {
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

/// The numbers of the maps that a program uses.
pub(super) fn map_ids(program: &ProgramInfo) -> Vec<u32> {
    let ids = program.map_ids().unwrap_or_else(|error| {
        log::debug!(
            "cannot read which maps program {} uses: {error}",
            program.id()
        );
        None
    });
    ids.unwrap_or_default()
}

/// The programs in the kernel that have one of these numbers.
pub(super) fn programs(ids: &BTreeSet<u32>) -> impl Iterator<Item = ProgramInfo> {
    let all = (!ids.is_empty()).then(aya::programs::loaded_programs);
    all.into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|info| ids.contains(&info.id()))
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
            let used = map_ids(&info).into_iter().filter(|id| pinned.contains(id));
            info.tag() == *tag && used.collect::<BTreeSet<u32>>() == *maps
        });
        if same {
            self.0.insert((program_id, program.id));
        }
        same
    }
}

fn load_first(
    ebpf: &mut Ebpf,
    variants: &[CgroupVariant],
    program: fn(CgroupVariant) -> &'static str,
    has_offsets: bool,
    loaded: &mut Vec<Loaded>,
) -> Result<CgroupVariant, KernelError> {
    let mut refused = None;
    for &variant in variants {
        if variant == CgroupVariant::Inode && !has_offsets {
            continue;
        }
        let name = program(variant);
        match load_program(ebpf, name) {
            Ok(program) => {
                loaded.push(program);
                return Ok(variant);
            }
            Err(error) => {
                log::debug!("{name} is not for this kernel");
                refused = Some(error);
            }
        }
    }
    Err(KernelError::Missing {
        what: "a way to tell network namespaces apart in programs at cgroups".into(),
        remedy:
            "use a kernel of 5.10 or later that has BTF (/sys/kernel/btf/vmlinux), or 6.18 or later"
                .into(),
        source: refused.map(|error| Box::new(error) as _),
    })
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<Loaded, KernelError> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| load_error(name, "no such program"))?;
    let result = match program {
        Program::CgroupSkb(program) => CgroupSkb::load(program).and_then(|()| program.info()),
        Program::SchedClassifier(program) => {
            SchedClassifier::load(program).and_then(|()| program.info())
        }
        Program::CgroupSockopt(program) => {
            CgroupSockopt::load(program).and_then(|()| program.info())
        }
        _ => return Err(load_error(name, "unexpected program type")),
    };
    let info = result.map_err(|error| load_error(name, error))?;
    Ok(Loaded {
        name,
        verified_instructions: info.verified_instruction_count(),
        jited_bytes: info.size_jitted(),
    })
}

fn load_error(
    program: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> KernelError {
    KernelError::Load {
        program: program.to_owned(),
        source: source.into(),
    }
}

#[cfg(debug_assertions)]
fn kernel_log(ebpf: &mut Ebpf) -> Option<aya_log::EbpfLogger<&'static dyn log::Log>> {
    aya_log::EbpfLogger::init(ebpf)
        .inspect_err(|error| log::debug!("no log from the kernel side: {error}"))
        .ok()
}
