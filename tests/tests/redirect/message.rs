//! DNS messages, as far as these tests need them.

use std::sync::atomic::{AtomicU16, Ordering};

/// What the tunnel's resolver says of itself: a TXT record, which is the last thing in its answers.
const VPN: &[u8] = b"\x03vpn";

/// A question for a TXT record, with a number that no other of the last thousands has.
pub(crate) fn question(name: &str) -> Vec<u8> {
    static SERIAL: AtomicU16 = AtomicU16::new(1);
    let [high, low] = SERIAL.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut message = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.bytes());
    }
    message.extend([0, 0, 16, 0, 1]);
    message
}

/// Whether it is the answer of the tunnel's resolver to this question.
pub(crate) fn is_from_tunnel(answer: &[u8], question: &[u8]) -> bool {
    answer.get(..2) == question.get(..2)
        && answer.get(2).is_some_and(|flags| flags & 0x80 != 0)
        && answer.ends_with(VPN)
}

/// A message as TCP carries it.
pub(crate) fn with_length(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&length, message].concat()
}
