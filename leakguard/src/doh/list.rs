//! The text of a list: an address, a prefix or a name a line.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use leakguard_common::abi::{LanKey, MAX_DOH_ADDRESSES, MAX_DOH_NAMES, NAME_BYTES, NameKey};

use crate::prefix;

/// The longest name in bytes, and the longest label (RFC 1035 section 3.1).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// What is wrong with a line.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LineError {
    /// Neither an address nor a prefix nor a name.
    #[error("`{}` is no address, prefix or name; one a line, comments after #", text.escape_debug())]
    Unknown {
        /// The line.
        text: String,
    },
    /// It would block everything that goes to port 443.
    #[error(
        "`{text}` covers more than the resolvers of one operator; at least /8 for IPv4, /16 for IPv6"
    )]
    TooWide {
        /// The line.
        text: String,
    },
    /// A table is full.
    #[error("more than {limit} {what}; leave some out")]
    TooMany {
        /// Of which kind.
        what: &'static str,
        /// The size of the table.
        limit: u32,
    },
}

/// What a list says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolvers {
    prefixes: BTreeSet<IpNet>,
    names: BTreeSet<String>,
}

impl Resolvers {
    /// Reads a text; an error comes with the number of its line, from 1 on.
    pub(super) fn parse(text: &str) -> Result<Self, (usize, LineError)> {
        let mut resolvers = Self::default();
        for (index, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if !entry.is_empty() {
                resolvers.add(entry).map_err(|error| (index + 1, error))?;
            }
        }
        Ok(resolvers)
    }

    fn add(&mut self, entry: &str) -> Result<(), LineError> {
        let prefix = entry
            .parse::<IpAddr>()
            .map(IpNet::from)
            .or_else(|_| entry.parse::<IpNet>());
        if let Ok(prefix) = prefix {
            let least = if prefix.addr().is_ipv4() { 8 } else { 16 };
            if prefix.prefix_len() < least {
                return Err(LineError::TooWide {
                    text: entry.to_owned(),
                });
            }
            self.prefixes.insert(prefix.trunc());
            return within(self.prefixes.len(), MAX_DOH_ADDRESSES, "addresses");
        }
        let name = entry.strip_suffix('.').unwrap_or(entry);
        if !is_name(name) {
            return Err(LineError::Unknown {
                text: entry.to_owned(),
            });
        }
        self.names.insert(name.to_ascii_lowercase());
        within(self.names.len(), MAX_DOH_NAMES, "names")
    }

    /// The prefixes, as keys.
    pub(super) fn addresses(&self) -> impl Iterator<Item = LanKey> {
        self.prefixes.iter().map(prefix::key)
    }

    /// One of the names.
    pub fn first_name(&self) -> Option<&str> {
        self.names.first().map(String::as_str)
    }

    /// The names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

fn within(count: usize, limit: u32, what: &'static str) -> Result<(), LineError> {
    if u32::try_from(count).is_ok_and(|count| count <= limit) {
        Ok(())
    } else {
        Err(LineError::TooMany { what, limit })
    }
}

/// Whether it is a name of at least two labels; a single one would cover a whole top-level domain.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= MAX_NAME && name.contains('.') && name.split('.').all(is_label)
}

/// The keys of a name: of itself, and of all that is below it. Of a longer one than a key holds, its end.
pub(super) fn name_keys(name: &str) -> impl Iterator<Item = NameKey> + use<> {
    let key = |end: &[u8]| {
        let mut reversed = [0; NAME_BYTES];
        let backwards = name.bytes().rev().chain(end.iter().copied());
        let mut length = 0;
        for (place, byte) in reversed.iter_mut().zip(backwards) {
            *place = byte;
            length += 8;
        }
        NameKey { length, reversed }
    };
    [key(b"\0"), key(b".")].into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (usize, String) {
        let (line, error) = Resolvers::parse(text).unwrap_err();
        (line, error.to_string())
    }

    #[test]
    fn addresses_prefixes_and_names_are_read() {
        let text = "# mine\n8.8.8.8 # Google\n\n2001:db8::/48\n  Dns.Example.  \n";
        let resolvers = Resolvers::parse(text).unwrap();
        assert_eq!(resolvers.addresses().count(), 2);
        assert_eq!(resolvers.names().collect::<Vec<_>>(), ["dns.example"]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert_eq!(
            error("8.8.8.8\nhttps://dns.example/dns-query\n"),
            (
                2,
                "`https://dns.example/dns-query` is no address, prefix or name; one a line, comments after #"
                    .to_owned()
            )
        );
        assert_eq!(error("com\n").0, 1);
        assert_eq!(error("a..b\n").0, 1);
        assert!(error("0.0.0.0/0\n").1.contains("more than the resolvers"));
        assert!(error("::/0\n").1.contains("more than the resolvers"));
    }

    #[test]
    fn more_than_the_table_holds_is_refused() {
        let names: Vec<_> = (0..=MAX_DOH_NAMES)
            .map(|number| format!("a{number}.example"))
            .collect();
        let names = names.join("\n");
        assert_eq!(
            error(&names),
            (4097, "more than 4096 names; leave some out".to_owned())
        );
    }

    #[test]
    fn a_name_is_written_backwards_with_its_end() {
        let keys: Vec<_> = name_keys("dns.example").collect();
        let texts: Vec<_> = keys.iter().map(|key| &key.reversed[..12]).collect();
        assert_eq!(texts, [b"elpmaxe.snd\0", b"elpmaxe.snd."]);
        assert!(keys.iter().all(|key| key.length == 12 * 8));
    }

    #[test]
    fn a_long_name_is_cut_to_its_end() {
        let name = format!("{}.example", "a".repeat(60));
        let keys: BTreeSet<_> = name_keys(&name).collect();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys.first().unwrap().length, 48 * 8);
    }

    #[test]
    fn the_built_in_list_is_valid() {
        let resolvers = Resolvers::parse(super::super::BUILT_IN).unwrap();
        assert!(resolvers.addresses().count() > 100);
        assert!(resolvers.names().count() > 60);
    }
}
