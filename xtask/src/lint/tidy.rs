//! Architecture rules that the compiler cannot check: who depends on whom, where aya may be used,
//! how long a file is.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    report::line,
    workspace::{Dependency, DependencyKind, Metadata, Package, root},
};

const MAX_LINES: usize = 700;

/// Where user space may touch aya: everything else goes through this module.
const KERNEL_MODULE: &str = "leakguard/src/kernel";

/// Which packages of this workspace, and which of aya's, each package may depend on. What is in
/// neither family is free.
const ALLOWED: &[(&str, &[Rule])] = &[
    // Runs in both worlds: knows nobody, and aya only to call its types plain data.
    ("leakguard-common", &[Rule::optional("aya")]),
    (
        "leakguard-ebpf",
        &[Rule::normal("leakguard-common"), Rule::bpf_only("aya-ebpf")],
    ),
    (
        "leakguard",
        &[
            Rule::normal("leakguard-common"),
            Rule::normal("aya"),
            Rule::normal("aya-obj"),
            Rule::build("aya-build"),
            // For cargo to see changes of the programs; it is never linked.
            Rule::build("leakguard-ebpf"),
        ],
    ),
    (
        "leakguard-tests",
        &[Rule::normal("leakguard"), Rule::normal("leakguard-common")],
    ),
    (
        "leakguard-bench",
        &[
            Rule::normal("leakguard"),
            Rule::normal("leakguard-common"),
            Rule::normal("leakguard-tests"),
        ],
    ),
    // Must be built before anything else can be.
    ("xtask", &[]),
];

/// A dependency that is allowed, and how.
#[derive(Debug)]
struct Rule {
    name: &'static str,
    kind: DependencyKind,
    optional: bool,
    bpf_only: bool,
}

impl Rule {
    const fn normal(name: &'static str) -> Self {
        Self {
            name,
            kind: DependencyKind::Normal,
            optional: false,
            bpf_only: false,
        }
    }

    const fn build(name: &'static str) -> Self {
        Self {
            kind: DependencyKind::Build,
            ..Self::normal(name)
        }
    }

    const fn optional(name: &'static str) -> Self {
        Self {
            optional: true,
            ..Self::normal(name)
        }
    }

    const fn bpf_only(name: &'static str) -> Self {
        Self {
            bpf_only: true,
            ..Self::normal(name)
        }
    }

    fn permits(&self, dependency: &Dependency) -> bool {
        let Self {
            name,
            kind,
            optional,
            bpf_only,
        } = *self;
        dependency.name == name
            && dependency.kind == kind
            && (dependency.optional || !optional)
            && (dependency.target.as_deref() == Some("cfg(target_arch = \"bpf\")") || !bpf_only)
    }
}

