//! One life of an emulated machine, from power-on to power-off, and what left it by its network card.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    process::Cmd,
    vm::{initramfs::Tree, kernel::Kernel},
    workspace::root,
};

/// A boot takes less than a minute; a machine that is busy or slow may take much longer.
const LIMIT: Duration = Duration::from_mins(10);
const READ_LIMIT: Duration = Duration::from_mins(1);

const MAC: &str = "52:54:00:6c:67:01";

/// Every class that is blocked, by the port it goes to.
const DNS: &str =
    "(dst port 53 or dst port 853 or dst port 5353 or dst port 5355 or udp dst port 137)";

/// How a line of the guest's own begins on the console.
const MARK: &str = "guest: ";

/// Where a guest keeps what goes into its root file system.
const PAYLOAD: &str = "/payload";
const UNITS: &str = "/payload/etc/systemd/system";

/// The initramfs that every machine starts with: the modules of the disk, and this build with the test's own files.
pub(super) fn initramfs(path: &Path, kernel: &Kernel, agent: &Path) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut tree = Tree::create(path)?;
    for directory in ["/proc", "/sys", "/dev", "/new"] {
        tree.directory(Path::new(directory)).with_context(failed)?;
    }
    tree.busybox()?;
    let order = tree.modules(kernel, &["virtio_pci", "virtio_blk", "ext4"])?;
    let order = order.join("\n");
    let mut file = |path: &str, content: &str| {
        tree.file(Path::new(path), content.as_bytes())
            .with_context(failed)
    };
    file("/modules/order", &order)?;
    file("/init", include_str!("guest/init.sh"))?;
    let here = |path: &str| format!("{PAYLOAD}/{path}");
    file(
        &here("usr/local/lib/prober.pl"),
        include_str!("guest/prober.pl"),
    )?;
    file(
        &here("usr/local/lib/check.sh"),
        include_str!("guest/check.sh"),
    )?;
    file(
        &here("etc/systemd/network/eth.network"),
        include_str!("guest/eth.network"),
    )?;
    // A tunnel that does not exist.
    file(
        &here("etc/leakguard/leakguard.toml"),
        "[interfaces]\ntunnel = [\"wg0\"]\n",
    )?;
    for (name, content) in [
        ("check", include_str!("guest/check.service")),
        ("lookups", include_str!("guest/lookups.service")),
        ("prober", include_str!("guest/prober.service")),
    ] {
        file(&format!("{UNITS}/{name}.service"), content)?;
    }
    for name in ["leakguard-early.service", "leakguard.service"] {
        let unit = root().join("dist").join(name);
        let content =
            fs::read_to_string(&unit).with_context(|| format!("cannot read {}", unit.display()))?;
        file(&format!("{UNITS}/{name}"), &content)?;
    }
    // The libraries that come with it stay in the initramfs: the guest has its own of the same release.
    tree.stripped(agent, Path::new(&here("usr/local/bin/leakguard")))?;
    tree.finish().with_context(failed)
}

/// What a machine starts from.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) initramfs: &'a Path,
    pub(super) image: &'a Path,
    pub(super) work_dir: &'a Path,
}

/// What was seen of one life.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// What the guest said of itself.
    pub(super) said: Vec<String>,
    /// Everything that left it.
    pub(super) packets: usize,
    /// How many names it asked for until it was up, while it was, and after it was told to power off.
    pub(super) dns: [usize; 3],
    /// The console, for who wants to know why.
    pub(super) console: PathBuf,
}

impl Life {
    /// The rest of the first line that begins so.
    pub(super) fn word(&self, prefix: &str) -> Option<&str> {
        self.said.iter().find_map(|line| line.strip_prefix(prefix))
    }
}

