//! How a user names interfaces: a name, a glob, or `auto`.

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

/// Selects interfaces by name, by glob (`tun*`), or by being a tunnel (`auto`).
///
/// A name or glob matches the interface's name or any of its alternative names. An interface that is
/// really called `auto` is written `[a]uto`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern {
    text: String,
    matcher: Matcher,
}

#[derive(Clone, Debug)]
enum Matcher {
    Auto,
    Name,
    Glob(GlobMatcher),
}

impl Pattern {
    /// Selects the interface of this name, whatever the characters in it mean in a glob.
    pub fn exact(name: &str) -> Self {
        Self {
            text: name.to_owned(),
            matcher: Matcher::Name,
        }
    }

    /// Whether the pattern selects this link.
    pub fn matches(&self, link: &Link) -> bool {
        match &self.matcher {
            Matcher::Auto => link.is_detected_tunnel(),
            Matcher::Name => link.names().any(|name| name == self.text),
            Matcher::Glob(glob) => link.names().any(|name| glob.is_match(name)),
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > NAME_MAX {
            return Err(PatternError::TooLong { length: text.len() });
        }
        let refused = |c: &char| *c == '/' || c.is_whitespace() || c.is_control();
        if let Some(character) = text.chars().find(refused) {
            return Err(PatternError::Character {
                text: text.to_owned(),
                character,
            });
        }
        let matcher = if text == AUTO {
            Matcher::Auto
        } else {
            let glob = Glob::new(text).map_err(|source| PatternError::Glob {
                text: text.to_owned(),
                source,
            })?;
            Matcher::Glob(glob.compile_matcher())
        };
        Ok(Self {
            text: text.to_owned(),
            matcher,
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
        self.text == other.text
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
        assert!(pattern("wg0").matches(&link(1, "wg0")));
        assert!(!pattern("wg0").matches(&link(1, "wg01")));
        assert!(!pattern("wg0").matches(&link(1, "WG0")));
    }

    #[test]
    fn a_glob_matches_names_and_alternative_names() {
        assert!(pattern("tun*").matches(&link(1, "tun7")));
        assert!(pattern("tun?").matches(&link(1, "tun7")));
        assert!(!pattern("tun?").matches(&link(1, "tun77")));
        let mut renamed = link(1, "eth0");
        renamed.altnames.push("vpn-to-the-other-side".to_owned());
        assert!(pattern("vpn-*").matches(&renamed));
    }

    #[test]
    fn auto_means_wireguard_and_layer_3_tun_but_never_tap() {
        let mut wg = link(1, "anything");
        wg.kind = Some("wireguard".to_owned());
        assert!(pattern("auto").matches(&wg));

        let mut tun = link(2, "tun0");
        tun.kind = Some("tun".to_owned());
        tun.hardware_type = nix::libc::ARPHRD_NONE;
        assert!(pattern("auto").matches(&tun));

        tun.hardware_type = nix::libc::ARPHRD_ETHER;
        assert!(!pattern("auto").matches(&tun));
        assert!(!pattern("auto").matches(&link(3, "wg0")));
        assert!(!pattern("auto").matches(&link(4, "auto")));
        assert!(pattern("[a]uto").matches(&link(4, "auto")));
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
        assert_eq!(error("{a,"), "interface pattern `{a,` is not a valid glob");
    }
}
