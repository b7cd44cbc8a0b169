//! What becomes of calls to port 53.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has to fail")]

use std::net::IpAddr;

use leakguard_common::abi::{Family, LanKey, Settings, Verdict};
use leakguard_common::redirect::{Call, Course, Surroundings, concerns, course, widen};

const V4: &str = "10.8.0.1";
const V6: &str = "fd00::1";

/// Where everything speaks for redirecting.
struct Host {
    managed: bool,
    near: &'static [&'static str],
    spared: bool,
    up: bool,
}

const HOST: Host = Host {
    managed: true,
    near: &[],
    spared: false,
    up: true,
};

impl Surroundings for Host {
    fn is_managed(&self) -> bool {
        self.managed
    }

    fn is_near(&self, address: &LanKey) -> bool {
        self.near.iter().any(|near| {
            let call = call(near);
            LanKey::new(call.family, &call.address, 128) == *address
        })
    }

    fn is_spared(&self) -> bool {
        self.spared
    }

    fn tunnel_is_up(&self) -> bool {
        self.up
    }
}

fn call(address: &str) -> Call {
    let (family, address) = match address.parse().unwrap() {
        IpAddr::V4(address) => (Family::Ipv4, widen(address.octets())),
        IpAddr::V6(address) => (Family::Ipv6, address.octets()),
    };
    Call {
        family,
        address,
        port: 53,
        bound_ifindex: 0,
    }
}

fn settings() -> Settings {
    let mut settings = Settings {
        redirect: Settings::REDIRECT_V4 | Settings::REDIRECT_V6,
        redirect_v6: call(V6).address,
        ..Settings::default()
    };
    settings.redirect_v4.copy_from_slice(&call(V4).address[..4]);
    settings
}

#[test]
fn a_question_to_anybody_goes_to_the_tunnels_resolver_of_its_family() {
    for (asked, target) in [
        ("8.8.8.8", V4),
        ("192.168.1.1", V4),
        ("1.0.0.0", V4),
        ("223.255.255.255", V4),
        ("2001:4860:4860::8888", V6),
        ("fe80::1", V6),
        ("::2", V6),
    ] {
        let course = course(&call(asked), &settings(), &HOST);
        assert_eq!(course, Course::To(call(target).address), "{asked}");
        assert_eq!(course.verdict(), Some(Verdict::Redirect));
    }
}

#[test]
fn what_stays_on_the_host_is_left_alone() {
    for asked in [
        "127.0.0.53",
        "127.255.255.255",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.251",
        "255.255.255.255",
        "240.0.0.1",
        "::",
        "::1",
        "ff02::fb",
    ] {
        let course = course(&call(asked), &settings(), &HOST);
        assert_eq!(course, Course::Leave, "{asked}");
        assert_eq!(course.verdict(), None);
    }
    let near = Host {
        near: &["10.88.0.1", "fd77::10"],
        up: false,
        ..HOST
    };
    for asked in near.near {
        assert_eq!(course(&call(asked), &settings(), &near), Course::Leave);
    }
    assert_eq!(
        course(&call("10.88.0.2"), &settings(), &near),
        Course::Refuse
    );
}

#[test]
fn whoever_is_not_meant_is_left_alone() {
    let left = |call: &Call, settings: &Settings, host: &Host| {
        assert_eq!(course(call, settings, host), Course::Leave);
    };
    let asked = call("8.8.8.8");
    for host in [
        Host {
            managed: false,
            ..HOST
        },
        Host {
            spared: true,
            ..HOST
        },
        Host {
            spared: true,
            up: false,
            ..HOST
        },
    ] {
        left(&asked, &settings(), &host);
    }
    left(
        &Call {
            bound_ifindex: 2,
            ..asked
        },
        &settings(),
        &HOST,
    );
    left(
        &Call {
            family: Family::Unknown,
            ..asked
        },
        &settings(),
        &HOST,
    );
    let observe = Settings {
        mode: Settings::OBSERVE,
        ..settings()
    };
    left(&asked, &observe, &HOST);
    left(&call(V4), &settings(), &HOST);
    left(&call(V6), &settings(), &HOST);
}

#[test]
fn nothing_is_left_waiting_for_a_tunnel_that_is_down() {
    let down = Host { up: false, ..HOST };
    for asked in ["8.8.8.8", V4, "2001:db8::1", V6] {
        let course = course(&call(asked), &settings(), &down);
        assert_eq!(course, Course::Refuse, "{asked}");
        assert_eq!(course.verdict(), Some(Verdict::Drop));
    }
}

#[test]
fn a_family_without_a_resolver_is_refused() {
    for (bit, refused, redirected) in [
        (Settings::REDIRECT_V4, "2001:db8::1", "8.8.8.8"),
        (Settings::REDIRECT_V6, "8.8.8.8", "2001:db8::1"),
    ] {
        let settings = Settings {
            redirect: bit,
            ..settings()
        };
        assert_eq!(course(&call(refused), &settings, &HOST), Course::Refuse);
        let course = course(&call(redirected), &settings, &HOST);
        assert!(matches!(course, Course::To(_)), "{redirected}");
    }
}

#[test]
fn other_ports_and_an_absent_resolver_concern_nobody() {
    for port in [0, 52, 54, 443, 853, 5353, u16::MAX] {
        assert!(!concerns(port, &settings()), "{port}");
    }
    assert!(concerns(53, &settings()));
    assert!(!concerns(53, &Settings::default()));
}
