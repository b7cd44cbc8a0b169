//! Settings that are one of a few names.

use leakguard_common::abi::Class;

use super::RuleError;

/// What happens to a packet that must not leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Only count and report DNS off the tunnel; let it pass
    Observe,
    /// Drop DNS off the tunnel
    #[default]
    Enforce,
}

impl Mode {
    /// Every mode.
    pub const ALL: &'static [Self] = &[Self::Observe, Self::Enforce];

    /// The name used in the configuration and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }

    /// The mode of this name.
    pub fn named(name: &str) -> Result<Self, RuleError> {
        lookup("mode", Self::ALL, Self::name, name)
    }
}

/// What happens to enforcement when the agent is asked to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// It stays, until `leakguard release`.
    #[default]
    Keep,
    /// It is lifted.
    Release,
}

impl OnExit {
    /// Every choice.
    pub const ALL: &'static [Self] = &[Self::Keep, Self::Release];

    /// The name used in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Release => "release",
        }
    }

    /// The choice of this name.
    pub fn named(name: &str) -> Result<Self, RuleError> {
        lookup("on_exit", Self::ALL, Self::name, name)
    }
}

/// What happens when the look before enforcing finds that names would stop resolving, or that a session would be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Preflight {
    /// Say so and enforce
    #[default]
    Warn,
    /// Say so and change nothing
    Refuse,
    /// Do not look
    Off,
}

impl Preflight {
    /// Every choice.
    pub const ALL: &'static [Self] = &[Self::Warn, Self::Refuse, Self::Off];

    /// The name used in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Refuse => "refuse",
            Self::Off => "off",
        }
    }

    /// The choice of this name.
    pub fn named(name: &str) -> Result<Self, RuleError> {
        lookup("preflight", Self::ALL, Self::name, name)
    }
}

/// What is done about sockets whose packets pass no TC program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PacketSockets {
    /// Nothing
    Off,
    /// Refuse the options that make one of a socket
    #[default]
    DenyNew,
    /// And drop DNS on uplinks in netfilter, which judges sockets from before too
    Strict,
}

impl PacketSockets {
    /// Every choice.
    pub const ALL: &'static [Self] = &[Self::Off, Self::DenyNew, Self::Strict];

    /// The name used in the configuration and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::DenyNew => "deny-new",
            Self::Strict => "strict",
        }
    }

    /// The choice of this name.
    pub fn named(name: &str) -> Result<Self, RuleError> {
        lookup("packet_sockets", Self::ALL, Self::name, name)
    }
}

/// The class of this name.
pub fn class_named(name: &str) -> Result<Class, RuleError> {
    lookup("class", Class::ALL, Class::name, name)
}

/// Finds a value by its name among all that are allowed.
pub(super) fn lookup<T: Copy>(
    kind: &'static str,
    all: &[T],
    name_of: impl Fn(T) -> &'static str,
    name: &str,
) -> Result<T, RuleError> {
    all.iter()
        .copied()
        .find(|&value| name_of(value) == name)
        .ok_or_else(|| RuleError::Unknown {
            kind,
            name: name.to_owned(),
            allowed: all
                .iter()
                .map(|&value| name_of(value))
                .collect::<Vec<_>>()
                .join(", "),
        })
}
