//! Names of pods and their containers, as the kubelet's directories of logs have them.
//!
//! For every container it makes `/var/log/pods/NAMESPACE_POD_UID/CONTAINER/0.log`, and a link to it called
//! `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`. No question has to be asked over the network, and no right in the
//! cluster is needed.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use crate::event::Container;

/// How many pods, and how many containers, are remembered.
const REMEMBERED: usize = 4096;

/// The most entries of a directory that are looked at; a node has some hundreds.
const MOST: usize = 65536;

/// How long the directories are not read again for somebody who was not in them.
const HOLD: Duration = Duration::from_secs(1);

/// A pod's name; none where the directories disagree.
type Pod = Option<PodName>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct PodName {
    namespace: String,
    name: String,
}

/// Names pods and containers, also those whose directories have gone since they were first named.
#[derive(Debug)]
pub(super) struct Pods {
    /// `/var/log`.
    logs: PathBuf,
    /// By uid.
    named: HashMap<String, Pod>,
    /// Container's names, by uid and id.
    containers: HashMap<(String, String), Option<String>>,
    read: Option<Instant>,
}

impl Default for Pods {
    fn default() -> Self {
        Self::at(Path::new("/var/log"))
    }
}

impl Pods {
    fn at(logs: &Path) -> Self {
        Self {
            logs: logs.to_owned(),
            named: HashMap::new(),
            containers: HashMap::new(),
            read: None,
        }
    }

    /// Adds what is known of a container's names.
    pub(super) fn name(&mut self, container: &mut Container) {
        let Some(uid) = container.pod.clone() else {
            return;
        };
        let key = (uid, container.id.clone());
        // A container's link comes after its start, a pod's directory before.
        if !self.containers.contains_key(&key) && self.read.is_none_or(|read| read.elapsed() > HOLD)
        {
            self.read();
        }
        let Some(Some(pod)) = self.named.get(&key.0) else {
            return;
        };
        container.pod_name = Some(pod.name.clone());
        container.pod_namespace = Some(pod.namespace.clone());
        container.name = self.containers.get(&key).cloned().flatten();
    }

    fn read(&mut self) {
        self.read = Some(Instant::now());
        let mut pods: HashMap<String, Pod> = HashMap::new();
        for name in names(&self.logs.join("pods")) {
            if let Some((uid, pod)) = pod(&name) {
                enter(&mut pods, uid.to_owned(), pod);
            }
        }
        let links = self.logs.join("containers");
        let mut containers = HashMap::new();
        for name in names(&links) {
            let Some(id) = id_of(&name) else { continue };
            let target = fs::read_link(links.join(&name)).ok();
            let Some((directory, container)) = target.as_deref().and_then(log) else {
                continue;
            };
            if let Some((uid, pod)) = pod(directory) {
                enter(&mut pods, uid.to_owned(), pod);
                let key = (uid.to_owned(), id.to_owned());
                enter(&mut containers, key, container.to_owned());
            }
        }
        if self.named.len() + pods.len() > REMEMBERED {
            self.named.clear();
        }
        if self.containers.len() + containers.len() > REMEMBERED {
            self.containers.clear();
        }
        // What is there now wins over what was.
        self.named.extend(pods);
        self.containers.extend(containers);
    }
}

/// Two that disagree are none.
fn enter<K: std::hash::Hash + Eq, V: PartialEq>(
    known: &mut HashMap<K, Option<V>>,
    key: K,
    value: V,
) {
    known
        .entry(key)
        .and_modify(|known| {
            if known.as_ref() != Some(&value) {
                *known = None;
            }
        })
        .or_insert(Some(value));
}

