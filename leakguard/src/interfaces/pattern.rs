//! How a user names interfaces: a name, a glob, or `auto`, and where needed the kind.

use std::{fmt, str::FromStr};

use globset::{Glob, GlobMatcher};
use serde::Deserialize;

use super::Link;

/// The longest alternative name the kernel accepts, in bytes (`ALTIFNAMSIZ` less its NUL).
///
/// Ordinary names end at 15 bytes, but patterns match alternative names as well.
const NAME_MAX: usize = 127;

/// The word that stands for every WireGuard and layer-3 tun device.
const AUTO: &str = "auto";

/// The word that stands for every kind.
const ANY: &str = "any";

/// What ends a kind; no name has it (`dev_valid_name` in `net/core/dev.c`).
const KIND_END: char = ':';

/// Selects interfaces by name, by glob (`tun*`), or by being a tunnel (`auto`).
///
/// A name or glob matches the interface's name or any of its alternative names. A kind can stand before
/// it: `veth:vpn0` selects only a veth, `any:vpn0` whatever has the name. Without a kind, a pattern for
/// a tunnel selects only kinds that can be one. An interface that is really called `auto` is written
/// `any:auto` or `[a]uto`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern {
    text: String,
    kind: Kind,
    matcher: Matcher,
}

/// The kinds that a pattern takes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// It says nothing of them.
    Unsaid,
    /// Every kind.
    Any,
    /// This one; `None` is that of interfaces without a kind.
    Only(Option<String>),
}

#[derive(Clone, Debug)]
enum Matcher {
    Auto,
    Name(String),
    Glob(GlobMatcher),
}

impl Pattern {
    /// Selects the interface of this name, whatever the characters in it mean in a glob.
    pub fn exact(name: &str) -> Self {
        Self {
            text: name.to_owned(),
            kind: Kind::Unsaid,
            matcher: Matcher::Name(name.to_owned()),
        }
    }

    /// Selects the interface of this name and kind; `None` is that of interfaces without a kind.
    pub fn exact_of_kind(name: &str, kind: Option<&str>) -> Self {
        Self {
            kind: Kind::Only(kind.map(str::to_owned)),
            ..Self::exact(name)
        }
    }

    /// Whether the pattern selects this link; of whatever kind, if it says nothing of kinds.
    pub fn selects(&self, link: &Link) -> bool {
        self.names(link)
            && match &self.kind {
                Kind::Unsaid | Kind::Any => true,
                Kind::Only(kind) => link.kind == *kind,
            }
    }

    /// Whether the pattern selects this link as a tunnel: of a kind that can be one, if it says nothing of kinds.
    pub fn selects_tunnel(&self, link: &Link) -> bool {
        self.selects(link) && (self.kind != Kind::Unsaid || link.can_be_tunnel())
    }

    /// Whether the pattern fits the link, but for its kind.
    pub fn names(&self, link: &Link) -> bool {
        match &self.matcher {
            Matcher::Auto => link.is_detected_tunnel(),
            Matcher::Name(wanted) => link.names().any(|name| name == wanted),
            Matcher::Glob(glob) => link.names().any(|name| glob.is_match(name)),
        }
    }

    /// The one name that it selects, if it is no glob.
    pub fn name(&self) -> Option<&str> {
        match &self.matcher {
            Matcher::Name(name) => Some(name),
            Matcher::Glob(glob) => {
                let text = glob.glob().glob();
                (!text.contains(['*', '?', '[', ']', '{', '}', '\\'])).then_some(text)
            }
            Matcher::Auto => None,
        }
    }

    /// Whether the pattern is this name as it stands, with or without a kind.
    pub fn is_name(&self, name: &str) -> bool {
        match &self.matcher {
            Matcher::Auto => false,
            Matcher::Name(wanted) => wanted == name,
            Matcher::Glob(glob) => glob.glob().glob() == name,
        }
    }
}

