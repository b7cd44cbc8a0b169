//! What a cgroup's path says: the systemd unit, the container, the pod.

use std::collections::HashMap;
use std::path::Path;

use crate::event::Container;
use crate::host::{cgroup_by_id, cgroup2_root};

/// How many paths are remembered.
const REMEMBERED: usize = 4096;

/// The paths of cgroups by their ids, which the kernel does not use again.
#[derive(Debug, Default)]
pub(super) struct Paths(HashMap<u64, Option<String>>);

impl Paths {
    /// The path below the root of the hierarchy; `None` if the cgroup was gone when it was first asked for.
    pub(super) fn get(&mut self, id: u64) -> Option<String> {
        if id == 0 {
            return None;
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.entry(id).or_insert_with(|| below_root(id)).clone()
    }
}

fn below_root(id: u64) -> Option<String> {
    let (root, path) = (cgroup2_root().ok()?, cgroup_by_id(id)?);
    let below = path.strip_prefix(root).ok()?;
    Some(Path::new("/").join(below).to_string_lossy().into_owned())
}

/// The innermost systemd unit in a cgroup's path.
pub(super) fn unit(cgroup: &str) -> Option<&str> {
    cgroup.rsplit('/').find(|part| {
        [".service", ".scope", ".socket", ".mount"]
            .iter()
            .any(|kind| part.ends_with(kind))
    })
}

/// The container in a cgroup's path: that of the outermost pod, or else the innermost.
///
/// A pod's container may have been given its cgroup, and may call what it makes below as it likes: also as the kubelet
/// calls that of another pod.
pub(super) fn container(cgroup: &str) -> Option<Container> {
    let parts: Vec<&str> = cgroup.split('/').filter(|part| !part.is_empty()).collect();
    let pod = parts
        .iter()
        .enumerate()
        .find_map(|(index, part)| Some((index, pod(part)?)));
    let at = |index: usize| {
        let parent = index.checked_sub(1).and_then(|above| parts.get(above));
        one(
            parts.get(index)?,
            parent.copied().unwrap_or_default(),
            pod.is_some(),
        )
    };
    let found = match &pod {
        Some((index, _)) => (index + 1..parts.len()).find_map(at),
        None => (0..parts.len()).rev().find_map(at),
    };
    let (id, runtime) = found?;
    Some(Container {
        id,
        runtime: runtime.map(str::to_owned),
        name: None,
        pod: pod.map(|(_, uid)| uid),
        pod_name: None,
        pod_namespace: None,
    })
}

/// A container's id and runtime, if this part of a path is one.
fn one(part: &str, parent: &str, in_pod: bool) -> Option<(String, Option<&'static str>)> {
    // What the runtimes call their scopes with systemd, and their directories without.
    const OF_RUNTIME: [(&str, &str); 5] = [
        ("docker-", "docker"),
        ("libpod-payload-", "podman"),
        ("libpod-", "podman"),
        ("cri-containerd-", "containerd"),
        ("crio-", "crio"),
    ];
    let name = part.strip_suffix(".scope").unwrap_or(part);
    for (prefix, runtime) in OF_RUNTIME {
        if let Some(id) = name.strip_prefix(prefix).filter(|id| is_id(id)) {
            return Some((id.to_owned(), Some(runtime)));
        }
    }
    if is_id(name) {
        let runtime = (parent == "docker").then_some("docker");
        // A number of this form anywhere else is somebody's own directory.
        return (runtime.is_some() || in_pod).then(|| (name.to_owned(), runtime));
    }
    if let Some(machine) = part
        .strip_prefix("machine-")
        .and_then(|part| part.strip_suffix(".scope"))
        .or_else(|| {
            part.strip_prefix("systemd-nspawn@")
                .and_then(|part| part.strip_suffix(".service"))
        })
    {
        return Some((unescape(machine), Some("nspawn")));
    }
    let lxc = part
        .strip_prefix("lxc.payload.")
        .or_else(|| (parent == "lxc" && !part.starts_with("lxc.")).then_some(part));
    lxc.map(|name| (name.to_owned(), Some("lxc")))
}

/// The uid of a Kubernetes pod, if this part of a path is its cgroup.
fn pod(part: &str) -> Option<String> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match name.rsplit_once("-pod") {
        // In a node that is a container itself: kubelet-kubepods-burstable-pod….slice.
        Some((slice, uid)) if slice.starts_with("kubepods") || slice.contains("-kubepods") => uid,
        _ => name.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    // 36 characters with hyphens; 32 of static pods, whose uid is a hash.
    let is_uid =
        matches!(uid.len(), 32 | 36) && uid.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    is_uid.then_some(uid)
}

/// Whether a name is the id of a container: 64 hexadecimal digits.
pub(super) fn is_id(name: &str) -> bool {
    name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit())
}

