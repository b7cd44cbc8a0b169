//! The tunnel's resolver: whether it answers, validates, answers over IPv6, and whether full packets pass.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Name, RecordType};
use nix::errno::Errno;
use nix::libc;
use tokio::time::timeout;

use super::echo;
use super::report::{Check, Part, Verdict};
use super::send::set_option;
use crate::config::Verify;
use crate::preflight::probe::{answer, towards};

/// How long an answer may take before it counts as missing.
pub(super) const LIMIT: Duration = Duration::from_secs(1);

/// What a name that has to be looked up elsewhere may take; the same in a quick run.
const FAR_LIMIT: Duration = Duration::from_millis(2500);
const QUICK_LIMIT: Duration = Duration::from_millis(600);

/// How long a resolver is waited for that does not say what it is called.
const IDENTITY_LIMIT: Duration = Duration::from_millis(300);

/// The size of answers that every path carries.
const EDNS_SIZE: u16 = 1232;

/// The EDNS option that carries nothing (RFC 7830).
const PADDING: u16 = 12;

/// A resolver behind a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) address: IpAddr,
    pub(super) tunnel: String,
    /// The tunnel's.
    pub(super) mtu: u32,
}

/// Asks everything that one question each answers.
pub(super) async fn check(server: &Server, verify: &Verify, quick: bool) -> Vec<Check> {
    let Verify {
        mtu,
        signed_name,
        bogus_name,
        ..
    } = verify;
    let (near, far) = if quick {
        (QUICK_LIMIT, QUICK_LIMIT)
    } else {
        (LIMIT, FAR_LIMIT)
    };
    let mut checks = vec![answers(server, near).await];
    if checks.iter().any(|check| check.result.is_failure()) {
        // Everything else would only say the same.
        return checks;
    }
    let range = if mtu.contains(&server.mtu) {
        (Verdict::Pass, "is between")
    } else {
        (Verdict::Fail, "is not between")
    };
    checks.push(
        Check::new(
            Part::Tunnel,
            "mtu",
            range.0,
            format!(
                "{} {} {} and {}",
                server.mtu,
                range.1,
                mtu.start(),
                mtu.end()
            ),
        )
        .on(&server.tunnel),
    );
    let (signed, bogus, size, v6) = tokio::join!(
        signed(server, signed_name.as_ref(), far),
        bogus(server, bogus_name.as_ref(), far),
        full_size(server, quick),
        ipv6(server, signed_name.as_ref(), far),
    );
    checks.extend([signed, bogus, size, v6]);
    checks
}

/// A question that asks for validation and says that it understands signatures.
fn question(name: &Name, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.authentic_data = true;
    message.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(EDNS_SIZE).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

async fn ask(server: &Server, question: &Message, limit: Duration) -> io::Result<Message> {
    let exchange = async {
        let socket = towards(server.address, &server.tunnel)?;
        let bytes = answer(&socket, question).await?;
        Message::from_vec(&bytes).map_err(io::Error::other)
    };
    timeout(limit, exchange)
        .await
        .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}

fn failed(what: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => format!("{what}: no answer in time"),
        _ => format!("{what}: {error}"),
    }
}

async fn answers(server: &Server, limit: Duration) -> Check {
    let Server {
        address, tunnel, ..
    } = server;
    let (result, reason) = match ask(server, &question(&Name::root(), RecordType::NS), limit).await
    {
        Ok(_) => {
            let identity = identity(server).await;
            let called =
                identity.map_or_else(String::new, |name| format!(", which calls itself {name:?}"));
            (
                Verdict::Pass,
                format!("{address} answers through {tunnel}{called}"),
            )
        }
        Err(error) => (
            Verdict::Fail,
            failed(&format!("{address} through {tunnel}"), &error),
        ),
    };
    Check::new(Part::Tunnel, "resolver", result, reason).on(tunnel)
}

/// What the resolver calls itself (RFC 4892); most do not say.
async fn identity(server: &Server) -> Option<String> {
    let mut message = Message::query();
    let mut query = Query::query(Name::from_ascii("id.server.").ok()?, RecordType::TXT);
    query.set_query_class(DNSClass::CH);
    message.add_query(query);
    let answer = ask(server, &message, IDENTITY_LIMIT).await.ok()?;
    let record = answer.answers.first()?;
    Some(record.data.to_string()).filter(|text| !text.is_empty())
}

async fn signed(server: &Server, name: Option<&Name>, limit: Duration) -> Check {
    let (result, reason) = match name {
        None => (Verdict::Skipped, "signed_name is empty".to_owned()),
        Some(name) => match ask(server, &question(name, RecordType::A), limit).await {
            Err(error) => (Verdict::Fail, failed(&name.to_string(), &error)),
            Ok(answer) => match answer.metadata.response_code {
                ResponseCode::NoError if answer.metadata.authentic_data => (
                    Verdict::Pass,
                    format!("{name} is answered as authentic (AD)"),
                ),
                ResponseCode::NoError => (
                    Verdict::Fail,
                    format!(
                        "{name} is signed, but answered without AD: the resolver does not validate"
                    ),
                ),
                code => (
                    Verdict::Fail,
                    format!("{name} is answered {}", code.to_str()),
                ),
            },
        },
    };
    Check::new(Part::Tunnel, "dnssec-signed", result, reason).on(&server.tunnel)
}

