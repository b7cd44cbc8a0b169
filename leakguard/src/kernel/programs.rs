//! The programs of an object, by where they are attached.

use leakguard_common::packet::LinkLayer;

use super::KernelError;
use super::object::{LINK_LAYERS, Object, ProgramHandle};
use super::syscall::CgroupHook;

/// An object, and what is attached of it.
pub(super) struct Programs {
    pub(super) object: Object,
    pub(super) cgroup: ProgramHandle,
    /// Absent where the kernel takes none.
    pub(super) setsockopt: Option<ProgramHandle>,
    /// Those that this kernel takes.
    pub(super) owners: Vec<(CgroupHook, ProgramHandle)>,
    /// Likewise.
    pub(super) redirection: Vec<(CgroupHook, ProgramHandle)>,
    tc: [ProgramHandle; LINK_LAYERS.len()],
}

impl Programs {
    pub(super) fn of(object: Object) -> Result<Self, KernelError> {
        let [ethernet, ip, unknown] =
            LINK_LAYERS.map(|link| object.handle(object.variant().tc_program(link)));
        Ok(Self {
            cgroup: object.handle(object.variant().program())?,
            setsockopt: object
                .setsockopt_variant()
                .map(|variant| object.handle(variant.setsockopt_program()))
                .transpose()?,
            owners: object.at(CgroupHook::OF_OWNERS)?,
            redirection: object.at(CgroupHook::OF_REDIRECTION)?,
            tc: [ethernet?, ip?, unknown?],
            object,
        })
    }

    pub(super) fn tc(&self, wanted: LinkLayer) -> &ProgramHandle {
        let [ethernet, ip, unknown] = &self.tc;
        match wanted {
            LinkLayer::Ethernet => ethernet,
            LinkLayer::Ip => ip,
            LinkLayer::Unknown => unknown,
        }
    }
}
