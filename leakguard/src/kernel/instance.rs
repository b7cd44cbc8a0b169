//! One load of the embedded object: which of its variants this kernel takes is found out by loading them.

use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;

use aya::programs::{
    CgroupSkb, CgroupSock, CgroupSockAddr, CgroupSockopt, Program, ProgramError, ProgramFd,
    SchedClassifier, TestRun as _, TestRunOptions,
};
use aya::sys::SyscallError;
use aya::{Ebpf, EbpfLoader};
use nix::libc;

use super::KernelError;

use super::netns::Offsets;
use super::object::{CgroupVariant, LINK_LAYERS, Loaded, program_at};
use super::redirection::can_choose_error;
use super::requirements::kernel_btf;
use super::syscall::{CgroupHook, ProgramInfo, program_info};
use crate::error::chain;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/leakguard"));

/// The way that a packet is to take, where a program asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The exit interface, which must exist in the current namespace.
    pub ifindex: u32,
    /// The interface that it came in by; 0 for the packet of a local sender.
    pub ingress_ifindex: u32,
    /// Its mark.
    pub mark: u32,
}

impl Way {
    /// As `struct __sk_buff`, all other fields of which have to be 0 (`convert___skb_to_skb` in `net/bpf/test_run.c`).
    fn context(&self) -> [u8; 192] {
        let Self {
            ifindex,
            ingress_ifindex,
            mark,
        } = self;
        let mut context = [0; 192];
        // By the number of its 32-bit word.
        for (word, value) in [(2, mark), (9, ingress_ifindex), (10, ifindex)] {
            context[4 * word..4 * word + 4].copy_from_slice(&value.to_ne_bytes());
        }
        context
    }
}

/// Which packets that are worth an event get one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// As many as the settings say.
    OfSettings,
    /// There is none: every one does.
    None,
}

/// One load of the object, whatever maps it works on.
pub(super) struct Instance {
    pub(super) ebpf: Ebpf,
    /// Those that may be tried.
    variants: Vec<CgroupVariant>,
    pub(super) variant: CgroupVariant,
    /// Of the program for socket options; `None` if this kernel takes none.
    pub(super) setsockopt: Option<CgroupVariant>,
    pub(super) loaded: Vec<Loaded>,
}