/// What is in a directory that nobody else can have put there than root, or who runs this; nothing, if it is not to be
/// read.
fn names(directory: &Path) -> Vec<String> {
    let is_trusted = fs::metadata(directory).is_ok_and(|metadata| {
        let owners = [0, geteuid().as_raw()];
        owners.contains(&metadata.uid()) && metadata.mode() & 0o022 == 0
    });
    if !is_trusted {
        return Vec::new();
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .take(MOST)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// The uid and the name that a directory's name has: `NAMESPACE_POD_UID`. No name has an underscore in it.
fn pod(directory: &str) -> Option<(&str, PodName)> {
    let mut parts = directory.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let is_pod = parts.next().is_none() && is_name(namespace, 63) && is_name(name, 253);
    let name = PodName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    is_pod.then_some((uid, name))
}

/// The directory of the pod and the name of the container in the path of a log.
fn log(path: &Path) -> Option<(&str, &str)> {
    let container = path.parent()?;
    let name = container.file_name()?.to_str()?;
    let pod = container.parent()?.file_name()?.to_str()?;
    is_name(name, 63).then_some((pod, name))
}

/// The id at the end of a link's name: `…-ID.log`.
fn id_of(link: &str) -> Option<&str> {
    let (_, id) = link.strip_suffix(".log")?.rsplit_once('-')?;
    super::cgroup::is_id(id).then_some(id)
}

/// Whether the API server would take it for a name (RFC 1123: lower case, digits, hyphens, dots).
fn is_name(text: &str, most: usize) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().next_back()];
    text.len() <= most
        && ends.into_iter().all(|end| end.is_some_and(is_plain))
        && text
            .bytes()
            .all(|byte| is_plain(byte) || byte == b'-' || byte == b'.')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const ID: &str = "4c01db0b339c8b1d9dd3c9f0f6aeb3a2c6d7b6b1a1e0c9d8f7e6d5c4b3a29180";
    const OTHER: &str = "ffffdb0b339c8b1d9dd3c9f0f6aeb3a2c6d7b6b1a1e0c9d8f7e6d5c4b3a2ffff";
    const UID: &str = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";

    /// `/var/log` of a node.
    struct Logs(tempfile::TempDir);

    impl Logs {
        fn new() -> Self {
            let logs = tempfile::tempdir().unwrap();
            let logs = Self(logs);
            for name in ["pods", "containers"] {
                fs::create_dir(logs.0.path().join(name)).unwrap();
            }
            logs.allow(0o755);
            logs
        }

        fn allow(&self, mode: u32) {
            for name in ["pods", "containers"] {
                let mode = fs::Permissions::from_mode(mode);
                fs::set_permissions(self.0.path().join(name), mode).unwrap();
            }
        }

        /// As the kubelet does.
        fn add(&self, namespace: &str, pod: &str, uid: &str, container: &str, id: &str) {
            let directory = format!("pods/{namespace}_{pod}_{uid}/{container}");
            let directory = self.0.path().join(directory);
            fs::create_dir_all(&directory).unwrap();
            let link = format!("containers/{pod}_{namespace}_{container}-{id}.log");
            symlink(directory.join("0.log"), self.0.path().join(link)).unwrap();
        }

        fn pods(&self) -> Pods {
            Pods::at(self.0.path())
        }
    }

    fn container(uid: &str, id: &str) -> Container {
        Container {
            id: id.to_owned(),
            runtime: None,
            name: None,
            pod: Some(uid.to_owned()),
            pod_name: None,
            pod_namespace: None,
        }
    }

    /// Namespace, pod and container.
    fn named(pods: &mut Pods, uid: &str, id: &str) -> [Option<String>; 3] {
        let mut container = container(uid, id);
        pods.name(&mut container);
        [container.pod_namespace, container.pod_name, container.name]
    }

    fn of(names: [&str; 3]) -> [Option<String>; 3] {
        names.map(|name| (!name.is_empty()).then(|| name.to_owned()))
    }

    /// Lets the directories be read again.
    fn later(pods: &mut Pods) {
        pods.read = None;
    }

    #[test]
    fn a_pod_and_its_containers_have_names() {
        let logs = Logs::new();
        logs.add("web", "shop-7d4.a", UID, "app", ID);
        logs.add("web", "shop-7d4.a", UID, "sidecar", OTHER);
        let mut pods = logs.pods();
        assert_eq!(named(&mut pods, UID, ID), of(["web", "shop-7d4.a", "app"]));
        assert_eq!(
            named(&mut pods, UID, OTHER),
            of(["web", "shop-7d4.a", "sidecar"])
        );
        // The sandbox has no log, and another pod no directory.
        let sandbox = "0".repeat(64);
        assert_eq!(
            named(&mut pods, UID, &sandbox),
            of(["web", "shop-7d4.a", ""])
        );
        let unknown = "11111111-4f50-6172-8394-a5b6c7d8e9f0";
        assert_eq!(named(&mut pods, unknown, ID), of(["", "", ""]));
        // What has ended keeps the names that it had.
        fs::remove_dir_all(logs.0.path().join("pods")).unwrap();
        fs::remove_dir_all(logs.0.path().join("containers")).unwrap();
        later(&mut pods);
        assert_eq!(named(&mut pods, UID, ID), of(["web", "shop-7d4.a", "app"]));
        assert_eq!(
            named(&mut pods, UID, &sandbox),
            of(["web", "shop-7d4.a", ""])
        );
    }

    #[test]
    fn a_pod_that_comes_later_is_found_later() {
        let logs = Logs::new();
        let mut pods = logs.pods();
        assert_eq!(named(&mut pods, UID, ID), of(["", "", ""]));
        logs.add("web", "shop", UID, "app", ID);
        // Nothing is read for every packet of somebody unknown.
        assert_eq!(named(&mut pods, UID, ID), of(["", "", ""]));
        later(&mut pods);
        assert_eq!(named(&mut pods, UID, ID), of(["web", "shop", "app"]));
    }

    #[test]
    fn directories_that_others_may_write_name_nobody() {
        let logs = Logs::new();
        logs.add("web", "shop", UID, "app", ID);
        logs.allow(0o775);
        assert_eq!(named(&mut logs.pods(), UID, ID), of(["", "", ""]));
        logs.allow(0o755);
        assert_eq!(named(&mut logs.pods(), UID, ID), of(["web", "shop", "app"]));
    }

    #[test]
    fn two_that_claim_the_same_are_not_believed() {
        let logs = Logs::new();
        logs.add("web", "shop", UID, "app", ID);
        logs.add("kube-system", "coredns", UID, "app", OTHER);
        assert_eq!(named(&mut logs.pods(), UID, ID), of(["", "", ""]));
    }

    #[test]
    fn what_is_no_name_is_none() {
        for directory in [
            "web_shop".to_owned(),
            format!("web_shop_{UID}_x"),
            format!("We b_shop_{UID}"),
            format!("web_sh\nop_{UID}"),
            format!("web_-shop_{UID}"),
            format!("_shop_{UID}"),
            format!("{}_shop_{UID}", "n".repeat(64)),
        ] {
            assert_eq!(pod(&directory), None, "{directory:?}");
        }
        let longest = "p".repeat(253);
        let directory = format!("web_{longest}_{UID}");
        assert_eq!(pod(&directory).unwrap().1.name, longest);
        for link in [
            format!("shop_web_app-{ID}"),
            format!("shop_web_app-{}.log", &ID[1..]),
            format!("{ID}.log"),
        ] {
            assert_eq!(id_of(&link), None, "{link}");
        }
        assert_eq!(log(Path::new("/var/log/pods/a_b_c/UP/0.log")), None);
        assert_eq!(log(Path::new("/0.log")), None);
    }
}
