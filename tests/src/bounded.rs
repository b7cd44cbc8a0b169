//! Cgroups that bound what their members may use, of whichever version the machine has.

use std::fs;
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use leakguard::host::mounts;
use leakguard::lab::wait_until;

/// A cgroup in the hierarchy of a controller; removed when dropped.
#[derive(Debug)]
pub struct Bounded {
    directory: PathBuf,
    unified: bool,
}

impl Bounded {
    /// Makes one for a controller, which is known by a file of its own in version 1.
    ///
    /// # Panics
    ///
    /// If the machine has no such controller that a child cgroup could use.
    pub fn new(controller: &str, v1_file: &str, name: &str) -> Self {
        for mount in mounts().unwrap() {
            let root = mount.point;
            let unified = mount.fs_type == "cgroup2";
            let has_it = if unified {
                let controls = fs::read_to_string(root.join("cgroup.subtree_control"));
                controls.is_ok_and(|all| all.split_whitespace().any(|one| one == controller))
            } else {
                mount.fs_type == "cgroup" && root.join(v1_file).exists()
            };
            if has_it {
                let directory = root.join(format!("leakguard-{}-{name}", process::id()));
                fs::create_dir(&directory).unwrap();
                return Self { directory, unified };
            }
        }
        panic!(
            "no {controller} controller here: mount the cgroup v1 one, or write +{controller} to cgroup.subtree_control \
             of the cgroup2 root"
        );
    }

    /// Whether it is one of version 2.
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes to one of its files.
    ///
    /// # Panics
    ///
    /// If the kernel does not take it.
    pub fn set(&self, name: &str, value: &str) {
        fs::write(self.file(name), value).unwrap();
    }

    /// Puts a process into it.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub fn add(&self, pid: u32) {
        self.set("cgroup.procs", &pid.to_string());
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a test that is over can only be told of what it leaves behind"
)]
impl Drop for Bounded {
    fn drop(&mut self) {
        // Whoever was killed leaves it a moment later.
        let removed = wait_until("the cgroup is empty", Duration::from_secs(5), || {
            Ok(fs::remove_dir(&self.directory).is_ok())
        });
        if let Err(error) = removed {
            eprintln!("{}: {error}", self.directory.display());
        }
    }
}
