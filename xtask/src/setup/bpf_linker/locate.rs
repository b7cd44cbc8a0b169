//! Where `bpf-linker` is; shared with `leakguard/build.rs`, so that both always choose the same
//! one.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The version that is built where none is found.
pub(crate) const VERSION: &str = "0.13.0";

/// Releases that do: its LLVM must not be older than rustc's, and 0.13 is what the kernel programs
/// are verified with.
const SERIES: &str = "0.13.";

/// Finds a `bpf-linker` that runs and has the right version: on PATH, or this project's own.
pub(crate) fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|dir| dir.join("bpf-linker"))
        .chain(own_root().map(|root| root.join("bin/bpf-linker")))
        .find(|candidate| is_usable(candidate))
}

/// Installation root of this project's own `bpf-linker`; none without a home directory.
pub(crate) fn own_root() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        // The XDG specification: a relative path is invalid and ignored.
        .filter(|path| path.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))?;
    Some(cache.join(format!("leakguard/tools/bpf-linker-{VERSION}")))
}

/// Running it also proves that the LLVM library it was linked against is still there.
fn is_usable(path: &Path) -> bool {
    path.is_file()
        && Command::new(path)
            .arg("--version")
            .output()
            .is_ok_and(|output| {
                output.status.success()
                    && has_right_version(&String::from_utf8_lossy(&output.stdout))
            })
}

fn has_right_version(version_line: &str) -> bool {
    version_line
        .strip_prefix("bpf-linker ")
        .is_some_and(|version| version.starts_with(SERIES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert!(VERSION.starts_with(SERIES));
        assert!(has_right_version("bpf-linker 0.13.0\n"));
        assert!(has_right_version("bpf-linker 0.13.1"));
        assert!(!has_right_version("bpf-linker 0.10.3"));
        assert!(!has_right_version("bpf-linker 0.130.0"));
        assert!(!has_right_version("ld 0.13.0"));
    }

    #[test]
    fn another_program_is_not_usable() {
        assert!(!is_usable(Path::new("/bin/true")));
        assert!(!is_usable(Path::new("/nonexistent")));
        assert!(!is_usable(Path::new("/")));
    }
}
