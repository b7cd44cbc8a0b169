//! Extra ports that are judged as DNS.

use leakguard_common::abi::{Class, MAX_EXTRA_PORTS};

use super::RuleError;

/// Ports that have a class of their own.
const CLASS_PORTS: &[(u16, Class)] = &[
    (53, Class::Dns),
    (137, Class::Netbios),
    (853, Class::Dot),
    (5353, Class::Mdns),
    (5355, Class::Llmnr),
];

/// Destination ports judged as [`Class::Dns`]: at most [`MAX_EXTRA_PORTS`], each once, none with a class of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraPorts(Vec<u16>);

impl ExtraPorts {
    /// Adds a port as it stands in the file; on an error nothing is added.
    pub fn add(&mut self, number: i64) -> Result<(), RuleError> {
        let Ok(port @ 1..) = u16::try_from(number) else {
            return Err(RuleError::PortOutOfRange { number });
        };
        if let Some(&(_, class)) = CLASS_PORTS.iter().find(|(taken, _)| *taken == port) {
            return Err(RuleError::PortOfClass { port, class });
        }
        if self.0.contains(&port) {
            return Err(RuleError::PortTwice { port });
        }
        if self.0.len() == MAX_EXTRA_PORTS {
            return Err(RuleError::TooManyPorts);
        }
        self.0.push(port);
        Ok(())
    }

    /// The ports, in the order they were given.
    pub fn as_slice(&self) -> &[u16] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_port_are_accepted() {
        let mut ports = ExtraPorts::default();
        ports.add(1).unwrap();
        ports.add(65535).unwrap();
        assert_eq!(ports.as_slice(), [1, 65535]);
    }

    #[test]
    fn numbers_that_are_no_port_are_refused() {
        for number in [i64::MIN, -1, 0, 65536, i64::MAX] {
            let mut ports = ExtraPorts::default();
            assert_eq!(ports.add(number), Err(RuleError::PortOutOfRange { number }));
            assert!(ports.as_slice().is_empty());
        }
    }

    #[test]
    fn a_port_with_a_class_of_its_own_is_refused() {
        for (number, name) in [
            (53, "dns"),
            (137, "netbios"),
            (853, "dot"),
            (5353, "mdns"),
            (5355, "llmnr"),
        ] {
            let error = ExtraPorts::default().add(number).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_port_is_given_once() {
        let mut ports = ExtraPorts::default();
        ports.add(5300).unwrap();
        assert_eq!(ports.add(5300), Err(RuleError::PortTwice { port: 5300 }));
    }

    #[test]
    fn one_port_too_many_is_refused() {
        let mut ports = ExtraPorts::default();
        for number in 10_000..10_016 {
            ports.add(number).unwrap();
        }
        assert_eq!(ports.add(10_016), Err(RuleError::TooManyPorts));
        assert_eq!(ports.as_slice().len(), MAX_EXTRA_PORTS);
    }
}
