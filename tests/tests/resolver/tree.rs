//! A directory that stands for a host's root, and everything that is in it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use leakguard::lab::output_within;
use leakguard_tests::agent_binary;
use nix::errno::Errno;
use nix::libc;
use tempfile::TempDir;

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(20);
/// `FS_IMMUTABLE_FL` and `FS_NODUMP_FL`.
pub(crate) const IMMUTABLE: libc::c_int = 0x10;
pub(crate) const NODUMP: libc::c_int = 0x40;
/// An attribute that leakguard knows nothing of.
const ATTRIBUTE: &str = "user.leakguard-test";

/// What is at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    kind: &'static str,
    content: Vec<u8>,
    pub(crate) mode: u32,
    owner: (u32, u32),
    modified: Option<(i64, i64)>,
    flags: libc::c_int,
    attribute: Option<Vec<u8>>,
}

/// Everything below a root.
pub(crate) type Snapshot = BTreeMap<PathBuf, Seen>;

/// Compares two of them, and names only what differs.
#[track_caller]
pub(crate) fn assert_same(found: &Snapshot, wanted: &Snapshot, when: &str) {
    let paths = found.keys().chain(wanted.keys());
    let differ: Vec<_> = paths
        .filter(|path| found.get(*path) != wanted.get(*path))
        .map(|path| {
            format!(
                "{}: {:?}, not {:?}",
                path.display(),
                found.get(path),
                wanted.get(path)
            )
        })
        .collect();
    assert!(differ.is_empty(), "{when}: {}", differ.join("\n"));
}

/// A tree.
#[derive(Debug)]
pub(crate) struct Tree {
    directory: TempDir,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// What it wrote, if it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

impl Tree {
    /// One with these empty files, by which programs are known.
    pub(crate) fn new(programs: &[&str]) -> Self {
        let tree = Self {
            directory: TempDir::with_prefix_in("leakguard-root-", "/var/tmp").unwrap(),
        };
        for directory in ["etc", "run", "var/lib"] {
            fs::create_dir_all(tree.at(directory)).unwrap();
        }
        for program in programs {
            tree.write(program, "");
        }
        tree
    }

    /// A host with everything that leakguard has a file for.
    pub(crate) fn full() -> Self {
        let tree = Self::new(&[
            "/usr/lib/systemd/systemd",
            "/usr/lib/systemd/systemd-resolved",
            "/usr/sbin/NetworkManager",
            "/usr/sbin/dhclient",
            "/usr/sbin/unbound",
            "/usr/sbin/dnsmasq",
            "/usr/bin/dockerd",
            "/usr/bin/podman",
            "/etc/ssl/certs/ca-certificates.crt",
        ]);
        tree.write("/proc/sys/net/core/netdev_max_backlog", "1000\n");
        tree.write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0\n");
        tree.write(
            "/etc/systemd/resolved.conf.d/dns.conf",
            "[Resolve]\nDNS=192.0.2.53\n",
        );
        tree.write(
            "/etc/docker/daemon.json",
            "{\n    \"mtu\": 1400,\n\t\"labels\": [ \"a=b\" ]\n}",
        );
        tree.age("/etc/docker/daemon.json", 0o640);
        tree
    }

    /// A path of the host, outside.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    /// Makes a file peculiar in all that it has besides its bytes.
    pub(crate) fn age(&self, path: &str, mode: u32) {
        let path = self.at(path);
        chown(&path, Some(1234), Some(5678)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let (name, value) = (CString::new(ATTRIBUTE).unwrap(), b"a\0b");
        let c_path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: both strings end with a NUL, and the value is as long as is said.
        let result = unsafe {
            libc::lsetxattr(
                c_path.as_ptr(),
                name.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                0,
            )
        };
        Errno::result(result).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
        File::open(&path)
            .unwrap()
            .set_times(FileTimes::new().set_modified(time))
            .unwrap();
    }

    /// The attributes of `chattr`; 0 for what is no file.
    pub(crate) fn flags(&self, path: &str) -> libc::c_int {
        flags(&self.at(path))
    }

    pub(crate) fn set_flags(&self, path: &str, flags: libc::c_int) {
        set_flags(&self.at(path), flags);
    }

    /// Everything in it.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::new();
        look(self.path(), self.path(), &mut snapshot);
        snapshot
    }

    /// `leakguard resolver`, dying at a change, if one is named.
    pub(crate) fn resolver(&self, line: &str, die: Option<u32>) -> Said {
        let mut words = line.split_whitespace();
        // Only debug builds can be told to die.
        let binary = match die {
            Some(_) => env!("CARGO_BIN_EXE_leakguard-debug").into(),
            None => agent_binary(),
        };
        // As on a host where nobody may read what root writes, unless it is said.
        let mut command = Command::new("sh");
        command
            .args(["-c", "umask 077; exec \"$@\"", "sh"])
            .arg(binary);
        command.arg("resolver").arg(words.next().unwrap());
        command.arg("--root").arg(self.path()).args(words);
        if let Some(number) = die {
            command.env("LEAKGUARD_RESOLVER_DIE", number.to_string());
        }
        let output = output_within(command, LIMIT).unwrap();
        Said {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for path in self.snapshot().into_keys() {
            let path = self.path().join(path);
            if flags(&path) & IMMUTABLE != 0 {
                set_flags(&path, 0);
            }
        }
    }
}

fn open(path: &Path) -> Option<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .ok()
}

fn flags(path: &Path) -> libc::c_int {
    let mut flags: libc::c_int = 0;
    if let Some(file) = open(path) {
        // SAFETY: the kernel writes an int that outlives the call.
        let result =
            unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
        Errno::result(result).unwrap();
    }
    flags & (IMMUTABLE | NODUMP | 0x20)
}

fn set_flags(path: &Path, flags: libc::c_int) {
    let file = open(path).unwrap();
    // SAFETY: the kernel reads an int that outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    Errno::result(result).unwrap();
}

fn attribute(path: &Path) -> Option<Vec<u8>> {
    let (name, path) = (
        CString::new(ATTRIBUTE).unwrap(),
        CString::new(path.as_os_str().as_bytes()).unwrap(),
    );
    let mut value = vec![0_u8; 64];
    // SAFETY: both strings end with a NUL, and the buffer is as long as is said.
    let result = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    let size = Errno::result(result).ok()?;
    value.truncate(size.unsigned_abs());
    Some(value)
}

fn look(root: &Path, directory: &Path, snapshot: &mut Snapshot) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        let (kind, content) = if found.is_symlink() {
            (
                "link",
                fs::read_link(&path)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_owned(),
            )
        } else if found.is_dir() {
            ("directory", Vec::new())
        } else {
            ("file", fs::read(&path).unwrap())
        };
        let seen = Seen {
            kind,
            content,
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            // That of a setting of the kernel is nobody's, and that of a directory says when it was last looked after.
            modified: (kind != "directory" && !path.starts_with(root.join("proc")))
                .then(|| (found.mtime(), found.mtime_nsec())),
            flags: flags(&path),
            attribute: attribute(&path),
        };
        snapshot.insert(path.strip_prefix(root).unwrap().to_owned(), seen);
        if kind == "directory" {
            look(root, &path, snapshot);
        }
    }
}
