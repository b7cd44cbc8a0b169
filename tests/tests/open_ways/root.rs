//! What root can undo.

use std::mem::offset_of;
use std::path::Path;
use std::time::Duration;

use leakguard::kernel::pins::Pins;
use leakguard::lab::wait_until;
use leakguard_common::abi::Settings;
use leakguard_tests::{Bench, Place, Transport, edit_value, isp};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROBES: usize = 10;
/// Several times the five seconds after which the agent reads everything back.
const LIMIT: Duration = Duration::from_secs(30);

/// Writes a word into the settings.
fn write_word(pin: &Path, offset: usize, word: u32) {
    edit_value(pin, size_of::<Settings>(), |value| {
        value[offset..offset + 4].copy_from_slice(&word.to_ne_bytes());
    });
}

/// The row "changing roles or settings in the maps".
#[test]
fn settings_that_are_changed_in_the_map_hold_until_an_agent_looks() {
    let mut bench = Bench::new();
    bench.protect(&[]);
    let dns = |bench: &mut Bench| bench.seen(Place::Host, Transport::Udp, isp(0, 53), PROBES);
    assert_eq!(dns(&mut bench), 0, "control");
    let pid = Pid::from_raw(bench.agent().pid().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    let pin = Pins::at(bench.bpffs.path()).map("SETTINGS");
    write_word(&pin, offset_of!(Settings, mode), Settings::OBSERVE);
    assert_eq!(dns(&mut bench), PROBES, "what is known to be open");
    let status = bench.agent().status_json().unwrap();
    assert_eq!(status["mode"], "observe", "{status}");
    kill(pid, Signal::SIGCONT).unwrap();
    wait_until("it is put back", LIMIT, || {
        Ok(bench.agent().status_json()?["mode"] == "enforce")
    })
    .unwrap();
    assert_eq!(dns(&mut bench), 0);
}
