//! TC egress on kernels without TCX (before 6.6): a filter on the clsact qdisc.
//!
//! The filter stays when the agent goes. It has no pin; it is known by its handle, which is chosen here. aya's calls
//! tell neither which program a filter runs nor which kind of qdisc they put it on.
//!
//! A handle is "lg", a slot, and the ABI version: filters of two versions stand side by side, and a filter is overtaken
//! by adding one in the other slot, because new filters come first within a priority (`cls_bpf_change`, 6.1).

use std::io;
use std::os::fd::AsRawFd;

use leakguard_common::abi::ABI_VERSION;
use netlink_packet_core::{
    DecodeError, NLM_F_CREATE, NLM_F_DUMP, NLM_F_ECHO, NLM_F_EXCL, NlasIterator,
};
use nix::libc;

use super::KernelError;
use super::enforcement::{Device, Followed};
use super::links::{Standing, TcAttachment};
use super::object::{ProgramHandle, Twins};
use super::rtnetlink::{push_attribute, request};
use crate::change::Part;

/// "lg": nobody else's filter has it by chance.
const PREFIX: u32 = 0x6c67;
const HANDLES: [u32; 2] = [handle(0), handle(1)];

// One byte of the handle is the version.
const _: () = assert!(ABI_VERSION <= 0xff);

const fn handle(slot: u32) -> u32 {
    PREFIX << 16 | slot << 8 | ABI_VERSION
}

/// Before every filter that names no priority of its own.
const PRIORITY: u32 = 1;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

/// Length of `struct tcmsg` in bytes.
const TCMSG: usize = 20;
/// Offset of `tcm_handle`.
const TCM_HANDLE: usize = 8;

/// The parent of a clsact qdisc, and of an ingress qdisc, which stands in the same place.
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and the same for egress.
const CLSACT_INGRESS: u32 = 0xffff_fff2;
const CLSACT_EGRESS: u32 = 0xffff_fff3;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
/// The program's return code is the verdict.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// A filter as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Filter {
    handle: u32,
    /// Absent unless it is a BPF filter.
    program_id: Option<u32>,
}

/// Adds the filter to an interface, or replaces the program of the one that is there; says where it stands.
///
/// Where a foreign one runs before it, it is overtaken if that is allowed.
pub(super) fn attach(
    device: &Device,
    program: &ProgramHandle,
    twins: &mut Twins,
    may_overtake: impl FnOnce() -> bool,
    done: &mut Followed,
) -> Result<Standing, KernelError> {
    let Device { ifindex, name, .. } = device;
    let failed = |error| failed("RTM_NEWTFILTER", *ifindex)(error);
    let filters = filters(*ifindex, CLSACT_EGRESS)?;
    let Some(own) = own(&filters) else {
        let added = add_qdisc(*ifindex).and_then(|()| set_filter(*ifindex, HANDLES[0], program));
        return match added {
            Ok(()) => {
                done.change(Part::Tc, name, "the program was not there: attached");
                Ok(Standing::First)
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Standing::Gone),
            Err(error) => Err(failed(error)),
        };
    };
    if !own.program_id.is_some_and(|id| twins.are(id, program)) {
        set_filter(*ifindex, own.handle, program).map_err(failed)?;
        done.change(Part::Tc, name, "another program was attached: replaced");
    }
    // One that is left of an overtaking that was cut short.
    for left in filters
        .iter()
        .filter(|filter| is_own(filter) && filter.handle != own.handle)
    {
        remove(*ifindex, left.handle)?;
    }
    if filters.first() == Some(own) {
        return Ok(Standing::First);
    }
    if !may_overtake() {
        return Ok(Standing::Behind);
    }
    let [first, second] = HANDLES;
    let other = if own.handle == first { second } else { first };
    set_filter(*ifindex, other, program).map_err(failed)?;
    remove(*ifindex, own.handle)?;
    done.change(
        Part::Tc,
        name,
        "another program ran before leakguard's: overtaken",
    );
    Ok(Standing::First)
}

/// Replaces the program of the filter on an interface, if there is one.
pub(super) fn replace(ifindex: u32, program: &ProgramHandle) -> Result<(), KernelError> {
    match own(&filters(ifindex, CLSACT_EGRESS)?) {
        Some(own) => {
            set_filter(ifindex, own.handle, program).map_err(failed("RTM_NEWTFILTER", ifindex))
        }
        None => Ok(()),
    }
}

/// Removes the filters of this version from an interface, and the qdisc if nobody else has a filter on it; says whether
/// there was one.
pub(super) fn detach(ifindex: u32) -> Result<bool, KernelError> {
    detach_where(ifindex, is_own)
}

/// The same for the filters of older versions.
pub(super) fn detach_older(ifindex: u32) -> Result<bool, KernelError> {
    detach_where(ifindex, |filter| {
        version(filter).is_some_and(|version| version < ABI_VERSION)
    })
}

/// The same for the filters of every version.
pub(super) fn detach_all(ifindex: u32) -> Result<bool, KernelError> {
    detach_where(ifindex, |filter| version(filter).is_some())
}

fn detach_where(ifindex: u32, which: impl Fn(&Filter) -> bool) -> Result<bool, KernelError> {
    let mut found = filters(ifindex, CLSACT_EGRESS)?;
    found.retain(which);
    let mut removed = false;
    for filter in found {
        removed |= remove(ifindex, filter.handle)?;
    }
    if removed
        && filters(ifindex, CLSACT_EGRESS)?.is_empty()
        && filters(ifindex, CLSACT_INGRESS)?.is_empty()
    {
        let body = tcmsg(ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0);
        match request(RTM_DELQDISC, 0, &body, |_| Ok(())) {
            Err(error) if !is_gone(&error) => return Err(failed("RTM_DELQDISC", ifindex)(error)),
            _ => {}
        }
    }
    Ok(removed)
}