impl Machine<'_> {
    /// Switches it on, and waits until it is off.
    pub(super) fn live(&self, name: &str, append: &str) -> Result<Life> {
        let console = self.work_dir.join(format!("{name}.log"));
        let capture = self.work_dir.join(format!("{name}.pcap"));
        let mut log = File::create(&console)
            .with_context(|| format!("cannot create {}", console.display()))?;
        let mut life = Life {
            console: console.clone(),
            ..Life::default()
        };
        let (mut up, mut off) = (None, None);
        let machine = self.command(&capture, append, name);
        let status = machine.lines(|text| {
            let text = text.trim_end_matches('\r');
            if let Some(said) = text.strip_prefix(MARK) {
                match said {
                    "up" => up = Some(now()?),
                    "power-off" => off = Some(now()?),
                    _ => life.said.push(said.to_owned()),
                }
            }
            writeln!(log, "{text}").with_context(|| format!("cannot write {}", console.display()))
        })?;
        machine
            .check(status)
            .with_context(|| format!("the console is in {}", console.display()))?;
        let (Some(up), Some(off)) = (up, off) else {
            bail!(
                "the machine went off before it was up; the console is in {}",
                console.display()
            );
        };
        check_complete(&capture)?;
        let from_guest = format!("ether src {MAC}");
        life.packets = times(&capture, &from_guest)?.len();
        for time in times(&capture, &format!("{from_guest} and {DNS}"))? {
            let phase = usize::from(time >= up) + usize::from(time >= off);
            life.dns[phase] += 1;
        }
        Ok(life)
    }

    fn command(&self, capture: &Path, append: &str, name: &str) -> Cmd {
        // The namespaces end with the script, and the script with `unshare`, so that nothing is left in any case.
        Cmd::new("unshare", LIMIT)
            .args(["--net", "--mount-proc", "--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", include_str!("guest/machine.sh"), "machine"])
            .arg(capture)
            // KVM would be faster where it works; where it is itself emulated, stock kernels do not start on it.
            .args(["qemu-system-x86_64", "-machine", "q35"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
            .args(["-m", "1024", "-nodefaults", "-display", "none"])
            .args(["-serial", "stdio", "-no-reboot"])
            .arg("-kernel")
            .arg(self.kernel.vmlinux())
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            .arg(format!("console=ttyS0 quiet panic=-1 {append}"))
            // What the guest writes is forgotten.
            .arg("-drive")
            .arg(format!(
                "file={},format=raw,if=virtio,snapshot=on",
                self.image.display()
            ))
            .args(["-netdev", "tap,id=isp,ifname=isp0,script=no,downscript=no"])
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=isp,mac={MAC},romfile="))
            .label(format!("the machine `{name}`"))
            .privileged()
    }
}

fn now() -> Result<f64> {
    Ok(SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs_f64())
}

/// What was not captured was not looked at.
fn check_complete(capture: &Path) -> Result<()> {
    let log = PathBuf::from(format!("{}.log", capture.display()));
    let text =
        fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    ensure!(
        text.lines()
            .any(|line| line == "0 packets dropped by kernel"),
        "the capture is not complete: {}",
        text.trim()
    );
    Ok(())
}

/// When the packets that match were seen.
fn times(capture: &Path, filter: &str) -> Result<Vec<f64>> {
    let listed = Cmd::new("tcpdump", READ_LIMIT)
        .args(["-n", "-q", "-tt", "-r"])
        .arg(capture)
        .arg(filter)
        .privileged()
        .output()?;
    parse_times(&listed)
}

fn parse_times(listed: &str) -> Result<Vec<f64>> {
    listed
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
        .map(|line| {
            line.split_whitespace()
                .next()
                .and_then(|time| time.parse().ok())
                .with_context(|| format!("tcpdump printed no time: {line}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_tcpdump() {
        let listed = "1732530000.250000 IP 192.168.79.10.40000 > 192.168.79.1.53: UDP, length 19\n\
                      1732530001.500000 IP6 fd79::10.40000 > fd79::1.853: tcp 0\n";
        assert_eq!(
            parse_times(listed).unwrap(),
            [1_732_530_000.25, 1_732_530_001.5]
        );
        assert!(parse_times("12x34\n").is_err());
    }
}