/// How to write a tunnel of this name and kind as a pattern.
pub(crate) fn tunnel_of_kind(name: &str, kind: Option<&str>) -> String {
    format!("{}{KIND_END}{name}", kind.unwrap_or(ANY))
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, names) = match text.split_once(KIND_END) {
            None => (Kind::Unsaid, text),
            Some((kind, names)) => (parse_kind(text, kind)?, names),
        };
        if names.is_empty() {
            return Err(PatternError::Empty);
        }
        if names.len() > NAME_MAX {
            return Err(PatternError::TooLong {
                length: names.len(),
            });
        }
        let refused =
            |c: &char| matches!(*c, '/' | KIND_END) || c.is_whitespace() || c.is_control();
        if let Some(character) = names.chars().find(refused) {
            return Err(PatternError::Character {
                text: text.to_owned(),
                character,
            });
        }
        let matcher = if text == AUTO {
            Matcher::Auto
        } else {
            let glob = Glob::new(names).map_err(|source| PatternError::Glob {
                text: text.to_owned(),
                source,
            })?;
            Matcher::Glob(glob.compile_matcher())
        };
        Ok(Self {
            text: text.to_owned(),
            kind,
            matcher,
        })
    }
}

/// Reads the kind that stands before the names.
fn parse_kind(text: &str, kind: &str) -> Result<Kind, PatternError> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if kind == ANY {
        Ok(Kind::Any)
    } else if !kind.is_empty() && kind.chars().all(known) {
        Ok(Kind::Only(Some(kind.to_owned())))
    } else {
        Err(PatternError::Kind {
            text: text.to_owned(),
        })
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        // What is written the same is matched the same, but for what was not written.
        self.text == other.text && self.kind == other.kind
    }
}

impl Eq for Pattern {}