impl Instance {
    /// Loads every program; a map with a path is the one that is pinned there, or is pinned there.
    pub(super) fn load(
        pins: impl IntoIterator<Item = (&'static str, PathBuf)>,
        variants: &[CgroupVariant],
        limit: Limit,
    ) -> Result<Self, KernelError> {
        let mut instance = Self::begin(pins, variants, limit)?;
        instance.finish()?;
        Ok(instance)
    }

    /// Makes the maps, and loads no more than the program that judges local packets: it need not wait for the others.
    pub(super) fn begin(
        pins: impl IntoIterator<Item = (&'static str, PathBuf)>,
        variants: &[CgroupVariant],
        limit: Limit,
    ) -> Result<Self, KernelError> {
        let offsets = offsets();
        let every_event = u32::from(limit == Limit::None);
        let mut loader = EbpfLoader::new();
        for (name, pin) in pins {
            loader.map_pin_path(name, pin);
        }
        if let Some(Offsets {
            skc_net,
            net_inum,
            leader,
            tgid,
            comm,
        }) = offsets
        {
            loader.override_global("SKC_NET_OFFSET", skc_net, true);
            loader.override_global("NET_INUM_OFFSET", net_inum, true);
            loader.override_global("LEADER_OFFSET", leader, true);
            loader.override_global("TGID_OFFSET", tgid, true);
            loader.override_global("COMM_OFFSET", comm, true);
        }
        loader.override_global("EVERY_EVENT", &every_event, true);
        let can_set_retval = u32::from(can_choose_error());
        loader.override_global("CAN_SET_RETVAL", &can_set_retval, true);
        let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load {
            program: "the map layout".into(),
            source: Box::new(error),
        })?;
        let mut loaded = Vec::new();
        let variant = load_first(&mut ebpf, variants, CgroupVariant::program, &mut loaded)?;
        Ok(Self {
            ebpf,
            variants: variants.to_vec(),
            variant,
            setsockopt: None,
            loaded,
        })
    }

    /// Loads the other programs. The variant may be another afterwards.
    pub(super) fn finish(&mut self) -> Result<(), KernelError> {
        let Self {
            ebpf,
            variants,
            variant,
            setsockopt,
            loaded,
        } = self;
        // What it keeps from happening takes privileges: without it the rest is still worth having.
        *setsockopt = load_first(ebpf, variants, CgroupVariant::setsockopt_program, loaded)
            .inspect_err(|error| log::debug!("{}", chain(error)))
            .ok();
        for name in CgroupHook::ALL.into_iter().filter_map(program_at) {
            // Packets are judged without them; what else is missing then is in the status.
            match load_program(ebpf, name) {
                Ok(program) => loaded.push(program),
                Err(error) => log::debug!("{}", chain(&error)),
            }
        }
        if let Err(error) = load_tc(ebpf, *variant, loaded) {
            // What a kernel takes at a cgroup it may still refuse at TC: one variant for both, or none.
            if *variant == CgroupVariant::Lean || !variants.contains(&CgroupVariant::Lean) {
                return Err(error);
            }
            log::debug!("{}", chain(&error));
            *variant = CgroupVariant::Lean;
            loaded.push(load_program(ebpf, variant.program())?);
            load_tc(ebpf, *variant, loaded)?;
        }
        Ok(())
    }

    /// Runs a program once over a packet without sending it; returns the program's own return code.
    ///
    /// For TC programs `packet` starts as the device's packets do; for the cgroup program 14 bytes of Ethernet header
    /// come first, which the kernel strips (`bpf_prog_test_run_skb`, 6.18). The packet's socket is one of the current
    /// namespace, and of the current cgroup.
    pub(super) fn test_run(
        &self,
        program: &str,
        packet: &[u8],
        way: &Way,
    ) -> Result<i32, KernelError> {
        let context = way.context();
        let options = TestRunOptions {
            data_in: Some(packet),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = match self.ebpf.program(program) {
            Some(Program::SchedClassifier(found)) => found.test_run(options),
            Some(Program::CgroupSkb(found)) => found.test_run(options),
            _ => return Err(load_error(program, "no such program")),
        };
        match result {
            Ok(result) => Ok(result.return_value.cast_signed()),
            Err(error) => Err(run_error(program, error)),
        }
    }

    /// A loaded program.
    pub(super) fn program(&self, name: &str) -> Result<(&ProgramFd, ProgramInfo), KernelError> {
        let fd = match self.ebpf.program(name) {
            Some(Program::SchedClassifier(found)) => found.fd(),
            Some(Program::CgroupSkb(found)) => found.fd(),
            Some(Program::CgroupSockopt(found)) => found.fd(),
            Some(Program::CgroupSock(found)) => found.fd(),
            Some(Program::CgroupSockAddr(found)) => found.fd(),
            _ => return Err(load_error(name, "no such program")),
        };
        let fd = fd.map_err(|error| load_error(name, error))?;
        let info =
            program_info(fd.as_fd()).map_err(KernelError::call("BPF_OBJ_GET_INFO_BY_FD", name))?;
        Ok((fd, info))
    }
}

/// Where this kernel keeps what the programs read; looked for once.
fn offsets() -> Option<&'static Offsets> {
    static OFFSETS: OnceLock<Option<Offsets>> = OnceLock::new();
    OFFSETS
        .get_or_init(|| kernel_btf().and_then(|path| Offsets::from_btf(&path)))
        .as_ref()
}

fn load_first(
    ebpf: &mut Ebpf,
    variants: &[CgroupVariant],
    program: fn(CgroupVariant) -> &'static str,
    loaded: &mut Vec<Loaded>,
) -> Result<CgroupVariant, KernelError> {
    let has_offsets = offsets().is_some();
    let mut refused = None;
    for &variant in variants {
        if variant != CgroupVariant::Cookie && !has_offsets {
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
            "use a kernel of 5.8 or later that has BTF (/sys/kernel/btf/vmlinux), or 6.18 or later"
                .into(),
        source: refused.map(|error| Box::new(error) as _),
    })
}

/// Loads the programs at TC, which take longest, beside each other.
fn load_tc(
    ebpf: &mut Ebpf,
    variant: CgroupVariant,
    loaded: &mut Vec<Loaded>,
) -> Result<(), KernelError> {
    let names = LINK_LAYERS.map(|link| variant.tc_program(link));
    let wanted = ebpf.programs_mut().filter_map(|(found, program)| {
        let name = names.into_iter().find(|name| *name == found)?;
        Some((name, program))
    });
    thread::scope(|scope| {
        let loading: Vec<_> = wanted
            .map(|(name, program)| {
                let load = move || load(name, program);
                let thread = thread::Builder::new().name("load".into());
                thread
                    .spawn_scoped(scope, load)
                    .map_err(KernelError::call("clone", name))
            })
            .collect::<Result<_, _>>()?;
        if loading.len() < names.len() {
            return Err(load_error("the programs at TC", "no such program"));
        }
        for program in loading {
            loaded.push(
                program
                    .join()
                    .unwrap_or_else(|panic| resume_unwind(panic))?,
            );
        }
        Ok(())
    })
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<Loaded, KernelError> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| load_error(name, "no such program"))?;
    load(name, program)
}

fn load(name: &'static str, program: &mut Program) -> Result<Loaded, KernelError> {
    let result = match program {
        Program::CgroupSkb(program) => CgroupSkb::load(program).and_then(|()| program.info()),
        Program::SchedClassifier(program) => {
            SchedClassifier::load(program).and_then(|()| program.info())
        }
        Program::CgroupSockopt(program) => {
            CgroupSockopt::load(program).and_then(|()| program.info())
        }
        Program::CgroupSock(program) => CgroupSock::load(program).and_then(|()| program.info()),
        Program::CgroupSockAddr(program) => {
            CgroupSockAddr::load(program).and_then(|()| program.info())
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

/// Why a program did not run; a kernel that cannot run this type so says `ENOTSUPP` (`bpf_prog_test_run`, 6.18).
fn run_error(program: &str, error: ProgramError) -> KernelError {
    const ENOTSUPP: i32 = 524;

    let ProgramError::SyscallError(SyscallError { io_error, .. }) = error else {
        return load_error(program, error);
    };
    match io_error.raw_os_error() {
        Some(ENOTSUPP | libc::EOPNOTSUPP) => KernelError::Missing {
            what: format!("BPF_PROG_TEST_RUN for the program {program}"),
            remedy: "use a kernel of 5.10 or later".into(),
            source: Some(Box::new(io_error)),
        },
        _ => KernelError::call("BPF_PROG_TEST_RUN", program)(io_error),
    }
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
