//! The programs beside what enforces: asked about packets, without a trace in what is enforced.
//!
//! Another load of the same programs. The tables that they look into are those that enforce, or are filled as those
//! would be; what they write is their own, is pinned nowhere, and goes with the process.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{MapData, RingBuf};
use bytes::Bytes;
use leakguard_common::abi::{
    Family, Hook, Liveness, Protocol, Reason, Role, Settings, Verdict, map,
};
use leakguard_common::counter::Series;
use leakguard_common::packet::LinkLayer;

use super::KernelError;
use super::enforcement::Device;
use super::exemptions::Exemptions;
use super::held::{Held, open, unpin};
pub use super::instance::Way;
use super::instance::{Instance, Limit};
use super::maps::{self, Maps};
use super::netns::Identity;
use super::object::{CgroupVariant, programs};
use super::pins::Pins;
use super::recognition::Recognition;
use super::requirements::{check_privileges, lift_limits};

/// The link-layer header that comes before a packet for the cgroup program, which the kernel strips.
pub const STRIPPED: usize = 14;

/// The programs, to be asked.
pub struct Trial {
    instance: Instance,
    maps: Maps,
    ring: RingBuf<MapData>,
    /// What the counters of packets that pass stood at.
    counted: BTreeMap<u32, u64>,
    /// The kernel takes packets that came in by an interface.
    knows_forwarding: bool,
}

/// What the programs are to be told, where nothing is enforced that they could look into.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All but the namespace.
    pub settings: Settings,
    /// What an engaged kill switch lets out.
    pub exemptions: Exemptions,
    /// What packets are known by besides their ports.
    pub recognition: Recognition,
    /// The interfaces.
    pub devices: Vec<Device>,
    /// The tunnel that an agent would vouch for.
    pub tunnel: Option<u32>,
}

/// A program to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// That of `cgroup_skb/egress`.
    Cgroup,
    /// That of TC egress, for a device whose packets start so.
    Tc(LinkLayer),
}

impl Asked {
    /// The hook that it is attached to.
    pub fn hook(self) -> Hook {
        match self {
            Self::Cgroup => Hook::CgroupSkb,
            Self::Tc(_) => Hook::Tc,
        }
    }
}

/// What a program says of a packet.
#[derive(Clone, Debug)]
pub struct Ruling {
    /// Whether it lets the packet go on.
    pub passes: bool,
    /// The record that it wrote, if it did: a `leakguard_common::abi::Event`.
    pub record: Option<Bytes>,
    /// What the packet was judged as without a record: it may go, because of the interface that it leaves by.
    pub permitted: Option<Reason>,
}

impl Trial {
    /// Loads the programs beside those that enforce, onto the tables that these look into.
    pub fn beside(pins: &Pins) -> Result<Self, KernelError> {
        check_privileges()?;
        lift_limits();
        let before = pinned(pins)?;
        if before.len() < maps::looked_up().count() {
            return Err(changed(pins));
        }
        let shared = maps::looked_up().map(|name| (name, pins.map(name)));
        let instance = Instance::load(shared, &CgroupVariant::ALL, Limit::None)?;
        let after = pinned(pins)?;
        if after != before {
            // Where a pin went in between, the loader has made a map and pinned it.
            let ours = instance.uses()?;
            for (name, id) in after {
                if before.get(name) != Some(&id) && ours.contains(&id) {
                    unpin(&pins.map(name))?;
                }
            }
            return Err(changed(pins));
        }
        Self::of(instance)
    }

    /// Loads the programs with tables of their own, filled as [`super::Enforcement`] would fill those that enforce.
    pub fn of_plan(plan: &Plan) -> Result<Self, KernelError> {
        check_privileges()?;
        lift_limits();
        let mut trial = Self::of(Instance::load([], &CgroupVariant::ALL, Limit::None)?)?;
        let Plan {
            settings,
            exemptions,
            recognition,
            devices,
            tunnel,
        } = plan;
        let Identity { cookie, inode } = Identity::current()?;
        let maps = &mut trial.maps;
        maps.set_settings(Settings {
            netns_cookie: cookie,
            netns_inode: inode,
            ..*settings
        })?;
        maps.set_exemptions(exemptions)?;
        maps.set_recognition(recognition)?;
        for device in devices {
            maps.permit(device.ifindex, device.role)?;
        }
        if let Some(tunnel) = tunnel {
            maps.set_liveness(Liveness {
                until: u64::MAX,
                tunnel: *tunnel,
                ..Liveness::default()
            })?;
        }
        Ok(trial)
    }

    fn of(mut instance: Instance) -> Result<Self, KernelError> {
        Ok(Self {
            maps: Maps::take(&mut instance.ebpf)?,
            ring: maps::take_ring(&mut instance.ebpf, map::EVENTS)?,
            counted: BTreeMap::new(),
            knows_forwarding: true,
            instance,
        })
    }