/// Why a text is not an interface pattern.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatternError {
    /// No text at all.
    #[error("an interface pattern must not be empty")]
    Empty,
    /// No interface can have such a name.
    #[error(
        "an interface pattern of {length} bytes is longer than any interface name ({NAME_MAX})"
    )]
    TooLong {
        /// Length of the text in bytes.
        length: usize,
    },
    /// A character that no interface name contains.
    #[error("interface pattern `{text}` contains {character:?}, which no interface name does")]
    Character {
        /// The text as given.
        text: String,
        /// The first character that is refused.
        character: char,
    },
    /// What stands before the colon is no kind.
    #[error("interface pattern `{text}` names no kind before the colon, such as `veth:` or `any:`")]
    Kind {
        /// The text as given.
        text: String,
    },
    /// The glob does not parse.
    #[error("interface pattern `{text}` is not a valid glob")]
    Glob {
        /// The text as given.
        text: String,
        /// What globset says about it.
        #[source]
        source: globset::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interfaces::snapshot::testing::link;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_matches_itself_only() {
        assert!(pattern("wg0").selects(&link(1, "wg0")));
        assert!(!pattern("wg0").selects(&link(1, "wg01")));
        assert!(!pattern("wg0").selects(&link(1, "WG0")));
    }

    #[test]
    fn a_glob_matches_names_and_alternative_names() {
        assert!(pattern("tun*").selects(&link(1, "tun7")));
        assert!(pattern("tun?").selects(&link(1, "tun7")));
        assert!(!pattern("tun?").selects(&link(1, "tun77")));
        let mut renamed = link(1, "eth0");
        renamed.altnames.push("vpn-to-the-other-side".to_owned());
        assert!(pattern("vpn-*").selects(&renamed));
    }

    #[test]
    fn auto_means_wireguard_and_layer_3_tun_but_never_tap() {
        let mut wg = link(1, "anything");
        wg.kind = Some("wireguard".to_owned());
        assert!(pattern("auto").selects(&wg));

        let mut tun = link(2, "tun0");
        tun.kind = Some("tun".to_owned());
        tun.hardware_type = nix::libc::ARPHRD_NONE;
        assert!(pattern("auto").selects(&tun));

        tun.hardware_type = nix::libc::ARPHRD_ETHER;
        assert!(!pattern("auto").selects(&tun));
        assert!(!pattern("auto").selects(&link(3, "wg0")));
        assert!(!pattern("auto").selects(&link(4, "auto")));
        assert!(pattern("[a]uto").selects(&link(4, "auto")));
        assert!(pattern("any:auto").selects(&link(4, "auto")));
    }

    #[test]
    fn a_tunnel_needs_a_kind_that_can_be_one_or_that_is_said() {
        let of_kind = |kind: Option<&str>| Link {
            kind: kind.map(str::to_owned),
            ..link(1, "vpn0")
        };
        for kind in ["wireguard", "tun", "ovpn", "xfrm", "gre", "ppp"] {
            let link = of_kind(Some(kind));
            assert!(pattern("vpn0").selects_tunnel(&link), "{kind}");
            assert!(pattern("any:vpn0").selects_tunnel(&link), "{kind}");
            assert!(!pattern("veth:vpn0").selects_tunnel(&link), "{kind}");
        }
        let others = [
            "veth", "bridge", "macvlan", "vlan", "bond", "dummy", "ifb", "vxlan",
        ];
        for kind in others.map(Some).into_iter().chain([None]) {
            let link = of_kind(kind);
            assert!(!pattern("vpn0").selects_tunnel(&link), "{kind:?}");
            assert!(!pattern("vpn*").selects_tunnel(&link), "{kind:?}");
            assert!(!pattern("auto").selects_tunnel(&link), "{kind:?}");
            assert!(pattern("vpn0").names(&link), "{kind:?}");
            assert!(pattern("vpn0").selects(&link), "{kind:?}");
            let said = pattern(&tunnel_of_kind("vpn0", kind));
            assert!(said.selects_tunnel(&link), "{said}");
            assert!(!said.selects_tunnel(&Link {
                name: "vpn1".into(),
                ..link.clone()
            }));
            let exact = Pattern::exact_of_kind("vpn0", kind);
            assert!(exact.selects_tunnel(&link), "{kind:?}");
            assert!(!exact.selects_tunnel(&of_kind(Some("tun"))), "{kind:?}");
        }
        assert!(pattern("veth:vpn*").selects_tunnel(&of_kind(Some("veth"))));
    }

    #[test]
    fn a_name_is_told_from_what_only_matches_it() {
        for text in ["vpn0", "veth:vpn0", "any:vpn0"] {
            assert!(pattern(text).is_name("vpn0"), "{text}");
        }
        for text in ["vpn*", "veth:vpn?", "auto"] {
            assert!(!pattern(text).is_name("vpn0"), "{text}");
        }
        assert!(Pattern::exact_of_kind("v[p]n", None).is_name("v[p]n"));
        assert!(!pattern("auto").is_name("auto"));
    }

    #[test]
    fn errors_name_the_fault() {
        let error = |text: &str| text.parse::<Pattern>().unwrap_err().to_string();
        assert_eq!(error(""), "an interface pattern must not be empty");
        assert_eq!(
            error("a/b"),
            "interface pattern `a/b` contains '/', which no interface name does"
        );
        assert_eq!(
            error("wg0 "),
            "interface pattern `wg0 ` contains ' ', which no interface name does"
        );
        assert_eq!(
            error(&"x".repeat(128)),
            "an interface pattern of 128 bytes is longer than any interface name (127)"
        );
        assert_eq!(
            error("tun["),
            "interface pattern `tun[` is not a valid glob"
        );
        for text in [":wg0", "ve*:wg0", "a b:wg0"] {
            assert_eq!(
                error(text),
                format!(
                    "interface pattern `{text}` names no kind before the colon, such as `veth:` or `any:`"
                )
            );
        }
        assert_eq!(error("veth:"), "an interface pattern must not be empty");
        assert_eq!(
            error("veth:a:b"),
            "interface pattern `veth:a:b` contains ':', which no interface name does"
        );
        assert_eq!(error("{a,"), "interface pattern `{a,` is not a valid glob");
    }
}
