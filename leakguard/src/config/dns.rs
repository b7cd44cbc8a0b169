//! How DNS is recognised where its port does not say.

use std::path::PathBuf;

use super::RuleError;
use super::names::lookup;

/// Which resolvers of DNS over HTTPS are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DohResolvers {
    /// Those that leakguard brings with it.
    #[default]
    BuiltIn,
    /// Those of a file.
    File(PathBuf),
}

impl DohResolvers {
    const BUILT_IN: &'static str = "builtin";

    /// The list of this name, or in the file at this path.
    pub fn named(text: &str) -> Result<Self, RuleError> {
        if text == Self::BUILT_IN {
            return Ok(Self::BuiltIn);
        }
        let path = PathBuf::from(text);
        if path.is_absolute() {
            Ok(Self::File(path))
        } else {
            Err(RuleError::DohResolvers {
                text: text.to_owned(),
            })
        }
    }

    /// The text that names it in the configuration.
    pub fn text(&self) -> String {
        match self {
            Self::BuiltIn => Self::BUILT_IN.to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// What happens to later fragments whose first one nobody has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragments {
    /// They pass: only those of a dropped one are dropped.
    #[default]
    Track,
    /// They are dropped.
    Strict,
}

impl Fragments {
    /// Every choice.
    pub const ALL: &'static [Self] = &[Self::Track, Self::Strict];

    /// The name used in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Strict => "strict",
        }
    }

    /// The choice of this name.
    pub fn named(name: &str) -> Result<Self, RuleError> {
        lookup("way to treat fragments", Self::ALL, Self::name, name)
    }
}
