//! The bpf(2) calls that aya 0.14 has no API for, or none that takes an interface number and a pinned link.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::{
    BPF_F_BEFORE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type, bpf_map_info,
    bpf_map_type, bpf_prog_info,
};
use nix::libc;

/// Where a link is to be attached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'fd> {
    /// A hook of a cgroup2 directory.
    Cgroup(CgroupHook, BorrowedFd<'fd>),
    /// The head of the TCX egress chain of an interface of the current namespace.
    TcxEgress(u32),
}

/// The hooks of a cgroup that leakguard has a program for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CgroupHook {
    /// `cgroup_skb/egress`
    Egress,
    /// `cgroup/setsockopt`
    Setsockopt,
    /// `cgroup/sock_create`
    Create,
    /// `cgroup/connect4`
    Connect4,
    /// `cgroup/connect6`
    Connect6,
    /// `cgroup/sendmsg4`
    Sendmsg4,
    /// `cgroup/sendmsg6`
    Sendmsg6,
    /// `cgroup/recvmsg4`
    Recvmsg4,
    /// `cgroup/recvmsg6`
    Recvmsg6,
    /// `cgroup/getpeername4`
    Getpeername4,
    /// `cgroup/getpeername6`
    Getpeername6,
}

impl CgroupHook {
    /// All of them.
    pub(super) const ALL: [Self; 11] = [
        Self::Egress,
        Self::Setsockopt,
        Self::Create,
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Getpeername4,
        Self::Getpeername6,
    ];

    /// Those where it is recorded who uses a socket.
    pub(super) const OF_OWNERS: [Self; 3] = [Self::Create, Self::Connect4, Self::Connect6];

    /// Those that redirection takes besides `connect`, where the program does both.
    pub(super) const OF_REDIRECTION: [Self; 6] = [
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Getpeername4,
        Self::Getpeername6,
    ];

    /// What its link is called among the pins.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Setsockopt => "setsockopt",
            Self::Create => "sock_create",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
        }
    }

    const fn attach_type(self) -> u32 {
        let attach_type = match self {
            Self::Egress => bpf_attach_type::BPF_CGROUP_INET_EGRESS,
            Self::Setsockopt => bpf_attach_type::BPF_CGROUP_SETSOCKOPT,
            Self::Create => bpf_attach_type::BPF_CGROUP_INET_SOCK_CREATE,
            Self::Connect4 => bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
            Self::Connect6 => bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
            Self::Sendmsg4 => bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG,
            Self::Sendmsg6 => bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG,
            Self::Recvmsg4 => bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG,
            Self::Recvmsg6 => bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG,
            Self::Getpeername4 => bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
            Self::Getpeername6 => bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME,
        };
        attach_type as u32
    }
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// The link's own number.
    pub(super) id: u32,
    pub(super) program_id: u32,
    pub(super) attached_to: AttachedTo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttachedTo {
    /// The hook, and the cgroup's id; 0 once it was removed.
    Cgroup(CgroupHook, u64),
    /// The interface's number in its own namespace; 0 once it was unregistered.
    Interface(u32),
    /// Not a kind of link that leakguard makes.
    Foreign,
}

