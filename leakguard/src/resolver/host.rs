//! What there is on a host that has to do with names, as it was before leakguard came.

use std::path::Path;

use super::error::ResolverError;
use super::journal::{Journal, look};
use super::node::Node;
use super::root::Root;

pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";
pub(super) const DAEMON_JSON: &str = "/etc/docker/daemon.json";

/// What there is.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, not states"
)]
pub struct Host {
    pub(super) resolv_conf: Node,
    pub(super) daemon_json: Node,
    /// Whether systemd-resolved is installed and may run.
    pub(super) has_resolved: bool,
    /// Whether it is in use.
    pub(super) uses_resolved: bool,
    pub(super) has_network_manager: bool,
    pub(super) has_dhclient: bool,
    pub(super) has_docker: bool,
    pub(super) has_containers: bool,
    pub(super) has_cri: bool,
    pub(super) has_systemd: bool,
    /// Whether it shows the kernel's settings.
    pub(super) has_sysctls: bool,
    pub(super) unbound: Option<&'static str>,
    pub(super) dnsmasq: Option<&'static str>,
    pub(super) root_key: Option<&'static Path>,
    pub(super) certificates: Option<&'static str>,
}

impl Host {
    /// Looks at a tree; the journal says what was changed in it.
    pub fn read(root: &Root, journal: Option<&Journal>) -> Result<Self, ResolverError> {
        let original = |path| Journal::original(journal, root, path);
        let any = |paths: &[&str]| paths.iter().any(|path| root.has(path));
        let first = |paths: &[&'static str]| paths.iter().copied().find(|path| root.has(path));
        let resolv_conf = original(RESOLV_CONF)?;
        let installed = any(&[
            "/usr/lib/systemd/systemd-resolved",
            "/lib/systemd/systemd-resolved",
        ]);
        let masked = look(root, "/etc/systemd/system/systemd-resolved.service")?
            .target()
            .is_some_and(|target| target == Path::new("/dev/null"));
        let has_resolved = installed && !masked;
        let points_at_it = resolv_conf
            .target()
            .is_some_and(|target| target.to_string_lossy().contains("systemd/resolve"));
        let enabled = any(&[
            "/etc/systemd/system/sysinit.target.wants/systemd-resolved.service",
            "/etc/systemd/system/multi-user.target.wants/systemd-resolved.service",
            "/run/systemd/resolve/stub-resolv.conf",
        ]);
        Ok(Self {
            has_resolved,
            uses_resolved: has_resolved && (points_at_it || enabled),
            resolv_conf,
            daemon_json: original(DAEMON_JSON)?,
            has_network_manager: any(&["/usr/sbin/NetworkManager", "/usr/bin/NetworkManager"]),
            has_dhclient: any(&["/usr/sbin/dhclient", "/sbin/dhclient"]),
            has_docker: any(&[
                "/usr/bin/dockerd",
                "/usr/sbin/dockerd",
                "/usr/local/bin/dockerd",
            ]),
            has_containers: any(&[
                "/usr/bin/podman",
                "/usr/bin/buildah",
                "/usr/local/bin/podman",
            ]),
            has_cri: any(&[
                "/usr/bin/containerd",
                "/usr/bin/kubelet",
                "/usr/local/bin/k3s",
                "/usr/bin/crio",
            ]),
            has_systemd: any(&["/usr/lib/systemd/systemd", "/lib/systemd/systemd"]),
            has_sysctls: root.has("/proc/sys/net"),
            unbound: first(&[
                "/usr/sbin/unbound",
                "/usr/bin/unbound",
                "/usr/local/sbin/unbound",
            ]),
            dnsmasq: first(&[
                "/usr/sbin/dnsmasq",
                "/usr/bin/dnsmasq",
                "/usr/local/sbin/dnsmasq",
            ]),
            root_key: first(&["/usr/share/dns/root.key"]).map(Path::new),
            certificates: first(&super::texts::CERTIFICATES),
        })
    }
}
