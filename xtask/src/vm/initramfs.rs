//! What a guest consists of besides its kernel: the programs of this machine and of this build, in memory.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{console::END, cpio::Archive, kernel::Kernel, modules};
use crate::{
    process::{Cmd, find_program},
    test::{NO_BTF_TARGET as NO_BTF, Suite, has_tunnel},
};

const LIMIT: Duration = Duration::from_mins(2);

/// Where the guest keeps what it runs.
const PROGRAMS: &str = "/usr/sbin";
const SUITES: &str = "/suites";
/// How many times longer than usual the lab waits; its limits are generous already.
const PATIENCE: u32 = 4;
/// Where a guest's modules are, by their names.
const MODULES_DIR: &str = "/modules";

/// What the tests need and Debian builds as modules; some series have a few of them built in.
const MODULES: &[&str] = &[
    "8021q",
    "bonding",
    "bridge",
    "cls_bpf",
    "cls_u32",
    "dummy",
    "esp4",
    "geneve",
    "ip_gre",
    "ipip",
    "ipvlan",
    "macsec",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_masq",
    "nft_meta_bridge",
    "nft_nat",
    "nft_objref",
    "sch_ingress",
    "tun",
    "veth",
    "vrf",
    "vxlan",
    "wireguard",
    "xfrm_user",
    // The ciphers of MACsec and of ESP: nobody is there to load them when they are asked for.
    "ctr",
    "gcm",
    "ghash-generic",
    "sha512_generic",
    "drbg",
    "seqiv",
];

/// Real ones, because the tests read what they print; everything else is busybox.
const TOOLS: &[&str] = &["bash", "ip", "nft", "tc"];

/// Those of the lab's tunnel and of its resolvers.
const TUNNEL_TOOLS: &[&str] = &["dig", "unbound", "wg", "wireguard-go"];

/// What is tested.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) agent: PathBuf,
    /// The program that a test has packets sent by.
    pub(super) sender: PathBuf,
    pub(super) suites: Vec<Suite>,
}

/// Writes the initramfs for `kernel` to `path`.
pub(super) fn write(
    path: &Path,
    kernel: &Kernel,
    payload: &Payload,
    suites: &[&Suite],
) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut tree = Tree::create(path)?;
    // Unbound goes to its own, whatever is in it.
    for directory in [
        "/proc",
        "/sys",
        "/dev",
        "/etc/unbound",
        "/run",
        "/tmp",
        "/var",
    ] {
        tree.directory(Path::new(directory)).with_context(failed)?;
    }
    tree.link(Path::new("/var/run"), Path::new("/run"))
        .with_context(failed)?;
    tree.busybox()?;
    let has_tunnel = suites.iter().any(|suite| has_tunnel(&suite.name));
    let more = if has_tunnel { TUNNEL_TOOLS } else { &[] };
    for tool in TOOLS.iter().chain(more) {
        tree.program(&program(tool)?, &Path::new(PROGRAMS).join(tool))?;
    }
    tree.stripped(&payload.agent, &Path::new(PROGRAMS).join("leakguard"))?;
    tree.stripped(
        &payload.sender,
        &Path::new(PROGRAMS).join("leakguard-sender"),
    )?;
    tree.file(Path::new("/etc/passwd"), b"root:x:0:0:root:/:/bin/sh\n")
        .with_context(failed)?;
    for Suite { name, binary } in suites {
        tree.stripped(binary, &Path::new(SUITES).join(name))?;
    }
    let order = tree.modules(kernel, MODULES)?;
    tree.file(Path::new("/init"), init(&order, suites).as_bytes())
        .with_context(failed)?;
    tree.finish().with_context(failed)
}

/// The first process of the guest. The kernel panics when it ends, which ends the guest.
fn init(modules: &[String], suites: &[&Suite]) -> String {
    let modules = modules.join(" ");
    let suites: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
    let suites = suites.join(" ");
    format!(
        "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH={PROGRAMS}:/bin LEAKGUARD_BIN={PROGRAMS}/leakguard RUST_BACKTRACE=0
export LEAKGUARD_SENDER={PROGRAMS}/leakguard-sender LEAKGUARD_LAB_PATIENCE={PATIENCE}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
for module in {modules}; do
    insmod {MODULES_DIR}/$module.ko
done
for suite in {suites}; do
    case $suite in
        # As on a kernel that was built without it.
        {NO_BTF}) mount -t tmpfs tmpfs /sys/kernel/btf ;;
    esac
    # As cargo would announce it.
    echo \"     Running $suite ({SUITES}/$suite)\"
    {SUITES}/$suite --test-threads=1 --show-output 2>&1
done
echo '{END}'
poweroff -f
"
    )
}

