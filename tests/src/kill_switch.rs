//! A configuration with the kill switch, for the lab.

use leakguard::lab::{WireGuard, address};

/// Somebody out there, whom nothing exempts. Nobody lives there, which is no matter: the ISP is on the way.
pub const ELSEWHERE: [&str; 2] = ["203.0.113.77:443", "[2001:db8:113::77]:443"];

/// A configuration with the kill switch in a mode, and more lines of its table.
///
/// The ISP's resolver is on the "LAN", so that what is exempt can be shown, and so that the fences of the capture get
/// through. The lab's tunnel may reach its server.
pub fn kill_switch(mode: &str, more: &str) -> String {
    format!(
        "[kill_switch]\nmode = \"{mode}\"\nlan = [\"{}\", \"{}\"]\n{more}\n[[kill_switch.endpoints]]\naddress = \
         \"{}\"\nport = {}\nmark = {}\n",
        address::ISP_RESOLVER_V4,
        address::ISP_RESOLVER_V6,
        address::VPN_SERVER_V4,
        address::CARRIER_PORT,
        WireGuard::MARK,
    )
}
