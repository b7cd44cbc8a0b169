//! `cgroup/setsockopt`: options that would lead packets past TC.

use aya_ebpf::bindings::bpf_sockopt;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_uid_gid};
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use leakguard_common::abi::{Carrier, Event, Family, Hook, Owner, Settings, Verdict};
use leakguard_common::counter::Series;
use leakguard_common::hardening::{SocketOption, decide};
use leakguard_common::packet::Packet;
use leakguard_common::verdict::Decision;

use super::counters::count_packets;
use super::events::write;
use super::maps::SETTINGS;
use super::netns;
use super::sender::{current_pid, name_current};

const PASS: i32 = 1;
const REFUSE: i32 = 0;

/// The most that the kernel copies of an option for programs (`sockopt_alloc_buf` in `kernel/bpf/cgroup.c`): a page, of
/// which this is the smallest.
const COPIED: i32 = 4096;

/// For kernels where `cgroup/setsockopt` may ask for the namespace's cookie and for the current task (since 6.1).
#[cgroup_sockopt(setsockopt)]
pub(super) fn setsockopt_cookie(context: SockoptContext) -> i32 {
    let context = context.sockopt;
    judge(
        context,
        |settings| netns::is_managed_by_cookie(context.cast(), settings),
        |event| {
            event.pid = current_pid();
            name_current(&mut event.comm);
        },
    )
}

/// For older kernels: the namespace's inode, read from the socket.
#[cgroup_sockopt(setsockopt)]
pub(super) fn setsockopt_inode(context: SockoptContext) -> i32 {
    let context = context.sockopt;
    judge(
        context,
        |settings| {
            // SAFETY: a context field; the verifier checks the access.
            let socket = unsafe { (*context).__bindgen_anon_1.sk };
            netns::is_managed_by_inode(socket, settings)
        },
        |_| {},
    )
}

#[inline(always)]
fn judge(
    context: *mut bpf_sockopt,
    is_managed: impl FnOnce(&Settings) -> bool,
    sign: impl FnOnce(&mut Event),
) -> i32 {
    // SAFETY: context fields; the verifier checks the accesses.
    let (option, length) = unsafe {
        let option = SocketOption {
            level: (*context).level,
            name: (*context).optname,
        };
        (option, (*context).optlen)
    };
    if length > COPIED {
        // Without this, kernels before 6.5 refuse what they could not copy whole (EFAULT); 0 stands for what the process
        // has given. The options that matter here are a few bytes.
        // SAFETY: a context field that programs may write.
        unsafe { (*context).optlen = 0 };
    }
    let Some(settings) = SETTINGS.get(0) else {
        return if option.leads_past_tc(true) {
            REFUSE
        } else {
            PASS
        };
    };
    let decision = decide(option, || is_on(context), settings, || is_managed(settings));
    if !decision.is_judged() {
        return PASS;
    }
    count_packets(
        &Series::new(Hook::Setsockopt, &decision, &Packet::UNKNOWN),
        1,
    );
    write(1, |event| {
        describe(event, option, &decision, settings, sign);
    });
    if matches!(decision.verdict, Verdict::Drop) {
        REFUSE
    } else {
        PASS
    }
}

/// Whether a value switches an option on; a value that cannot be read does.
#[inline(always)]
fn is_on(context: *mut bpf_sockopt) -> bool {
    // SAFETY: context fields; the verifier checks the accesses.
    let (value, end) = unsafe {
        (
            (*context).__bindgen_anon_2.optval as usize,
            (*context).__bindgen_anon_3.optval_end as usize,
        )
    };
    if value + 4 > end {
        return true;
    }
    // SAFETY: these bytes lie within the kernel's copy, which the verifier checks by the comparison above. The kernel uses
    // the same copy afterwards, so that the process cannot change it in between.
    unsafe { (value as *const u32).read_unaligned() != 0 }
}

#[inline(always)]
fn describe(
    event: *mut Event,
    option: SocketOption,
    decision: &Decision,
    settings: &Settings,
    sign: impl FnOnce(&mut Event),
) {
    // SAFETY: `event` points to a reserved record of this type, which nobody else sees before it is submitted.
    unsafe {
        (*event).boot_time = bpf_ktime_get_boot_ns();
        (*event).netns_cookie = settings.netns_cookie;
        (*event).socket_cookie = 0;
        (*event).cgroup_id = bpf_get_current_cgroup_id();
        (*event).ifindex = 0;
        (*event).ingress_ifindex = 0;
        (*event).length = 0;
        (*event).segments = 1;
        (*event).pid = 0;
        (*event).uid = bpf_get_current_uid_gid() as u32;
        (*event).source_port = 0;
        (*event).destination_port = 0;
        (*event).bytes_len = SocketOption::BYTES as u16;
        (*event).protocol = 0;
        (*event).family = Family::Unknown as u8;
        (*event).verdict = decision.verdict as u8;
        (*event).reason = decision.reason as u8;
        (*event).hook = Hook::Setsockopt as u8;
        (*event).role = decision.role as u8;
        (*event).carrier = Carrier::None as u8;
        (*event).padding = [0; 3];
        (*event).comm = [0; 16];
        (*event).owner = Owner::NOBODY;
        (*event).rate_created = 0;
        (*event).suppressed = 0;
        (*event).source = [0; 16];
        (*event).destination = [0; 16];
        (&raw mut (*event).bytes)
            .cast::<[[u8; 4]; 2]>()
            .write(option.to_bytes());
        sign(&mut *event);
    }
}
