//! What is left of leakguard outside of the kernel's network, once enforcement is lifted: sockets, directories, a mount.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, os::unix::fs::FileTypeExt, os::unix::net::UnixStream};

use nix::mount::{MntFlags, umount2};

use crate::confirm;
use crate::host::{Mount, mounts};
use crate::kernel::pins::MOUNT_SOURCE;

/// Where state is kept that outlasts a boot.
pub const STATE_DIRECTORY: &str = "/var/lib/leakguard";

/// How leakguard's own directories are called; one of another name is somebody else's.
const OWN_NAME: &str = "leakguard";

/// How long whoever was told to end may take to remove its socket.
const ENDING: Duration = Duration::from_secs(5);

/// How often that is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// What is gone now.
    pub removed: Vec<String>,
    /// What stays, and why.
    pub kept: Vec<String>,
    /// What should be gone and is not.
    pub failures: Vec<String>,
}

impl Swept {
    fn note(&mut self, what: &str, result: io::Result<bool>) {
        match result {
            Ok(true) => self.removed.push(what.to_owned()),
            Ok(false) => {}
            Err(error) => self.failures.push(format!("cannot remove {what}: {error}")),
        }
    }
}

/// Removes what is left beside `control`, in `state` and at `bpffs`. Nothing may be enforced any more.
pub fn sweep(control: &Path, state: &Path, bpffs: &Path) -> Swept {
    let mut swept = Swept::default();
    for socket in [control.to_owned(), confirm::socket(control)] {
        swept.note(&socket.display().to_string(), remove_socket(&socket));
    }
    if let Some(directory) = control.parent()
        && directory.file_name().is_some_and(|name| name == OWN_NAME)
    {
        let shown = directory.display().to_string();
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                swept
                    .kept
                    .push(format!("{shown}, which holds files of others"));
            }
            result => swept.note(&shown, absent_is_fine(result)),
        }
    }
    remove_state(state, &mut swept);
    let pins = bpffs.join(OWN_NAME);
    if pins.exists() {
        swept.failures.push(format!(
            "{} holds what is not leakguard's, or is of another version; look at it and remove it by hand",
            pins.display()
        ));
    }
    unmount(bpffs, &mut swept);
    swept
}

/// Removes what is kept in `state`, but not what is still needed, nor files of others that were set aside.
fn remove_state(state: &Path, swept: &mut Swept) {
    let resolver = state.join("resolver");
    let aside = resolver.join("kept");
    let shown = state.display().to_string();
    if resolver.join("journal.json").exists() {
        swept.failures.push(format!(
            "{} says how the host's resolver was before; run `leakguard resolver revert`, then `leakguard purge` again",
            resolver.join("journal.json").display()
        ));
    } else if aside.exists() {
        swept.kept.push(format!(
            "{}, versions of files that somebody had changed after `leakguard resolver apply`",
            aside.display()
        ));
    } else {
        swept.note(&shown, absent_is_fine(fs::remove_dir_all(state)));
    }
}

/// Removes a socket that nobody serves, or that is about to be removed by whoever served it; says whether there was
/// one.
fn remove_socket(path: &Path) -> io::Result<bool> {
    let deadline = Instant::now() + ENDING;
    loop {
        match fs::symlink_metadata(path) {
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(error),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::other("it is not a socket"));
            }
            Ok(_) => {}
        }
        if UnixStream::connect(path).is_err() {
            return absent_is_fine(fs::remove_file(path));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other("somebody listens there"));
        }
        sleep(POLL);
    }
}

/// Unmounts a bpffs that leakguard has mounted, unless others use it.
fn unmount(bpffs: &Path, swept: &mut Swept) {
    let path = fs::canonicalize(bpffs).unwrap_or_else(|_| bpffs.to_owned());
    let table = match mounts() {
        Ok(table) => table,
        Err(error) => return swept.failures.push(format!("{error}")),
    };
    // The last mount at a place is the one that is seen.
    let Some(mount) = table.into_iter().rfind(|mount| mount.point == path) else {
        return;
    };
    if !is_own(&mount) {
        return;
    }
    let shown = format!(
        "the bpffs at {}, which leakguard had mounted",
        path.display()
    );
    match is_used(&path) {
        Ok(true) => swept.kept.push(format!(
            "{shown}, because others have pinned something there"
        )),
        Ok(false) => {
            let unmounted = umount2(&path, MntFlags::UMOUNT_NOFOLLOW);
            swept.note(&shown, unmounted.map(|()| true).map_err(io::Error::from));
        }
        Err(error) => swept.note(&shown, Err(error)),
    }
}

fn is_own(mount: &Mount) -> bool {
    mount.fs_type == "bpf" && mount.source == MOUNT_SOURCE
}

/// Whether something is pinned, besides the files that the kernel puts into every bpffs.
fn is_used(bpffs: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(bpffs)? {
        let name = PathBuf::from(entry?.file_name());
        if name
            .extension()
            .is_none_or(|extension| extension != "debug")
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Sweeps a directory that stands for `/`.
    fn swept(root: &Path) -> Swept {
        sweep(
            &root.join("leakguard/control.sock"),
            &root.join("state"),
            &root.join("bpffs"),
        )
    }

    #[test]
    fn what_is_ours_goes_and_the_second_time_nothing_is_left() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("leakguard")).unwrap();
        fs::create_dir_all(path("state/journal")).unwrap();
        for socket in ["control.sock", "control-confirm.sock"] {
            drop(UnixListener::bind(path("leakguard").join(socket)).unwrap());
        }
        let first = swept(root.path());
        assert_eq!(first.removed.len(), 4, "{first:?}");
        assert_eq!((first.kept, first.failures), (vec![], vec![]));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        assert_eq!(swept(root.path()), Swept::default());
    }

    #[test]
    fn what_is_not_ours_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("leakguard")).unwrap();
        fs::create_dir_all(path("bpffs/leakguard/v0")).unwrap();
        fs::write(path("leakguard/notes"), "mine").unwrap();
        fs::write(path("leakguard/control.sock"), "no socket").unwrap();
        let found = swept(root.path());
        assert_eq!(found.removed, [""; 0]);
        assert!(found.kept[0].ends_with("which holds files of others"));
        assert!(found.failures[0].ends_with("control.sock: it is not a socket"));
        assert!(found.failures[1].contains("bpffs/leakguard holds"));
        assert!(path("leakguard/control.sock").exists());

        // What is still needed, and what was set aside.
        for name in ["journal.json", "kept"] {
            let needed = path("state/resolver").join(name);
            fs::create_dir_all(&needed).unwrap();
            let found = swept(root.path());
            let told = [found.kept, found.failures].concat().join(" ");
            assert!(told.contains(name) && needed.exists(), "{told}");
            fs::remove_dir_all(path("state")).unwrap();
        }

        // Another directory than leakguard's is not removed, even if it is empty.
        let control = path("empty/control.sock");
        fs::create_dir(path("empty")).unwrap();
        assert_eq!(
            sweep(&control, &path("state"), &path("none")),
            Swept::default()
        );
        assert!(path("empty").exists());
    }

    #[test]
    fn only_what_leakguard_mounted_is_its_own() {
        let mount = |fs_type: &str, source: &str| Mount {
            point: "/sys/fs/bpf".into(),
            fs_type: fs_type.into(),
            source: source.into(),
        };
        assert!(is_own(&mount("bpf", "leakguard")));
        assert!(!is_own(&mount("bpf", "bpf")));
        assert!(!is_own(&mount("tmpfs", "leakguard")));
    }
}