fn program(name: &str) -> Result<PathBuf> {
    find_program(name).with_context(|| format!("{name} is missing"))
}

/// An initramfs that knows what it has.
pub(crate) struct Tree {
    archive: Archive<BufWriter<File>>,
    seen: BTreeSet<PathBuf>,
    /// Where programs lose their debug information.
    scratch: PathBuf,
}

impl Tree {
    /// Starts one at `path`.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self {
            archive: Archive::new(BufWriter::new(file)),
            seen: BTreeSet::new(),
            scratch: path.with_extension("stripped"),
        })
    }

    /// Writes what makes it complete.
    pub(crate) fn finish(self) -> std::io::Result<()> {
        self.archive.finish().map(drop)
    }

    /// The shell and everything else that `/init` calls.
    pub(crate) fn busybox(&mut self) -> Result<()> {
        self.copy(&program("busybox")?, Path::new("/bin/busybox"))
    }

    /// Modules and what they need; their names in the order in which they have to be inserted.
    pub(crate) fn modules(&mut self, kernel: &Kernel, wanted: &[&str]) -> Result<Vec<String>> {
        let mut order = Vec::new();
        for file in modules::files(&kernel.modules(), wanted)? {
            order.push(modules::name(&file.to_string_lossy()).to_owned());
            self.module(&file)?;
        }
        Ok(order)
    }

    fn link(&mut self, path: &Path, target: &Path) -> std::io::Result<()> {
        self.archive.link(path, target)
    }

    pub(crate) fn directory(&mut self, path: &Path) -> std::io::Result<()> {
        if path == Path::new("/") || !self.seen.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.archive.directory(path)
    }

    pub(crate) fn file(&mut self, path: &Path, content: &[u8]) -> std::io::Result<()> {
        if !self.seen.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.archive.file(path, content)
    }

    fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(to, &content)
            .with_context(|| format!("cannot pack {}", from.display()))
    }

    /// A program and the libraries that this machine would load for it.
    fn program(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.copy(from, to)?;
        for library in libraries(from)? {
            self.copy(&library, &library)?;
        }
        Ok(())
    }

    /// A program of this build, without its debug information, which is most of it.
    pub(crate) fn stripped(&mut self, from: &Path, to: &Path) -> Result<()> {
        Cmd::new("strip", LIMIT)
            .arg("--strip-debug")
            .arg("-o")
            .arg(&self.scratch)
            .arg(from)
            .output()?;
        let scratch = self.scratch.clone();
        let outcome = self.program(&scratch, to);
        fs::remove_file(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
        outcome
    }

    fn module(&mut self, from: &Path) -> Result<()> {
        let name = modules::name(&from.to_string_lossy()).to_owned();
        let to = Path::new(MODULES_DIR).join(format!("{name}.ko"));
        if from.extension().is_none_or(|extension| extension != "xz") {
            return self.copy(from, &to);
        }
        Cmd::new("sh", LIMIT)
            .args(["-c", r#"xz --decompress --stdout "$1" >"$2""#, "sh"])
            .arg(from)
            .arg(&self.scratch)
            .output()?;
        let scratch = self.scratch.clone();
        let outcome = self.copy(&scratch, &to);
        fs::remove_file(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
        outcome
    }
}

/// The shared libraries of a program, and the loader.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = Cmd::new("ldd", LIMIT).arg(program).output()?;
    parse_ldd(&listed).with_context(|| format!("cannot pack {}", program.display()))
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, or a path alone; the vDSO has none.
fn parse_ldd(listed: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in listed.lines() {
        if line.contains("not found") {
            bail!("a library is missing: {}", line.trim());
        }
        found.extend(
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(PathBuf::from),
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let listed = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        assert_eq!(
            parse_ldd(listed).unwrap(),
            [
                Path::new("/lib/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(parse_ldd("\tlibx.so => not found\n").is_err());
    }
}