    /// Asks a program about a packet that is to take a way.
    ///
    /// For the cgroup program, [`STRIPPED`] bytes of Ethernet header come first; for a TC program, the packet starts as
    /// the device's packets do.
    pub fn ask(&mut self, asked: Asked, packet: &[u8], way: &Way) -> Result<Ruling, KernelError> {
        let code = self.run(self.program(asked), packet, way)?;
        let passes = match asked {
            Asked::Cgroup => code != CGROUP_DROP,
            Asked::Tc(_) => code != TC_DROP,
        };
        let mut record = None;
        while let Some(written) = self.ring.next() {
            record = Some(Bytes::copy_from_slice(&written));
        }
        let permitted = if passes && record.is_none() {
            self.permitted(asked.hook(), way.ifindex)?
        } else {
            None
        };
        Ok(Ruling {
            passes,
            record,
            permitted,
        })
    }

    /// Runs a program. Kernels before 5.18 take no packet that came in by an interface (`convert___skb_to_skb`): there, it
    /// is taken for one that did not.
    fn run(&mut self, program: &str, packet: &[u8], way: &Way) -> Result<i32, KernelError> {
        let refused = match self.instance.test_run(program, packet, way) {
            Err(error) if error.is_refusal() && way.ingress_ifindex != 0 => error,
            result => return result,
        };
        let local = Way {
            ingress_ifindex: 0,
            ..*way
        };
        let code = self.instance.test_run(program, packet, &local);
        // What else is wrong with the packet is the same with both.
        let code = code.map_err(|_same| refused)?;
        self.knows_forwarding = false;
        Ok(code)
    }

    /// Whether packets that came in by an interface could be tried as such, so far.
    pub fn knows_forwarding(&self) -> bool {
        self.knows_forwarding
    }

    /// The role that the programs give an interface.
    pub fn role(&self, ifindex: u32) -> Role {
        self.maps.role(ifindex)
    }

    /// What the programs are told.
    pub fn settings(&self) -> Result<Settings, KernelError> {
        self.maps.settings()
    }

    /// Whether the kill switch is engaged now, as the programs see it.
    pub fn is_engaged(&self) -> Result<bool, KernelError> {
        self.maps.is_engaged()
    }

    /// The name of a program.
    pub fn program(&self, asked: Asked) -> &'static str {
        match asked {
            Asked::Cgroup => self.instance.variant.program(),
            Asked::Tc(link) => self.instance.variant.tc_program(link),
        }
    }

    /// The kernel's hash of a program's instructions.
    pub fn tag(&self, asked: Asked) -> Result<u64, KernelError> {
        Ok(self.instance.program(self.program(asked))?.1.tag)
    }

    /// What a packet was counted under since the last look, of those that pass by an interface that may carry it.
    fn permitted(&mut self, hook: Hook, ifindex: u32) -> Result<Option<Reason>, KernelError> {
        let role = self.maps.role(ifindex);
        if role == Role::Uplink {
            // There, what is judged is dropped or reported.
            return Ok(None);
        }
        let judged = Reason::ALL
            .iter()
            .filter(|&&reason| reason != Reason::Other);
        for &reason in judged {
            for &family in Family::ALL {
                for &protocol in Protocol::ALL {
                    let series = Series {
                        hook,
                        role,
                        reason,
                        verdict: Verdict::Pass,
                        family,
                        protocol,
                    };
                    let count = self.maps.count(series)?;
                    // One packet was judged since.
                    if count != 0 && self.counted.insert(series.index(), count) != Some(count) {
                        return Ok(Some(reason));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// The kernel's hash of the instructions of a program that is attached; `None` if it is gone.
pub fn tag_of(program_id: u32) -> Option<u64> {
    programs(&BTreeSet::from([program_id]))
        .map(|info| info.tag)
        .next()
}

impl Instance {
    /// The numbers of the maps that the programs use.
    fn uses(&self) -> Result<BTreeSet<u32>, KernelError> {
        let mut used = BTreeSet::new();
        for loaded in &self.loaded {
            used.extend(self.program(loaded.name)?.1.maps);
        }
        Ok(used)
    }
}

/// The numbers of the tables that are pinned, by name.
fn pinned(pins: &Pins) -> Result<BTreeMap<&'static str, u32>, KernelError> {
    maps::check_pinned(pins)?;
    let mut found = BTreeMap::new();
    for name in maps::looked_up() {
        if let Some(map) = open(&pins.map(name))? {
            let held = Held::map(map).map_err(KernelError::call("BPF_OBJ_GET_INFO_BY_FD", name))?;
            found.insert(name, held.id());
        }
    }
    Ok(found)
}

fn changed(pins: &Pins) -> KernelError {
    KernelError::Changed {
        path: pins.root().to_owned(),
    }
}

/// Return codes of the programs.
const CGROUP_DROP: i32 = 0;
const TC_DROP: i32 = 2;
