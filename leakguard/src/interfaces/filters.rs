//! The filters on an interface's clsact qdisc, for kernels without TCX.

use super::netlink::{Dumper, NetlinkError, Request, u32_at};

/// Length of `struct tcmsg` in bytes.
const TCMSG: usize = 20;
/// Offset of `tcm_ifindex`.
const IFINDEX: usize = 4;
/// Offset of `tcm_handle`.
const HANDLE: usize = 8;
/// Offset of `tcm_parent`.
const PARENT: usize = 12;

/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)` (`linux/pkt_sched.h`).
const CLSACT_EGRESS: u32 = 0xffff_fff3;

/// The handles of the filters at an interface's clsact egress; none if it has no such qdisc.
pub async fn egress_filters(ifindex: u32) -> Result<Vec<u32>, NetlinkError> {
    let mut request = [0; TCMSG];
    request[IFINDEX..HANDLE].copy_from_slice(&ifindex.to_ne_bytes());
    request[PARENT..PARENT + 4].copy_from_slice(&CLSACT_EGRESS.to_ne_bytes());
    let mut handles = Vec::new();
    let mut dumper = Dumper::open()?;
    dumper
        .dump(Request::Filters, &request, |message| {
            handles.push(u32_at(message, HANDLE)?);
            Ok(())
        })
        .await?;
    Ok(handles)
}
