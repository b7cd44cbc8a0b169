//! An interface as the second net knows it.

/// An interface that may carry what is caught elsewhere, known by its number, its name and its kind.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Permitted {
    ifindex: u32,
    name: String,
    kind: Option<String>,
}

impl Permitted {
    /// Checks that nft can express the name, and the kind (`IFLA_INFO_KIND`) if there is one.
    ///
    /// The kernel allows nearly every byte in a name. nft has no way to write a quote, takes a
    /// backslash for an escape, and `*` at the end for a wildcard.
    pub fn new(ifindex: u32, name: &str, kind: Option<&str>) -> Result<Self, NameError> {
        for text in [Some(name), kind].into_iter().flatten() {
            if !is_expressible(text) {
                return Err(NameError {
                    name: text.to_owned(),
                });
            }
        }
        Ok(Self {
            ifindex,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
        })
    }

    /// Number within the network namespace.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its driver calls this kind of interface; `None` for hardware and the loopback interface.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// It, known by number and name only.
    pub(super) fn without_kind(&self) -> Self {
        Self {
            kind: None,
            ..self.clone()
        }
    }

    /// It as the key of an element, as the kernel compares it: the number, and names of `IFNAMSIZ` bytes each.
    pub(super) fn key(&self) -> Vec<u8> {
        let mut key = self.ifindex.to_ne_bytes().to_vec();
        for name in [Some(&self.name), self.kind.as_ref()].into_iter().flatten() {
            let end = key.len() + IFNAMSIZ;
            key.extend(name.as_bytes());
            key.resize(end, 0);
        }
        key
    }

    /// It as an element of a set.
    pub(super) fn element(&self) -> String {
        let Self {
            ifindex,
            name,
            kind,
        } = self;
        match kind {
            Some(kind) => format!("{ifindex} . \"{name}\" . \"{kind}\""),
            None => format!("{ifindex} . \"{name}\""),
        }
    }
}

/// What a name has room for, with the zero at its end.
const IFNAMSIZ: usize = 16;

/// Whether nft can write it; both are `IFNAMSIZ` bytes for it.
fn is_expressible(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '*');
    (1..IFNAMSIZ).contains(&text.len()) && text.chars().all(plain)
}

/// A name or a kind that nft cannot express; such an interface is not permitted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("nft cannot express the interface name {name:?}")]
pub struct NameError {
    /// The name.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_names_of_a_fixed_length() {
        let kindless = Permitted::new(7, "eth0", None).unwrap().key();
        let number = 7_u32.to_ne_bytes();
        assert_eq!(
            kindless,
            [&number[..], b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"].concat()
        );
        let veth = Permitted::new(7, "eth0", Some("veth")).unwrap().key();
        assert_eq!(veth.len(), 36);
        assert_eq!(veth[20..25], *b"veth\0");
    }

    #[test]
    fn a_name_that_nft_reads_differently_is_refused() {
        for name in [
            "",
            "a\"b",
            "a\\b",
            "tun*",
            "*",
            "a b",
            "a\nb",
            "wg\u{e4}",
            "\u{fffd}",
            "sixteen-bytes-xx",
        ] {
            assert!(Permitted::new(1, name, None).is_err(), "{name:?}");
            assert!(Permitted::new(1, "wg0", Some(name)).is_err(), "{name:?}");
        }
        for name in ["wg0", "eth0.100", "br-0", "x$y;{}@#[]~!", "77", "-", "lo:1"] {
            assert!(Permitted::new(1, name, Some("tun")).is_ok(), "{name:?}");
        }
    }
}
