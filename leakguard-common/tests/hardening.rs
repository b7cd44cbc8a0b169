//! Which socket options are refused.

use leakguard_common::abi::{Reason, Settings, Verdict};
use leakguard_common::hardening::{PACKET_QDISC_BYPASS, SOL_PACKET, SOL_XDP, SocketOption, decide};
use leakguard_common::verdict::Decision;

const BYPASS: SocketOption = SocketOption {
    level: SOL_PACKET,
    name: PACKET_QDISC_BYPASS,
};

fn judged(option: SocketOption, is_on: bool, settings: &Settings) -> Decision {
    decide(option, || is_on, settings, || true)
}

fn is_refused(option: SocketOption, is_on: bool) -> bool {
    let decision = judged(option, is_on, &Settings::default());
    assert_eq!(
        decision.is_judged(),
        decision.verdict == Verdict::Drop,
        "what is judged is refused"
    );
    decision.is_judged()
}

#[test]
fn only_switching_the_bypass_on_is_refused() {
    assert!(is_refused(BYPASS, true));
    assert!(!is_refused(BYPASS, false));
    for name in (0..64).filter(|&name| name != PACKET_QDISC_BYPASS) {
        let option = SocketOption { name, ..BYPASS };
        assert!(!is_refused(option, true), "{option:?}");
    }
}

#[test]
fn every_option_of_af_xdp_is_refused() {
    for name in 0..64 {
        for is_on in [false, true] {
            let level = SOL_XDP;
            assert!(is_refused(SocketOption { level, name }, is_on), "{name}");
        }
    }
}

#[test]
fn the_same_number_means_something_else_at_another_level() {
    for level in (-1..300).filter(|&level| !matches!(level, SOL_PACKET | SOL_XDP)) {
        assert!(
            !is_refused(SocketOption { level, ..BYPASS }, true),
            "{level}"
        );
    }
}

#[test]
fn settings_that_were_never_written_refuse() {
    let decision = judged(BYPASS, true, &Settings::default());
    assert_eq!(decision.verdict, Verdict::Drop);
    assert_eq!(decision.reason, Reason::RawBypass);
}

#[test]
fn strict_refuses_too_and_off_lets_through() {
    let with = |packet_sockets| {
        let settings = Settings {
            packet_sockets,
            ..Settings::default()
        };
        judged(BYPASS, true, &settings).verdict
    };
    assert_eq!(with(Settings::STRICT), Verdict::Drop);
    assert_eq!(
        with(u32::MAX),
        Verdict::Drop,
        "what is not known is the strictest"
    );
    assert_eq!(with(Settings::LEAVE_ALONE), Verdict::Pass);
}

#[test]
fn observing_reports_and_lets_through() {
    let settings = Settings {
        mode: Settings::OBSERVE,
        ..Settings::default()
    };
    let decision = judged(BYPASS, true, &settings);
    assert_eq!(decision.verdict, Verdict::WouldDrop);
    assert_eq!(decision.reason, Reason::RawBypass);
}

#[test]
fn another_namespace_is_left_to_the_uplinks_programs() {
    let decision = decide(BYPASS, || true, &Settings::default(), || false);
    assert!(!decision.is_judged());
    assert_eq!(decision.verdict, Verdict::Pass);
}

#[test]
fn nothing_is_looked_up_for_other_options() {
    let other = SocketOption { level: 1, name: 2 };
    let never = || unreachable!("looked up");
    decide(other, never, &Settings::default(), never);
    let off = SocketOption { name: 1, ..BYPASS };
    decide(off, || true, &Settings::default(), never);
}

#[test]
fn an_option_reads_back_as_itself() {
    for option in [
        BYPASS,
        SocketOption {
            level: -1,
            name: i32::MAX,
        },
    ] {
        let bytes = option.to_bytes().concat();
        assert_eq!(bytes.len(), SocketOption::BYTES);
        assert_eq!(SocketOption::from_bytes(&bytes), Some(option));
        assert_eq!(SocketOption::from_bytes(&bytes[1..]), None);
    }
}
