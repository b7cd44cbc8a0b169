//! The messages that users see when names do not resolve.

use super::Cause::{Never, When};
use super::Message;

/// Why most of them are seen.
const DROPPED: &str = "the resolver is reached over an uplink, so that what it is asked is dropped";
pub(super) const UNREACHABLE: &str = "it was a call to port 53, `[dns] redirect` is set, and no tunnel is up or the resolver is of another family; \
    else there is no route";
const REDIRECTED: &str = "leakguard status: is the tunnel up? ip route get ADDRESS";
const REFUSED_BY_OTHERS: &str = "whoever answered has said so; leakguard answers nothing";
const RESOLVER: &str = "leakguard doctor: is the resolver behind the tunnel, and is the tunnel up?";

const fn message(
    text: &'static str,
    said_by: &'static str,
    means: &'static str,
    cause: super::Cause,
    remedy: &'static str,
) -> Message {
    Message {
        text,
        said_by,
        means,
        cause,
        remedy,
    }
}

/// Every message; `*` stands for what differs.
pub(super) const MESSAGES: &[Message] = &[
    // The C libraries.
    message(
        "Temporary failure in name resolution",
        "glibc (EAI_AGAIN): ping, ssh, git, wget, Python, Ruby, Rust",
        "no resolver has answered, or the question could not be sent",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "Temporary failure resolving",
        "apt",
        "no resolver has answered, or the question could not be sent",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "Name or service not known",
        "glibc (EAI_NONAME): ping, ssh, Python",
        "a resolver says that there is no such name; or nsswitch.conf asks none",
        Never(REFUSED_BY_OTHERS),
        "dig NAME; grep hosts: /etc/nsswitch.conf",
    ),
    message(
        "No address associated with hostname",
        "glibc (EAI_NODATA)",
        "the name exists, but not with an address of that family",
        Never(REFUSED_BY_OTHERS),
        "dig NAME A; dig NAME AAAA",
    ),
    message(
        "Non-recoverable failure in name resolution",
        "glibc (EAI_FAIL)",
        "a resolver has answered with an error",
        Never(REFUSED_BY_OTHERS),
        "dig NAME",
    ),
    message(
        "Try again",
        "musl (EAI_AGAIN): Alpine",
        "no resolver has answered within the time-out",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "Name does not resolve",
        "musl (EAI_NONAME): Alpine",
        "a resolver says that there is no such name",
        Never(REFUSED_BY_OTHERS),
        "dig NAME",
    ),
    message(
        "bad address '*'",
        "busybox: ping, wget",
        "the name could not be resolved, for whatever reason",
        When(DROPPED),
        RESOLVER,
    ),
    // Programs that look up by the C library and have words of their own.
    message(
        "Could not resolve host",
        "curl, git",
        "the name could not be resolved, for whatever reason",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "Could not resolve hostname",
        "ssh",
        "the name could not be resolved; the reason is behind the colon",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "Resolving timed out after",
        "curl",
        "no resolver has answered within curl's own time-out",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "unable to resolve host address",
        "wget",
        "the name could not be resolved, for whatever reason",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "could not translate host name",
        "PostgreSQL's clients",
        "the name could not be resolved; the reason is behind it",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "java.net.UnknownHostException",
        "Java",
        "the name could not be resolved, for whatever reason",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "failed to lookup address information",
        "Rust",
        "the name could not be resolved; the reason is behind the colon",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "getaddrinfo EAI_AGAIN",
        "Node.js",
        "no resolver has answered, or the question could not be sent",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "getaddrinfo ENOTFOUND",
        "Node.js",
        "a resolver says that there is no such name",
        Never(REFUSED_BY_OTHERS),
        "dig NAME",
    ),
    message(
        "query* ETIMEOUT",
        "Node.js (c-ares)",
        "no resolver has answered",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "query* ECONNREFUSED",
        "Node.js (c-ares)",
        "nothing listens at the resolver's address, or the question could not be sent",
        When(DROPPED),
        RESOLVER,
    ),
    // Go.
    message(
        "lookup * on *: server misbehaving",
        "Go: docker, kubectl",
        "a resolver has answered with an error, or with something that is no answer",
        When("a resolver on this host asks past the tunnel, gets nothing, and says SERVFAIL"),
        "dig NAME; leakguard doctor: local-resolver",
    ),
    message(
        "lookup * on *: no such host",
        "Go: docker, kubectl",
        "a resolver says that there is no such name",
        Never(REFUSED_BY_OTHERS),
        "dig NAME",
    ),
    message(
        "lookup *: i/o timeout",
        "Go: docker, kubectl",
        "no resolver has answered",
        When("the question went by TCP or from another network namespace, and is dropped"),
        RESOLVER,
    ),
    message(
        "lookup *: write: operation not permitted",
        "Go: docker, kubectl",
        "the question could not be sent",
        When(DROPPED),
        RESOLVER,
    ),
    // Tools that ask themselves.
    message(
        "no servers could be reached",
        "dig, host, nslookup",
        "no resolver has answered",
        When(
            "the resolver is reached over an uplink: dig waits for its time-out although the kernel refuses at once",
        ),
        RESOLVER,
    ),
    message(
        "communications error to *: timed out",
        "dig, host, nslookup",
        "the resolver has not answered",
        When(
            "the resolver is reached over an uplink: dig waits for its time-out although the kernel refuses at once",
        ),
        RESOLVER,
    ),
    message(
        "Connection to * failed: timed out",
        "dig +tcp",
        "no connection to the resolver has come about",
        When("the resolver is reached over an uplink: what opens a connection is dropped"),
        RESOLVER,
    ),
    message(
        "setup with * failed: network unreachable",
        "dig, host, nslookup",
        "the kernel has no way to that resolver",
        When(UNREACHABLE),
        REDIRECTED,
    ),
    message(
        "communications error to *: connection refused",
        "dig, host, nslookup",
        "nothing listens at port 53 there",
        Never("a dropped question is never refused so"),
        "leakguard doctor: resolver-not-listening",
    ),
    message(
        "communications error to *: permission denied",
        "dig, host, nslookup",
        "the question could not be sent",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "status: SERVFAIL",
        "dig",
        "the resolver could not find out, or what it found is not signed as it should be",
        When("it is a resolver on this host, and asks past the tunnel"),
        "dig +cd NAME: an answer now means DNSSEC; else leakguard doctor: local-resolver",
    ),
    message(
        "server can't find *: SERVFAIL",
        "nslookup",
        "the resolver could not find out, or what it found is not signed as it should be",
        When("it is a resolver on this host, and asks past the tunnel"),
        "dig +cd NAME: an answer now means DNSSEC; else leakguard doctor: local-resolver",
    ),
    message(
        "status: REFUSED",
        "dig",
        "the resolver does not serve this client",
        Never(REFUSED_BY_OTHERS),
        "use the resolver that the VPN names",
    ),
    message(
        "response timeout for *",
        "kdig",
        "the resolver has not answered",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "can't send query to *",
        "kdig",
        "the question could not be sent",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "failed to query server *",
        "kdig",
        "the question could not be sent, or was not answered",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "error sending query: *",
        "drill",
        "the question could not be sent",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "Could not send or receive, because of network error",
        "drill",
        "the question could not be sent, or was not answered",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "resolve call failed: *",
        "resolvectl",
        "systemd-resolved has got no answer; the reason is behind the colon",
        When("one of the resolvers that it asks is reached over an uplink"),
        "resolvectl status; leakguard doctor: resolved",
    ),
    message(
        "DNSSEC validation failed: *",
        "systemd-resolved",
        "what was answered is not signed as it should be, or the clock is wrong",
        Never("leakguard changes no answer"),
        "timedatectl; resolvectl query NAME",
    ),
    // Browsers.
    message(
        "DNS_PROBE_FINISHED_NO_INTERNET",
        "Chrome, Edge, Brave",
        "no resolver has answered, also not the public one that the browser tried",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "DNS_PROBE_FINISHED_BAD_CONFIG",
        "Chrome, Edge, Brave",
        "the host's resolver does not answer, and a public one did",
        When("the host's resolver is reached over an uplink"),
        RESOLVER,
    ),
    message(
        "DNS_PROBE_FINISHED_NXDOMAIN",
        "Chrome, Edge, Brave",
        "a resolver says that there is no such name",
        Never(REFUSED_BY_OTHERS),
        "dig NAME",
    ),
    message(
        "DNS_PROBE_FINISHED_BAD_SECURE_CONFIG",
        "Chrome, Edge, Brave",
        "the DNS over HTTPS that the browser was set to does not answer",
        When("its resolver is a known one and is reached over an uplink (class doh)"),
        "switch DNS over HTTPS off in the browser: the tunnel's resolver is safe already",
    ),
    message(
        "DNS_PROBE_POSSIBLE",
        "Chrome, Edge, Brave",
        "the browser has not found out yet whether it is DNS",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "ERR_NAME_NOT_RESOLVED",
        "Chrome, Edge, Brave",
        "the name could not be resolved, for whatever reason",
        When(DROPPED),
        RESOLVER,
    ),
    message(
        "ERR_INTERNET_DISCONNECTED",
        "Chrome, Edge, Brave",
        "the host has no address or no route",
        Never("leakguard changes no address and no route"),
        "ip addr; ip route",
    ),
    message(
        "trouble finding that site",
        "Firefox",
        "the name could not be resolved, for whatever reason",
        When(DROPPED),
        RESOLVER,
    ),
    // The kernel.
    message(
        "Operation not permitted",
        "any program that sends (EPERM of sendto, sendmsg, write); chattr, sed, tee on a file",
        "the kernel has refused: a packet, or a change of an immutable file",
        When(
            "it was a packet: a datagram of DNS to an uplink, or anything while the kill switch is engaged",
        ),
        "leakguard events; for a file: lsattr FILE",
    ),
    message(
        "Network is unreachable",
        "any program (ENETUNREACH)",
        "there is no route of that family, or somebody has refused the call so",
        When(UNREACHABLE),
        REDIRECTED,
    ),
    message(
        "No route to host",
        "any program (EHOSTUNREACH)",
        "nobody at that address answers on the link, or a firewall says so",
        Never("leakguard drops without a word"),
        "ip neigh; nft list ruleset",
    ),
    message(
        "Connection refused",
        "any program (ECONNREFUSED)",
        "nothing listens there",
        Never("leakguard drops, it refuses no connection"),
        "ss -lntu; leakguard doctor: resolver-not-listening",
    ),
    message(
        "Connection timed out",
        "any program (ETIMEDOUT)",
        "no answer has come for about two minutes",
        When(
            "it was a connection to port 53 or 853 or to a known resolver of DoH, or the kill switch is engaged",
        ),
        "leakguard explain tcp ADDRESS:PORT",
    ),
    message(
        "Failed to connect to * port *",
        "curl, git",
        "no connection has come about: it was refused at once, or nobody has answered",
        When(
            "it was to port 53 or 853 or to a known resolver of DoH, or the kill switch is engaged",
        ),
        "leakguard explain tcp ADDRESS:PORT",
    ),
    message(
        "System has not been booted with systemd as init system",
        "systemctl, resolvectl, timedatectl",
        "this is a container, WSL or another init system: commands for systemd do not work here",
        Never("it is about the machine"),
        "service NAME restart, or what the container's host offers",
    ),
];