/// Removes one filter; says whether it was there.
fn remove(ifindex: u32, handle: u32) -> Result<bool, KernelError> {
    let body = tcmsg(ifindex, handle, CLSACT_EGRESS, filter_info());
    match request(RTM_DELTFILTER, 0, &body, |_| Ok(())) {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(failed("RTM_DELTFILTER", ifindex)(error)),
    }
}

/// Reads back whether the filter is on an interface, and whether another one runs before it.
pub(super) fn attachment(ifindex: u32) -> Result<TcAttachment, KernelError> {
    let filters = filters(ifindex, CLSACT_EGRESS)?;
    Ok(match own(&filters) {
        None => TcAttachment::Absent,
        own if own == filters.first() => TcAttachment::Clsact,
        Some(_) => TcAttachment::Behind,
    })
}

/// The number of the program that this version's filter has on an interface.
pub(super) fn program(ifindex: u32) -> Result<Option<u32>, KernelError> {
    let filters = filters(ifindex, CLSACT_EGRESS)?;
    Ok(own(&filters).and_then(|filter| filter.program_id))
}

/// The first of this version's filters.
fn own(filters: &[Filter]) -> Option<&Filter> {
    filters.iter().find(|filter| is_own(filter))
}

fn is_own(filter: &Filter) -> bool {
    HANDLES.contains(&filter.handle)
}

/// The ABI version of one of leakguard's filters.
fn version(filter: &Filter) -> Option<u32> {
    (filter.handle >> 16 == PREFIX).then_some(filter.handle & 0xff)
}

fn add_qdisc(ifindex: u32) -> io::Result<()> {
    let mut body = tcmsg(ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0);
    push_attribute(&mut body, TCA_KIND, b"clsact\0")?;
    match request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &body, |_| Ok(())) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        result => return result,
    }
    // An ingress qdisc accepts a filter for egress, and runs it on what arrives.
    let kind = qdisc_kind(ifindex)?;
    if kind == b"clsact\0" {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "its {} qdisc stands where clsact has to be; replace it: tc qdisc del dev … ingress, then tc qdisc add dev … clsact",
        String::from_utf8_lossy(&kind).trim_end_matches('\0')
    )))
}

fn qdisc_kind(ifindex: u32) -> io::Result<Vec<u8>> {
    let mut kind = Vec::new();
    let body = tcmsg(ifindex, 0, TC_H_CLSACT, 0);
    // Before 6.14 only who asks for an echo gets an answer.
    request(RTM_GETQDISC, NLM_F_ECHO, &body, |message| {
        visit_attributes(message.get(TCMSG..).unwrap_or_default(), |found, value| {
            if found == TCA_KIND {
                kind = value.to_vec();
            }
            Ok(())
        })
    })?;
    Ok(kind)
}

/// Adds the filter, or replaces its program while packets pass.
fn set_filter(ifindex: u32, handle: u32, program: &ProgramHandle) -> io::Result<()> {
    let mut options = Vec::new();
    push_attribute(
        &mut options,
        TCA_BPF_FD,
        &program.fd.as_raw_fd().to_ne_bytes(),
    )?;
    push_attribute(&mut options, TCA_BPF_NAME, b"leakguard\0")?;
    push_attribute(
        &mut options,
        TCA_BPF_FLAGS,
        &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes(),
    )?;
    let mut body = tcmsg(ifindex, handle, CLSACT_EGRESS, filter_info());
    push_attribute(&mut body, TCA_KIND, b"bpf\0")?;
    push_attribute(&mut body, TCA_OPTIONS, &options)?;
    request(RTM_NEWTFILTER, NLM_F_CREATE, &body, |_| Ok(()))
}

/// The filters at one end of an interface's clsact qdisc, in the order in which they run; none if it has no such
/// qdisc.
fn filters(ifindex: u32, parent: u32) -> Result<Vec<Filter>, KernelError> {
    let mut found = Vec::new();
    let body = tcmsg(ifindex, 0, parent, 0);
    request(RTM_GETTFILTER, NLM_F_DUMP, &body, |message| {
        let handle = message
            .get(TCM_HANDLE..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        // Every priority is listed by itself, without a handle, before its filters.
        if handle != 0 {
            let program_id = program_id(message.get(TCMSG..).unwrap_or_default())?;
            found.push(Filter { handle, program_id });
        }
        Ok(())
    })
    .map_err(failed("RTM_GETTFILTER", ifindex))?;
    Ok(found)
}

fn program_id(attributes: &[u8]) -> Result<Option<u32>, DecodeError> {
    let mut is_bpf = false;
    let mut id = None;
    visit_attributes(attributes, |found, value| {
        match found {
            TCA_KIND => is_bpf = value == b"bpf\0",
            TCA_OPTIONS => visit_attributes(value, |found, value| {
                if found == TCA_BPF_ID {
                    id = value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(id.filter(|_| is_bpf))
}

fn visit_attributes(
    bytes: &[u8],
    mut visit: impl FnMut(u16, &[u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute?;
        visit(attribute.kind(), attribute.value())?;
    }
    Ok(())
}

fn tcmsg(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    // The address family and its padding come first.
    [0, ifindex, handle, parent, info]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect()
}

/// The priority in the upper half, the protocol in network order in the lower one.
fn filter_info() -> u32 {
    const ETH_P_ALL: u16 = 3;
    PRIORITY << 16 | u32::from(ETH_P_ALL.to_be())
}

/// Whether what was to be removed had been removed already, with its qdisc or its interface.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)
    )
}

fn failed(call: &'static str, ifindex: u32) -> impl FnOnce(io::Error) -> KernelError {
    KernelError::call(call, format!("interface {ifindex}"))
}