/// Attaches a program; the link lives as long as its descriptor or a pin.
pub(super) fn link_create(program: BorrowedFd<'_>, target: Target<'_>) -> io::Result<OwnedFd> {
    let mut attr = empty_attr();
    // SAFETY: only plain integers of the union's link_create view are written.
    let create = unsafe { &mut attr.link_create };
    create.__bindgen_anon_1.prog_fd = fd_number(program);
    match target {
        Target::Cgroup(hook, cgroup) => {
            create.__bindgen_anon_2.target_fd = fd_number(cgroup);
            create.attach_type = hook.attach_type();
        }
        Target::TcxEgress(ifindex) => {
            create.__bindgen_anon_2.target_ifindex = ifindex;
            create.attach_type = bpf_attach_type::BPF_TCX_EGRESS as u32;
            // Before nothing in particular is before everything.
            create.flags = BPF_F_BEFORE;
        }
    }
    let fd = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a link in place: there is no moment without one.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty_attr();
    // SAFETY: only plain integers of the union's link_update view are written.
    let update = unsafe { &mut attr.link_update };
    update.link_fd = fd_number(link);
    update.__bindgen_anon_1.new_prog_fd = fd_number(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a link off what it is attached to, at once; it stays a link, attached to nothing.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty_attr();
    // SAFETY: only a plain integer of the union's link_detach view is written.
    unsafe { &mut attr.link_detach }.link_fd = fd_number(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Pins a link.
pub(super) fn object_pin(path: &Path, object: BorrowedFd<'_>) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = empty_attr();
    // SAFETY: only plain integers of the union's view for pins are written.
    let pin = unsafe { &mut attr.__bindgen_anon_4 };
    pin.pathname = path.as_ptr() as u64;
    pin.bpf_fd = fd_number(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens what is pinned at a path, of whatever kind it is.
pub(super) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = empty_attr();
    // SAFETY: only plain integers of the union's view for pins are written.
    let pin = unsafe { &mut attr.__bindgen_anon_4 };
    pin.pathname = path.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a link is attached to; an error for an object that is no link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // A fresh link's descriptor and one that was opened by its pin are named differently.
    demand_kind(link, &["anon_inode:bpf-link", "anon_inode:bpf_link"])?;
    // SAFETY: a plain C structure, for which all zeroes are valid.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    // SAFETY: the kernel fills a structure of this type for a link.
    unsafe { object_info(link, &mut info) }?;
    let attached_to = if info.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        // SAFETY: the kernel fills this view for links of this type.
        let found = unsafe { info.__bindgen_anon_1.cgroup };
        let mut hooks = CgroupHook::ALL.into_iter();
        hooks
            .find(|hook| hook.attach_type() == found.attach_type)
            .map_or(AttachedTo::Foreign, |hook| {
                AttachedTo::Cgroup(hook, found.cgroup_id)
            })
    } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        // SAFETY: as above.
        AttachedTo::Interface(unsafe { info.__bindgen_anon_1.tcx }.ifindex)
    } else {
        AttachedTo::Foreign
    };
    Ok(LinkInfo {
        id: info.id,
        program_id: info.prog_id,
        attached_to,
    })
}

/// A map's number; an error for an object that is no map.
pub(super) fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    map_info(map).map(|info| info.id)
}

fn map_info(map: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    demand_kind(map, &["anon_inode:bpf-map"])?;
    // SAFETY: a plain C structure, for which all zeroes are valid.
    let mut info: bpf_map_info = unsafe { mem::zeroed() };
    // SAFETY: the kernel fills a structure of this type for a map.
    unsafe { object_info(map, &mut info) }?;
    Ok(info)
}

/// What the kernel says of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProgramInfo {
    pub(super) id: u32,
    /// A hash of its instructions, whatever maps they name.
    pub(super) tag: u64,
    /// As much of its name as the kernel keeps.
    pub(super) name: Vec<u8>,
    /// The numbers of the maps that it uses.
    pub(super) maps: Vec<u32>,
}

/// A program by its number; `None` if there is none.
pub(super) fn program_by_id(id: u32) -> io::Result<Option<OwnedFd>> {
    let mut attr = empty_attr();
    // SAFETY: only plain integers of the union's view for numbers are written.
    unsafe { &mut attr.__bindgen_anon_6 }
        .__bindgen_anon_1
        .prog_id = id;
    match bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr) {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a program is; an error for an object that is no program.
pub(super) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    /// The kernel's `MAX_USED_MAPS`.
    const MOST: usize = 64;

    demand_kind(program, &["anon_inode:bpf-prog"])?;
    let mut maps = vec![0_u32; MOST];
    // SAFETY: a plain C structure, for which all zeroes are valid.
    let mut info: bpf_prog_info = unsafe { mem::zeroed() };
    info.nr_map_ids = u32::try_from(MOST).map_err(io::Error::other)?;
    info.map_ids = maps.as_mut_ptr() as u64;
    // SAFETY: the kernel fills a structure of this type for a program, and no more numbers than it was told to.
    unsafe { object_info(program, &mut info) }?;
    maps.truncate(usize::try_from(info.nr_map_ids).map_err(io::Error::other)?);
    // Characters are signed on some architectures.
    let name = info.name.map(|character| character.to_ne_bytes()[0]);
    Ok(ProgramInfo {
        id: info.id,
        tag: u64::from_be_bytes(info.tag),
        name: name.into_iter().take_while(|&byte| byte != 0).collect(),
        maps,
    })
}

