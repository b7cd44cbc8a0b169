use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::process::{Daemon, run, run_with_input};
use super::scratch::Scratch;
use super::topology::await_route;
use super::{LabError, Netns, Topology, address, wait_until};

/// How long wireguard-go may take to offer its control socket.
const START_LIMIT: Duration = Duration::from_secs(5);
const MTU: u16 = 1420;

/// Who does the work at both ends of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// wireguard-go; the device is of kind `tun`, as with every VPN in user space.
    UserSpace,
    /// The kernel's module; the device is of kind `wireguard`.
    Kernel,
}

/// A tunnel between the host and the VPN server; torn down when dropped.
#[derive(Debug)]
pub struct WireGuard {
    interface: String,
    engine: Engine,
    /// Absent while it is taken down.
    host: Option<Endpoint>,
    /// What `wg` is told of the host's end.
    configuration: String,
    server: Endpoint,
    logs: Scratch,
}

impl WireGuard {
    /// The mark of the packets that carry the tunnel from the host.
    pub const MARK: u32 = 0xca6c;

    /// The server's interface.
    pub const SERVER_INTERFACE: &'static str = "wgs0";

    /// Brings the tunnel up as `interface` on the host, with wireguard-go at both ends; returns after the handshake,
    /// when it carries both families.
    ///
    /// The tunnel's prefixes are routed into it; the host's default route stays on the uplink.
    pub fn new(topology: &Topology, interface: &str) -> Result<Self, LabError> {
        Self::with(Engine::UserSpace, topology, interface)
    }

    /// The same with the kernel's module at both ends, which has to be there.
    pub fn in_kernel(topology: &Topology, interface: &str) -> Result<Self, LabError> {
        Self::with(Engine::Kernel, topology, interface)
    }

    fn with(engine: Engine, topology: &Topology, interface: &str) -> Result<Self, LabError> {
        let logs = Scratch::new("wireguard")?;
        let (host_keys, server_keys) = (KeyPair::generate()?, KeyPair::generate()?);

        let server = Endpoint::start(engine, topology.vpn(), Self::SERVER_INTERFACE, logs.path())?;
        server.configure(&format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {}\n\
             [Peer]\nPublicKey = {}\n\
             AllowedIPs = 10.8.0.2/32, 192.168.78.0/24, fd08::2/128, fd78::/64\n",
            server_keys.private,
            address::CARRIER_PORT,
            host_keys.public,
        ))?;
        topology.vpn().ip_batch(&format!(
            "link set {dev} up mtu {MTU}\n\
             addr add 10.8.0.1/24 dev {dev}\n\
             addr add fd08::1/64 dev {dev} nodad\n\
             rule add from 10.8.0.1 lookup 108\n\
             route add default dev {dev} table 108\n\
             route add ::/0 dev {dev} table 108\n",
            dev = Self::SERVER_INTERFACE,
        ))?;
        // A batch has no family of its own, and a rule takes none from its prefix.
        topology
            .vpn()
            .ip(&["-6", "rule", "add", "from", "fd08::1", "lookup", "108"])?;

        let configuration = format!(
            "[Interface]\nPrivateKey = {}\nFwMark = {:#x}\n\
             [Peer]\nPublicKey = {}\nEndpoint = {}:{}\n\
             AllowedIPs = 10.8.0.0/24, fd08::/64\n",
            host_keys.private,
            Self::MARK,
            server_keys.public,
            address::VPN_SERVER_V4,
            address::CARRIER_PORT,
        );
        let mut tunnel = Self {
            interface: interface.to_owned(),
            engine,
            host: None,
            configuration,
            server,
            logs,
        };
        tunnel.create(topology.host())?;
        tunnel.set_up(topology.host())?;
        for target in [
            IpAddr::from(address::TUNNEL_RESOLVER_V4),
            IpAddr::from(address::TUNNEL_RESOLVER_V6),
        ] {
            await_route(topology.host(), target)?;
        }
        Ok(tunnel)
    }

    /// Deletes the host's end with its interface.
    pub fn delete(&mut self) {
        self.host = None;
    }

    /// Creates the host's end with its interface, which is down.
    pub fn create(&mut self, host: &Netns) -> Result<(), LabError> {
        let endpoint = Endpoint::start(self.engine, host, &self.interface, self.logs.path())?;
        endpoint.configure(&self.configuration)?;
        self.host = Some(endpoint);
        host.ip(&["link", "set", &self.interface, "mtu", &MTU.to_string()])
            .map(drop)
    }

    /// Sets the host's interface up, with its addresses.
    pub fn set_up(&self, host: &Netns) -> Result<(), LabError> {
        host.ip_batch(&format!(
            "link set {dev} up\n\
             addr add 10.8.0.2/24 dev {dev}\n\
             addr add fd08::2/64 dev {dev} nodad\n",
            dev = self.interface,
        ))
    }

    /// The tunnel's interface on the host.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Forgets the session: the next packet begins with a handshake.
    pub fn renew(&self) -> Result<(), LabError> {
        self.host()?.configure(&self.configuration)
    }

    /// Ends the server's process, as a server that crashes: the host's interface stays as it is.
    pub fn kill_server(&mut self) -> Result<(), LabError> {
        match &mut self.server.daemon {
            Some(daemon) => daemon.kill().map(drop),
            None => Err(no_process(Self::SERVER_INTERFACE)),
        }
    }

    /// The process at the host's end, in whose mount namespace its control socket is.
    pub fn pid(&self) -> Result<u32, LabError> {
        let daemon = self.host()?.daemon.as_ref();
        daemon
            .map(Daemon::pid)
            .ok_or_else(|| no_process(&self.interface))
    }

    /// What `wg show` says about the host's end.
    pub fn show(&self) -> Result<String, LabError> {
        let mut wg = self.host()?.wg()?;
        wg.args(["show", &self.interface]);
        run(wg)
    }

    fn host(&self) -> Result<&Endpoint, LabError> {
        self.host.as_ref().ok_or_else(|| LabError::Io {
            action: format!("use {}, which is deleted", self.interface),
            source: io::ErrorKind::NotFound.into(),
        })
    }
}

