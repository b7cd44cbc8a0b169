//! leakguard's configuration file, and what it has left in files.

use std::os::unix::fs::MetadataExt as _;

use super::Facts;
use super::finding::{Finding, Rule, Severity, Subject};
use super::root::Root;
use crate::config::{Config, ConfigError, DEFAULT_PATH, FileError, Layer, RuleError, Source};
use crate::error::{chain, shell_word};

/// Facts about the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Configuration {
    /// Why it cannot be used, and whether others could have written it.
    pub(super) refused: Option<Refused>,
    /// Why it cannot be read by who asks, which says nothing of it.
    pub(super) unseen: Option<String>,
    /// Where it is, as a word of a command.
    pub(super) path: String,
    /// Its permission bits; absent if it is.
    pub(super) mode: Option<u32>,
    /// Paths of leakguard's that others may write, with their permission bits.
    pub(super) open: Vec<(String, u32)>,
    /// Whether it, or the command line, names a tunnel.
    pub(super) names_tunnel: bool,
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) unsafe_hands: bool,
    pub(super) why: String,
}

/// What only root may write: the journal of changes, and the directory of the control socket.
const PRIVATE: [&str; 3] = ["/etc/leakguard", "/run/leakguard", "/var/lib/leakguard"];

const fn rule(
    id: &'static str,
    severity: Severity,
    title: &'static str,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        subject: Subject::Configuration,
        severity,
        title,
        why,
    }
}

pub(super) const UNSAFE: Rule = rule(
    "config-in-unsafe-hands",
    Severity::Problem,
    "others than root can change the configuration",
    "whoever can write it decides what is enforced; leakguard refuses to start with it",
);
pub(super) const INVALID: Rule = rule(
    "config-unusable",
    Severity::Problem,
    "the configuration cannot be used",
    "leakguard does not start; the early unit blocks everything",
);
pub(super) const READABLE: Rule = rule(
    "config-readable-by-others",
    Severity::Note,
    "everybody can read the configuration",
    "it tells the VPN's server and the LAN's prefixes",
);
pub(super) const NO_TUNNEL: Rule = rule(
    "no-tunnel-named",
    Severity::Problem,
    "no tunnel is named",
    "leakguard cannot know which interface may carry DNS, and refuses to start",
);
pub(super) const OPEN_STATE: Rule = rule(
    "state-writable-by-others",
    Severity::Problem,
    "others than root can write where leakguard keeps its state",
    "they can put a file or a socket of their own in its place",
);

pub(super) const RULES: &[&Rule] = &[&UNSAFE, &INVALID, &READABLE, &NO_TUNNEL, &OPEN_STATE];

/// Reads the file and puts the command line over it; what cannot be used counts as empty.
pub(super) fn collect(
    root: &Root,
    named: Option<&Source>,
    over: Layer,
) -> Result<(Configuration, Config), RuleError> {
    let located = Source::Optional(root.locate(DEFAULT_PATH));
    let source = named.unwrap_or(&located);
    let loaded = Config::load(source, over.clone());
    let metadata = match named {
        Some(source) => std::fs::metadata(source.path()).ok(),
        None => root.metadata(DEFAULT_PATH),
    };
    let (mut refused, mut unseen) = (None, None);
    match &loaded {
        Ok(_) => {}
        Err(error @ ConfigError::File(FileError::Forbidden { .. })) => unseen = Some(chain(error)),
        Err(error) => {
            refused = Some(Refused {
                unsafe_hands: matches!(
                    error,
                    ConfigError::File(FileError::Owner { .. } | FileError::Writable { .. })
                ),
                why: chain(error),
            });
        }
    }
    let config = match loaded.or_else(|_| Config::new(over)) {
        Ok(config) => config,
        Err(_) => Config::new(Layer::default())?,
    };
    let open = PRIVATE.iter().filter_map(|path| {
        let metadata = root.metadata(path)?;
        let mode = metadata.mode() & 0o7777;
        let foreign = metadata.uid() != 0 && root.is_host();
        (mode & 0o022 != 0 || foreign).then(|| ((*path).to_owned(), mode))
    });
    let configuration = Configuration {
        refused,
        unseen,
        path: named.map_or_else(
            || DEFAULT_PATH.to_owned(),
            |source| shell_word(&source.path().to_string_lossy()),
        ),
        mode: metadata.map(|metadata| metadata.mode() & 0o7777),
        open: open.collect(),
        names_tunnel: config.tunnels_named(),
    };
    Ok((configuration, config))
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Configuration {
        refused,
        unseen,
        path,
        mode,
        open,
        names_tunnel,
    } = &facts.configuration;
    let mut found = Vec::new();
    if let Some(Refused { unsafe_hands, why }) = refused {
        found.push(if *unsafe_hands {
            UNSAFE.found(
                [why.clone()],
                format!("chown root:root {path} && chmod 600 {path}"),
            )
        } else {
            INVALID.found([why.clone()], format!("leakguard config check {path}"))
        });
    }
    if let Some(mode) = mode.filter(|mode| mode & 0o044 != 0 && refused.is_none()) {
        found.push(READABLE.found(
            [format!("{path}: mode {mode:04o}")],
            format!("chmod 600 {path}"),
        ));
    }
    let enforced = facts.enforcement.enforced().is_some();
    if !names_tunnel && !enforced && refused.is_none() && unseen.is_none() {
        let visible = &facts.network.visible;
        let evidence = if visible.is_empty() {
            "no interface looks like a tunnel".to_owned()
        } else {
            format!("interfaces that look like tunnels: {}", visible.join(", "))
        };
        let name = visible.first().map_or("NAME", String::as_str);
        found.push(NO_TUNNEL.found(
            [evidence],
            format!(
                "leakguard doctor --tunnel {name} # then name it in {path}: tunnel = [\"{name}\"]"
            ),
        ));
    }
    for (open, mode) in open {
        found.push(OPEN_STATE.found(
            [format!("{open}: mode {mode:04o}")],
            format!("chown root:root {open} && chmod go-w {open}"),
        ));
    }
    found
}