/// Undoes the escapes of unit names (`systemd-escape(1)`).
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = rest
            .strip_prefix(b"\\x")
            .and_then(|rest| rest.split_at_checked(2))
            .and_then(|(digits, rest)| {
                let digits = std::str::from_utf8(digits).ok()?;
                Some((u8::from_str_radix(digits, 16).ok()?, rest))
            });
        let (byte, after) = escaped.unwrap_or((byte, after));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const ID: &str = "4c01db0b339c8b1d9dd3c9f0f6aeb3a2c6d7b6b1a1e0c9d8f7e6d5c4b3a29180";
    const OTHER: &str = "ffffdb0b339c8b1d9dd3c9f0f6aeb3a2c6d7b6b1a1e0c9d8f7e6d5c4b3a2ffff";
    const UID: &str = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn the_innermost_unit_is_named() {
        assert_eq!(unit("/system.slice/app.service"), Some("app.service"));
        assert_eq!(
            unit("/user.slice/session-1.scope/child"),
            Some("session-1.scope")
        );
        assert_eq!(unit("/"), None);
    }

    #[test]
    fn containers_are_known_by_what_their_runtimes_call_them() {
        let escaped = UID.replace('-', "_");
        for (path, id, runtime, pod) in [
            (
                format!("/system.slice/docker-{ID}.scope"),
                ID,
                Some("docker"),
                None,
            ),
            (format!("/docker/{ID}"), ID, Some("docker"), None),
            (format!("/docker/{ID}/init.scope"), ID, Some("docker"), None),
            (
                format!("/machine.slice/libpod-{ID}.scope/container"),
                ID,
                Some("podman"),
                None,
            ),
            (
                format!("/libpod_parent/libpod-{ID}"),
                ID,
                Some("podman"),
                None,
            ),
            (
                format!(
                    "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-payload-{ID}"
                ),
                ID,
                Some("podman"),
                None,
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{escaped}.slice/cri-containerd-{ID}.scope"
                ),
                ID,
                Some("containerd"),
                Some(UID),
            ),
            (
                format!("/kubepods.slice/kubepods-pod{escaped}.slice/crio-{ID}.scope"),
                ID,
                Some("crio"),
                Some(UID),
            ),
            (
                format!("/kubepods/besteffort/pod{UID}/{ID}"),
                ID,
                None,
                Some(UID),
            ),
            // Static pods: the uid is a hash.
            (
                format!("/kubepods/burstable/pod{STATIC}/{ID}"),
                ID,
                None,
                Some(STATIC),
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{STATIC}.slice/docker-{ID}.scope"
                ),
                ID,
                Some("docker"),
                Some(STATIC),
            ),
            // cri-o with crun has the processes one below.
            (
                format!("/kubepods.slice/kubepods-pod{escaped}.slice/crio-{ID}.scope/container"),
                ID,
                Some("crio"),
                Some(UID),
            ),
            // A node in a container, by both drivers.
            (
                format!("/docker/{OTHER}/kubelet/kubepods/burstable/pod{UID}/{ID}"),
                ID,
                None,
                Some(UID),
            ),
            (
                format!(
                    "/system.slice/docker-{OTHER}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{escaped}.slice/cri-containerd-{ID}.scope"
                ),
                ID,
                Some("containerd"),
                Some(UID),
            ),
            // What a pod's container has made below its own cgroup frames nobody.
            (
                format!(
                    "/kubepods.slice/kubepods-pod{escaped}.slice/cri-containerd-{ID}.scope/kubepods/pod{STATIC}/{OTHER}"
                ),
                ID,
                Some("containerd"),
                Some(UID),
            ),
            (
                r"/machine.slice/machine-my\x2dbox.scope/payload".to_owned(),
                "my-box",
                Some("nspawn"),
                None,
            ),
            (
                "/machine.slice/systemd-nspawn@web.service/payload".to_owned(),
                "web",
                Some("nspawn"),
                None,
            ),
            (
                "/lxc.payload.web/init.scope".to_owned(),
                "web",
                Some("lxc"),
                None,
            ),
            ("/lxc/web".to_owned(), "web", Some("lxc"), None),
        ] {
            let expected = Container {
                id: id.to_owned(),
                runtime: runtime.map(str::to_owned),
                name: None,
                pod: pod.map(str::to_owned),
                pod_name: None,
                pod_namespace: None,
            };
            assert_eq!(container(&path), Some(expected), "{path}");
        }
    }

    #[test]
    fn what_only_looks_like_a_container_is_none() {
        for path in [
            "/".to_owned(),
            "/system.slice/docker.service".to_owned(),
            format!("/system.slice/{ID}"),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!(
                "/kubepods.slice/kubepods-pod{}.slice",
                UID.replace('-', "_")
            ),
            // The sandbox's parent, and cri-o's monitor.
            format!("/kubepods/burstable/pod{UID}"),
            format!("/kubepods.slice/kubepods-pod{UID}.slice/crio-conmon-{ID}.scope"),
            "/docker/buildkit".to_owned(),
            "/lxc/lxc.monitor".to_owned(),
        ] {
            assert_eq!(container(&path), None, "{path}");
        }
    }

    #[test]
    fn a_cgroup_is_found_by_its_id() {
        let root = cgroup2_root().unwrap();
        let id = std::fs::metadata(&root).unwrap().ino();
        let mut paths = Paths::default();
        assert_eq!(paths.get(id), Some("/".to_owned()));
        assert_eq!(paths.get(0), None);
        assert_eq!(paths.get(u64::MAX - 1), None);
    }
}