#[derive(Debug)]
struct KeyPair {
    private: String,
    public: String,
}

impl KeyPair {
    fn generate() -> Result<Self, LabError> {
        let mut genkey = Command::new("wg");
        genkey.arg("genkey");
        let private = run(genkey)?.trim().to_owned();
        let mut pubkey = Command::new("wg");
        pubkey.arg("pubkey");
        let public = run_with_input(pubkey, &private)?.trim().to_owned();
        Ok(Self { private, public })
    }
}

fn no_process(interface: &str) -> LabError {
    LabError::Io {
        action: format!("find the process of {interface}, which is the kernel's"),
        source: io::ErrorKind::NotFound.into(),
    }
}

/// One end in a network namespace; a wireguard-go in a mount namespace of its own, too.
///
/// Its control socket is named after the interface in a directory that is the same for every
/// network namespace. A private tmpfs there lets each lab have its own `wg0`.
#[derive(Debug)]
struct Endpoint {
    interface: String,
    /// Absent where the kernel does it.
    daemon: Option<Daemon>,
    netns: super::netns::NetnsHandle,
}

impl Endpoint {
    fn start(
        engine: Engine,
        netns: &Netns,
        interface: &str,
        logs: &Path,
    ) -> Result<Self, LabError> {
        let daemon = match engine {
            Engine::UserSpace => Some(wireguard_go(netns, interface, logs)?),
            Engine::Kernel => {
                netns.ip(&["link", "add", interface, "type", "wireguard"])?;
                None
            }
        };
        Ok(Self {
            interface: interface.to_owned(),
            daemon,
            netns: netns.handle().clone(),
        })
    }

    fn configure(&self, configuration: &str) -> Result<(), LabError> {
        let mut wg = self.wg()?;
        wg.args(["setconf", &self.interface, "/dev/stdin"]);
        run_with_input(wg, configuration).map(drop)
    }

    /// A `wg` that sees this endpoint.
    fn wg(&self) -> Result<Command, LabError> {
        let mut wg = self.netns.command("wg");
        let Some(daemon) = &self.daemon else {
            return Ok(wg);
        };
        let path = format!("/proc/{}/ns/mnt", daemon.pid());
        let mounts = File::open(&path).map_err(LabError::io(format!("open {path}")))?;
        let mounts = Arc::new(mounts);
        // SAFETY: setns is async-signal-safe, and the closure neither allocates nor locks.
        unsafe {
            wg.pre_exec(move || setns(&*mounts, CloneFlags::CLONE_NEWNS).map_err(io::Error::from));
        }
        Ok(wg)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // That of a process goes with it.
        if self.daemon.is_none()
            && let Err(error) = self
                .netns
                .ip_batch(&format!("link del {}\n", self.interface))
        {
            log::debug!("{error}");
        }
    }
}

/// Starts one, and waits until it can be configured.
fn wireguard_go(netns: &Netns, interface: &str, logs: &Path) -> Result<Daemon, LabError> {
    let run_directory = run_directory()?;
    let mut command = netns.command("wireguard-go");
    command
        .args(["-f", interface])
        .env("LOG_LEVEL", "error")
        // Set but empty, it makes wireguard-go start itself again for ever.
        .env_remove("WG_PROCESS_FOREGROUND");
    hide_run_directory(&mut command, &run_directory)?;
    let logs = logs.join(interface);
    fs::create_dir_all(&logs).map_err(LabError::io(format!("create {}", logs.display())))?;
    let mut daemon = Daemon::start(command, &logs)?;

    let root = PathBuf::from(format!("/proc/{}/root", daemon.pid()));
    let socket = run_directory
        .join("wireguard")
        .join(format!("{interface}.sock"));
    let socket = root.join(socket.strip_prefix("/").unwrap_or(&socket));
    wait_until(
        "wireguard-go offers its control socket",
        START_LIMIT,
        || {
            daemon.check_running()?;
            Ok(socket.exists())
        },
    )?;
    Ok(daemon)
}

/// Where `/var/run` really is: an absolute symbolic link would lead out of `/proc/PID/root`.
fn run_directory() -> Result<PathBuf, LabError> {
    fs::canonicalize("/var/run").map_err(LabError::io("resolve /var/run"))
}

/// Gives `command` a private mount namespace with an empty run directory.
fn hide_run_directory(command: &mut Command, run_directory: &Path) -> Result<(), LabError> {
    let run_directory = c_path(run_directory)?;
    // SAFETY: the closure makes system calls only; its strings were built before the fork.
    unsafe {
        command.pre_exec(move || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            // Slave rather than private: a namespace deleted outside must vanish here too.
            mount(
                None::<&str>,
                c"/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_SLAVE,
                None::<&str>,
            )?;
            mount(
                Some(c"tmpfs"),
                run_directory.as_c_str(),
                Some(c"tmpfs"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some(c"mode=0755"),
            )?;
            Ok(())
        });
    }
    Ok(())
}

fn c_path(path: &Path) -> Result<CString, LabError> {
    CString::new(path.as_os_str().as_bytes())
        .ok()
        .ok_or_else(|| LabError::Path(path.to_owned()))
}