/// A broken rule and where.
#[derive(Debug, Eq, PartialEq)]
struct Finding {
    place: String,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Checks all rules on the whole workspace.
pub(super) fn check(metadata: &Metadata) -> Result<()> {
    let mut findings = Vec::new();
    for package in metadata.packages()? {
        check_dependencies(&package, &mut findings);
        for path in rust_files(&package.dir)? {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let path = path.strip_prefix(root()).unwrap_or(&path);
            check_file(path, &text, &mut findings);
        }
    }
    for finding in &findings {
        line(finding);
    }
    match findings.len() {
        0 => Ok(()),
        number => bail!("{number} architecture rules are broken"),
    }
}

fn check_dependencies(package: &Package, findings: &mut Vec<Finding>) {
    let place = || format!("{}/Cargo.toml", package.dir.display());
    let Some((_name, rules)) = ALLOWED.iter().find(|(name, _rules)| *name == package.name) else {
        findings.push(Finding {
            place: place(),
            what: "a package without rules; add it to `ALLOWED` in xtask/src/lint/tidy.rs"
                .to_owned(),
        });
        return;
    };
    for dependency in &package.dependencies {
        let governed = dependency.local || is_aya_name(&dependency.name);
        if governed && !rules.iter().any(|rule| rule.permits(dependency)) {
            findings.push(Finding {
                place: place(),
                what: format!(
                    "{} must not depend on {} in this way",
                    package.name, dependency.name
                ),
            });
        }
    }
}

/// Checks one source file; `path` is relative to the workspace.
fn check_file(path: &Path, text: &str, findings: &mut Vec<Finding>) {
    let lines = text.lines().count();
    if lines > MAX_LINES && path.components().any(|part| part.as_os_str() == "src") {
        findings.push(Finding {
            place: path.display().to_string(),
            what: format!("{lines} lines; split it ({MAX_LINES} are the limit)"),
        });
    }

    let may_use_aya = !path.starts_with("leakguard/src") || path.starts_with(KERNEL_MODULE);
    for (number, text) in (1..).zip(text.lines()) {
        let mut report = |what: &str| {
            findings.push(Finding {
                place: format!("{}:{number}", path.display()),
                what: what.to_owned(),
            });
        };
        if text.trim_start().starts_with("#[ignore") {
            report("a test that is never run tells nothing; assert what happens today instead");
        }
        if !may_use_aya && mentions_aya(text) {
            report("aya is used outside of leakguard/src/kernel");
        }
    }
}

/// Whether a line of code names a crate of aya's in a path. Comments may.
fn mentions_aya(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices("::").any(|(end, _separator)| {
        let before = &code[..end];
        let start = before
            .rfind(|c: char| !(c.is_alphanumeric() || c == '_'))
            .map_or(0, |separator| separator + 1);
        // In `a::aya::b` it is a part of another path; `::aya::b` is the crate.
        let nested = before[..start]
            .strip_suffix("::")
            .is_some_and(|prefix| prefix.ends_with(|c: char| c.is_alphanumeric() || c == '_'));
        !nested && is_aya_name(&before[start..])
    })
}

/// `aya`, `aya-obj`, `aya_log`, …
fn is_aya_name(name: &str) -> bool {
    name.strip_prefix("aya")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
}

/// All Rust files of a package, in a stable order.
pub(super) fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries =
            fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
            let file_type = entry
                .file_type()
                .with_context(|| format!("cannot read {}", entry.path().display()))?;
            if file_type.is_dir() && entry.file_name() != "target" {
                dirs.push(entry.path());
            } else if entry.path().extension().is_some_and(|ext| ext == "rs") {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings_in(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check_file(Path::new(path), text, &mut findings);
        findings.iter().map(Finding::to_string).collect()
    }

    fn package(name: &str, dependency: Dependency) -> Package {
        Package {
            name: name.to_owned(),
            version: "0.0.0".to_owned(),
            dir: PathBuf::from(name),
            dependencies: vec![dependency],
            test_targets: Vec::new(),
        }
    }

    fn dependency(name: &str, local: bool) -> Dependency {
        Dependency {
            name: name.to_owned(),
            kind: DependencyKind::Normal,
            optional: false,
            target: None,
            local,
        }
    }

    fn is_allowed(name: &str, dependency: Dependency) -> bool {
        let mut findings = Vec::new();
        check_dependencies(&package(name, dependency), &mut findings);
        findings.is_empty()
    }

    #[test]
    fn the_workspace_is_tidy() {
        check(&Metadata::load().unwrap()).unwrap();
    }

    #[test]
    fn aya_stays_in_the_kernel_module() {
        let code = "use aya::maps::HashMap;\n";
        assert_eq!(findings_in("leakguard/src/kernel/maps.rs", code).len(), 0);
        assert_eq!(findings_in("leakguard-common/src/abi.rs", code).len(), 0);
        assert_eq!(
            findings_in("leakguard/src/daemon/mod.rs", code),
            ["leakguard/src/daemon/mod.rs:1: aya is used outside of leakguard/src/kernel"]
        );
    }

    #[test]
    fn mentions() {
        for code in [
            "use aya::Ebpf;",
            "    let x = aya_obj::generated::bpf_attr::default();",
            "fn f(x: &::aya::Ebpf)",
            "pub use {aya_log::EbpfLogger, x};",
        ] {
            assert!(mentions_aya(code), "{code}");
        }
        for code in [
            "// aya::Ebpf",
            "let x = 1; // see aya::Ebpf",
            "//! [`aya::Ebpf`]",
            "malaya::x",
            "crate::aya::x",
            "ayah::x",
            "aya",
        ] {
            assert!(!mentions_aya(code), "{code}");
        }
    }

    #[test]
    fn long_files_and_ignored_tests() {
        let long = "\n".repeat(MAX_LINES + 1);
        assert_eq!(findings_in("leakguard/src/a.rs", &long).len(), 1);
        assert_eq!(findings_in("tests/tests/a.rs", &long).len(), 0);
        assert_eq!(findings_in("leakguard/src/a.rs", &long[1..]).len(), 0);
        assert_eq!(
            findings_in("tests/tests/a.rs", "#[test]\n    #[ignore]\nfn f() {}"),
            [
                "tests/tests/a.rs:2: a test that is never run tells nothing; assert what happens today instead"
            ]
        );
    }

    #[test]
    fn dependencies() {
        assert!(is_allowed(
            "leakguard",
            dependency("leakguard-common", true)
        ));
        assert!(is_allowed("leakguard", dependency("aya", false)));
        assert!(is_allowed("leakguard-common", dependency("serde", false)));
        assert!(!is_allowed(
            "leakguard-common",
            dependency("leakguard", true)
        ));
        assert!(!is_allowed("leakguard-common", dependency("aya", false)));
        assert!(!is_allowed("leakguard-ebpf", dependency("aya-ebpf", false)));
        assert!(!is_allowed("leakguard-tests", dependency("aya", false)));
        assert!(!is_allowed("newcomer", dependency("serde", false)));
    }
}