async fn bogus(server: &Server, name: Option<&Name>, limit: Duration) -> Check {
    let (result, reason) = match name {
        None => (Verdict::Skipped, "bogus_name is empty".to_owned()),
        Some(name) => match ask(server, &question(name, RecordType::A), limit).await {
            Err(error) => (Verdict::Fail, failed(&name.to_string(), &error)),
            Ok(answer) => match answer.metadata.response_code {
                ResponseCode::ServFail => unchecked(server, name, limit).await,
                ResponseCode::NoError => (
                    Verdict::Fail,
                    format!(
                        "{name} has a wrong signature, but is answered: the resolver does not validate"
                    ),
                ),
                code => (
                    Verdict::Inconclusive,
                    format!(
                        "{name} is answered {}, which says nothing about signatures",
                        code.to_str()
                    ),
                ),
            },
        },
    };
    Check::new(Part::Tunnel, "dnssec-bogus", result, reason).on(&server.tunnel)
}

/// Whether it was the signature that made it fail: without validation there has to be an answer.
async fn unchecked(server: &Server, name: &Name, limit: Duration) -> (Verdict, String) {
    let mut message = question(name, RecordType::A);
    message.metadata.checking_disabled = true;
    match ask(server, &message, limit).await {
        Ok(answer) if answer.metadata.response_code == ResponseCode::NoError => (
            Verdict::Pass,
            format!("{name} is refused (SERVFAIL), and answered when validation is switched off"),
        ),
        _ => (
            Verdict::Inconclusive,
            format!("{name} fails without validation too: its servers may be out of reach"),
        ),
    }
}

async fn ipv6(server: &Server, name: Option<&Name>, limit: Duration) -> Check {
    let name = name.cloned().unwrap_or_else(Name::root);
    let (result, reason) = match ask(server, &question(&name, RecordType::AAAA), limit).await {
        Err(error) => (Verdict::Fail, failed(&format!("AAAA of {name}"), &error)),
        Ok(answer) => {
            let found = answer
                .answers
                .iter()
                .filter(|record| record.record_type() == RecordType::AAAA)
                .count();
            match answer.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => (
                    Verdict::Pass,
                    format!("AAAA of {name} is answered with {found} addresses"),
                ),
                code => (
                    Verdict::Fail,
                    format!("AAAA of {name} is answered {}", code.to_str()),
                ),
            }
        }
    };
    Check::new(Part::Tunnel, "ipv6", result, reason).on(&server.tunnel)
}

/// Whether a packet of the tunnel's MTU passes that must not be fragmented.
async fn full_size(server: &Server, quick: bool) -> Check {
    let size = server.mtu;
    let (result, reason) = if padded(server, size).await {
        (
            Verdict::Pass,
            format!("a padded question of {size} bytes, not to be fragmented, is answered"),
        )
    } else if echo::passes(server, size).await {
        (
            Verdict::Pass,
            format!("an ICMP echo of {size} bytes, not to be fragmented, is answered"),
        )
    } else {
        // A few sizes tell where to look.
        let mut passes = None;
        let sizes: &[u32] = if quick {
            &[1280]
        } else {
            &[1452, 1412, 1400, 1380, 1340, 1280, 1200, 576]
        };
        for &smaller in sizes {
            if smaller < size
                && (echo::passes(server, smaller).await || padded(server, smaller).await)
            {
                passes = Some(smaller);
                break;
            }
        }
        let found = passes.map_or_else(
            || "no smaller one that was tried either".to_owned(),
            |smaller| format!("one of {smaller} bytes is: lower the tunnel's MTU"),
        );
        (
            Verdict::Fail,
            format!(
                "no packet of {size} bytes is answered, neither a padded question nor an ICMP echo; {found}"
            ),
        )
    };
    Check::new(Part::Tunnel, "full-size", result, reason).on(&server.tunnel)
}

/// How long an echo or a padded question is waited for.
pub(super) const SIZE_LIMIT: Duration = Duration::from_millis(400);

/// Asks in a packet of exactly this size.
async fn padded(server: &Server, size: u32) -> bool {
    let headers = if server.address.is_ipv4() { 28 } else { 48 };
    let build = |padding: usize| {
        let mut message = question(&Name::root(), RecordType::NS);
        if let Some(edns) = message.edns.as_mut() {
            let option = EdnsOption::Unknown(PADDING, vec![0; padding]);
            edns.options_mut().insert(option);
        }
        message
    };
    let Ok(bare) = build(0).to_vec() else {
        return false;
    };
    let Some(padding) = (size as usize).checked_sub(headers + bare.len()) else {
        return false;
    };
    let message = build(padding);
    let exchange = async {
        let socket = towards(server.address, &server.tunnel)?;
        do_not_fragment(&socket, server.address).map_err(io::Error::from)?;
        answer(&socket, &message).await
    };
    matches!(timeout(SIZE_LIMIT, exchange).await, Ok(Ok(_)))
}

/// Makes a socket send whole packets or none, whatever is known of the path.
pub(super) fn do_not_fragment(socket: &impl AsRawFd, to: IpAddr) -> Result<(), Errno> {
    let (level, name, value) = match to {
        IpAddr::V4(_) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        ),
        IpAddr::V6(_) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        ),
    };
    set_option(socket, level, name, value)
}