/// The first element of an array, of whatever size; an error for any other kind of map.
pub(super) fn first_element(map: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let info = map_info(map)?;
    // The kernel writes as much as the kind of map calls for: an element for each CPU, for example.
    if info.type_ != bpf_map_type::BPF_MAP_TYPE_ARRAY as u32 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let key = 0_u32;
    let mut value = vec![0; usize::try_from(info.value_size).map_err(io::Error::other)?];
    let mut attr = empty_attr();
    // SAFETY: only plain integers of the union's view for elements are written.
    let lookup = unsafe { &mut attr.__bindgen_anon_2 };
    lookup.map_fd = fd_number(map);
    lookup.key = (&raw const key) as u64;
    lookup.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr)?;
    Ok(value)
}

/// Checks what a descriptor stands for: `BPF_OBJ_GET_INFO_BY_FD` answers for links, maps and programs, each in a layout
/// of its own.
fn demand_kind(object: BorrowedFd<'_>, kinds: &[&str]) -> io::Result<()> {
    let found = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    if kinds.iter().any(|kind| found.as_os_str() == *kind) {
        return Ok(());
    }
    Err(io::Error::from(io::ErrorKind::InvalidInput))
}

/// Fills in what the kernel says of an object.
///
/// # Safety
///
/// `T` must be the C structure that the kernel has for this kind of object.
unsafe fn object_info<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = empty_attr();
    // SAFETY: only plain integers of the union's info view are written.
    let query = unsafe { &mut attr.info };
    query.bpf_fd = fd_number(object);
    query.info_len = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    query.info = (&raw mut *info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// One program in a TCX chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chained {
    pub(super) program_id: u32,
    /// The link that holds it there; 0 if none does.
    pub(super) link_id: u32,
}

/// The TCX egress chain of an interface, in the order in which it runs.
pub(super) fn tcx_egress_chain(ifindex: u32) -> io::Result<Vec<Chained>> {
    /// The kernel's `BPF_MPROG_MAX`.
    const MOST: usize = 64;

    let mut programs = [0_u32; MOST];
    let mut links = [0_u32; MOST];
    let mut attr = empty_attr();
    // SAFETY: only plain integers of the union's query view are written.
    let query = unsafe { &mut attr.query };
    query.__bindgen_anon_1.target_ifindex = ifindex;
    query.attach_type = bpf_attach_type::BPF_TCX_EGRESS as u32;
    query.prog_ids = programs.as_mut_ptr() as u64;
    query.link_ids = links.as_mut_ptr() as u64;
    query.__bindgen_anon_2.count = u32::try_from(MOST).map_err(io::Error::other)?;
    match bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) {
        // SAFETY: the kernel has filled the query view.
        Ok(_) => Ok(programs
            .into_iter()
            .zip(links)
            .take(unsafe { attr.query.__bindgen_anon_2.count } as usize)
            .map(|(program_id, link_id)| Chained {
                program_id,
                link_id,
            })
            .collect()),
        // No chain was ever made here.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn empty_attr() -> bpf_attr {
    // SAFETY: a union of plain C structures; the kernel demands that unused bytes are zero.
    unsafe { mem::zeroed() }
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: `attr` is a whole bpf_attr, and the callers have put valid pointers and lengths into it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            &raw mut *attr,
            size_of::<bpf_attr>(),
        )
    };
    let result = RawFd::try_from(result).map_err(io::Error::other)?;
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
