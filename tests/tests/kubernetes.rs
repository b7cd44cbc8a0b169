//! The manifest for Kubernetes, run by podman with the rights and the mounts that it asks for; and what events say of pods.
//!
//! There is no kubelet here: probes are run by the test, and a pod's place among cgroups and logs is made as a kubelet
//! makes it.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod device;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use device::{Device, PATIENCE, Run, RunningAgent, TUNNEL};
use leakguard::host::cgroup2_root;
use leakguard::lab::{Cgroup, address, wait_until};
use leakguard_tests::{DaemonSet, Host, Podman, agent_binary, next_agent_binary};
use serde_json::Value;

const PROBES: usize = 50;
const UID: &str = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";
const ID: &str = "4c01db0b339c8b1d9dd3c9f0f6aeb3a2c6d7b6b1a1e0c9d8f7e6d5c4b3a29180";
const OTHER_UID: &str = "11112222-4f50-6172-8394-a5b6c7d8e9f0";
const OTHER_ID: &str = "ffffdb0b339c8b1d9dd3c9f0f6aeb3a2c6d7b6b1a1e0c9d8f7e6d5c4b3a2ffff";

/// A node: the device, an engine on it, and what the manifest mounts.
struct Cluster {
    podman: Podman,
    daemon_set: DaemonSet,
    device: Device,
}

impl Cluster {
    fn new() -> Self {
        let device = Device::new();
        for name in ["run", "log", "log/pods", "log/containers"] {
            directory(&device.directory().join(name));
        }
        let mut daemon_set = DaemonSet::shipped();
        assert!(daemon_set.config.contains(r#"["wg0"]"#));
        daemon_set.config = daemon_set.config.replace("wg0", TUNNEL);
        Self {
            podman: Podman::new(device.host(), &device.cgroup, &[]),
            daemon_set,
            device,
        }
    }

    /// The arguments of `podman run` for the container of the manifest.
    fn container(&self, name: &str, capabilities: &[String], binary: &Path) -> Vec<String> {
        let files = self.device.directory().join(format!("files-{name}"));
        if !files.exists() {
            directory(&files);
        }
        let node = Host {
            directory: &files,
            bpffs: self.device.bpffs.path(),
            run: &self.device.directory().join("run"),
            logs: &self.device.directory().join("log"),
        };
        let mut all = vec!["--name".to_owned(), name.to_owned()];
        all.extend(self.daemon_set.arguments(&node, capabilities, binary));
        all
    }

    /// Starts the agent of the manifest as this container. The lab's cgroup stands for the node's root.
    fn start(&self, name: &str, capabilities: &[String], binary: &Path) {
        let guarded = self.device.cgroup.path();
        let guarded = guarded.strip_prefix(cgroup2_root().unwrap()).unwrap();
        let cgroup = format!("--cgroup=/sys/fs/cgroup/{}", guarded.display());
        let mut all = vec!["--detach".to_owned()];
        all.extend(self.container(name, capabilities, binary));
        all.extend(self.daemon_set.command(&[&cgroup]));
        self.podman.run_container(&borrowed(&all));
    }

    /// Runs a probe of the manifest in a container, as a kubelet does; its exit code.
    fn probe(&self, name: &str, probe: &str) -> Option<i32> {
        let mut all = vec!["exec".to_owned(), name.to_owned()];
        all.extend(self.daemon_set.probe(probe));
        self.podman.attempt(&borrowed(&all)).status.code()
    }

    /// Waits until a container's readiness probe succeeds.
    #[track_caller]
    fn await_ready(&self, name: &str) {
        let waited = wait_until("the pod is ready", PATIENCE, || {
            Ok(self.probe(name, "readinessProbe") == Some(0))
        });
        assert!(waited.is_ok(), "{waited:?}: {}", self.logs(name));
        for probe in ["startupProbe", "livenessProbe"] {
            assert_eq!(self.probe(name, probe), Some(0), "{probe}");
        }
    }

    /// Runs a command of leakguard in a container that ends with it, and nothing else in it.
    fn once(&self, binary: &Path, command: &[String]) -> Run {
        let capabilities = self.daemon_set.capabilities();
        let mut all = vec!["--rm".to_owned()];
        all.extend(self.container("once", &capabilities, binary));
        all.extend(command.iter().cloned());
        let output = self.podman.attempt_run(&borrowed(&all));
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn stop(&self, name: &str) {
        self.podman.run(&["stop", name]);
        self.podman.run(&["rm", name]);
    }

    /// What a container has written.
    fn logs(&self, name: &str) -> String {
        let output = self.podman.attempt(&["logs", name]);
        [output.stdout, output.stderr]
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .concat()
    }
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// A directory that only root may write.
fn directory(path: &Path) {
    fs::create_dir_all(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_pod_of_the_daemon_set_enforces_with_its_own_rights_and_is_replaced_without_a_gap() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.device.seen(PROBES), (PROBES, PROBES), "control");
    let capabilities = cluster.daemon_set.capabilities();
    cluster.start("old", &capabilities, &agent_binary());
    cluster.await_ready("old");
    assert_eq!(cluster.device.seen(PROBES), (0, 0));
    let status = cluster.device.status();
    assert_eq!(status["level"], "full", "{status}");
    let rights = cluster.podman.run(&[
        "inspect",
        "--format={{.EffectiveCaps}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Privileged}}",
        "old",
    ]);
    assert_eq!(
        rights,
        "[CAP_BPF CAP_NET_ADMIN CAP_PERFMON CAP_SYS_PTRACE] true false"
    );

    let floods = cluster.device.flood();
    for flood in &floods {
        flood.go_on(500);
    }
    cluster.stop("old");
    // What enforces now is nobody's: it says nothing of the pod that is to come.
    let agentless = cluster.once(&agent_binary(), &["leakguard".into(), "status".into()]);
    assert_eq!(agentless.code, Some(0), "{agentless:?}");
    let probe = cluster.daemon_set.probe("readinessProbe");
    let unready = cluster.once(&agent_binary(), &probe);
    assert_eq!(unready.code, Some(3), "{unready:?}");
    assert!(unready.stderr.contains("no agent runs"), "{unready:?}");
    for flood in &floods {
        flood.go_on(500);
    }

    // The next version, and that once more with what comes before `helm uninstall`.
    cluster.start("new", &capabilities, &next_agent_binary());
    cluster.await_ready("new");
    for flood in &floods {
        flood.go_on(500);
    }
    cluster.stop("new");
    let config = &mut cluster.daemon_set.config;
    assert!(config.contains(r#"on_exit = "keep""#));
    *config = config.replace(r#"on_exit = "keep""#, r#"on_exit = "release""#);
    cluster.start("last", &capabilities, &next_agent_binary());
    cluster.await_ready("last");
    for flood in &floods {
        flood.go_on(500);
    }
    for flood in floods {
        let flooded = flood.stop();
        assert!(flooded.rate >= 1000, "{flooded:?}");
    }
    assert_eq!(
        cluster.device.seen_since(),
        (0, 0),
        "since the first was stopped"
    );

    cluster.stop("last");
    cluster.device.assert_nothing_attached();
}

#[test]
fn a_pod_without_one_of_its_capabilities_says_so_and_attaches_nothing() {
    let mut cluster = Cluster::new();
    let all = cluster.daemon_set.capabilities();
    for needed in ["NET_ADMIN", "BPF", "PERFMON"] {
        let less: Vec<_> = all.iter().filter(|name| *name != needed).cloned().collect();
        assert_eq!(less.len(), all.len() - 1, "{needed}");
        cluster.start("less", &less, &agent_binary());
        assert_eq!(cluster.podman.run(&["wait", "less"]), "4", "{needed}");
        let logs = cluster.logs("less");
        assert!(
            logs.contains("CAP_NET_ADMIN, and CAP_BPF with CAP_PERFMON"),
            "{logs}"
        );
        cluster.podman.run(&["rm", "less"]);
        cluster.device.assert_nothing_attached();
    }
    // The fourth is for names.
    let less: Vec<_> = all
        .iter()
        .filter(|name| *name != "SYS_PTRACE")
        .cloned()
        .collect();
    cluster.start("less", &less, &agent_binary());
    cluster.await_ready("less");
    assert_eq!(cluster.device.seen(PROBES), (0, 0));
    cluster.stop("less");
}

/// A pod's cgroup as the kubelet's two drivers make it, and its logs.
struct Pod {
    cgroups: Vec<Cgroup>,
}

impl Pod {
    fn new(parent: &Cgroup, path: &str) -> Self {
        let mut cgroups: Vec<Cgroup> = Vec::new();
        for name in path.split('/') {
            let above = cgroups.last().unwrap_or(parent);
            let known = above.path().join(name);
            assert!(!known.exists(), "{}", known.display());
            cgroups.push(above.below(name).unwrap());
        }
        Self { cgroups }
    }

    /// Asks the ISP for a name from within.
    fn ask(&self, device: &Device, name: &str) {
        let mut dig = device.host().command("dig");
        dig.arg(format!("@{}", address::ISP_RESOLVER_V4));
        dig.args(["+tries=1", "+timeout=1", name]);
        self.cgroups.last().unwrap().attach(&mut dig);
        // It is not answered.
        assert_ne!(Run::of(dig).code, Some(0));
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // The innermost first.
        while self.cgroups.pop().is_some() {}
    }
}

/// What the kubelet makes in `/var/log` for a container.
fn log(logs: &Path, [namespace, pod, container]: [&str; 3], uid: &str, id: &str) {
    let of_pod = format!("pods/{namespace}_{pod}_{uid}");
    directory(&logs.join(&of_pod).join(container));
    let log = format!("/var/log/{of_pod}/{container}/0.log");
    let link = format!("containers/{pod}_{namespace}_{container}-{id}.log");
    symlink(log, logs.join(link)).unwrap();
}

/// The event of a question.
#[track_caller]
fn event(device: &Device, name: &str) -> Value {
    let mut found = None;
    wait_until("the question is told of", PATIENCE, || {
        let events = device.leakguard(&["events", "--json"]);
        let mut events = events
            .ok()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        found = events.find(|event| event["query"]["name"] == format!("{name}."));
        Ok(found.is_some())
    })
    .unwrap();
    found.unwrap()
}

/// Two pods, of which the second has no logs, and what events say of them.
#[track_caller]
fn asks_are_named(device: &Device, logs: &Path) -> [Value; 2] {
    let slice = format!(
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-{ID}.scope",
        UID.replace('-', "_")
    );
    let first = Pod::new(&device.cgroup, &slice);
    let second = Pod::new(
        &device.cgroup,
        &format!("kubepods/besteffort/pod{OTHER_UID}/{OTHER_ID}"),
    );
    log(logs, ["web", "shop-7d4f", "app"], UID, ID);
    first.ask(device, "first.test");
    second.ask(device, "second.test");
    let found = ["first.test", "second.test"].map(|name| event(device, name));
    let [named, unnamed] = &found;
    for (key, value) in [
        ("id", ID),
        ("runtime", "containerd"),
        ("pod", UID),
        ("pod_name", "shop-7d4f"),
        ("pod_namespace", "web"),
        ("name", "app"),
    ] {
        assert_eq!(named["container"][key], value, "{key}: {named:#}");
    }
    let path = named["cgroup"].as_str().unwrap();
    assert!(path.ends_with(&slice) && !path.contains(".."), "{named:#}");
    let lab = device
        .cgroup
        .path()
        .strip_prefix(cgroup2_root().unwrap())
        .unwrap();
    assert_eq!(path, format!("/{}/{slice}", lab.display()), "{named:#}");
    assert_eq!(unnamed["container"]["pod"], OTHER_UID, "{unnamed:#}");
    assert_eq!(unnamed["container"]["id"], OTHER_ID, "{unnamed:#}");
    for key in ["pod_name", "pod_namespace", "name"] {
        assert_eq!(unnamed["container"][key], Value::Null, "{unnamed:#}");
    }
    found
}

#[test]
fn an_agent_in_a_pod_names_pods_without_the_right_to_read_every_file() {
    let cluster = Cluster::new();
    cluster.start("agent", &cluster.daemon_set.capabilities(), &agent_binary());
    cluster.await_ready("agent");
    asks_are_named(&cluster.device, &cluster.device.directory().join("log"));
    cluster.stop("agent");
}

/// The agent where `/var/log` is this directory, in a cgroup namespace that begins at this cgroup.
fn in_namespaces(device: &Device, logs: &Path, cgroup: &Cgroup) -> RunningAgent {
    let script = device.script(
        "in-namespaces",
        &format!(
            "exec unshare --cgroup --mount sh -ec 'mount --bind {} /var/log; exec {} \"$@\"' sh \"$@\"",
            logs.display(),
            agent_binary().display()
        ),
    );
    let mut command = device.command_of(script, &["run", "--tunnel", TUNNEL]);
    cgroup.attach(&mut command);
    device.await_agent(RunningAgent::spawn(command, device.directory()))
}

#[test]
fn pods_are_named_from_another_cgroup_namespace_and_forged_directories_name_nobody() {
    let device = Device::new();
    let logs: PathBuf = device.directory().join("log");
    for name in ["pods", "containers"] {
        directory(&logs.join(name));
    }
    // As deep as a pod's, with a neighbour that it has a part of its path in common with.
    let own = Pod::new(&device.cgroup, "kubepods.own/burstable/pod/agent");
    let agent = in_namespaces(&device, &logs, own.cgroups.last().unwrap());
    let [named, _] = asks_are_named(&device, &logs);
    assert_eq!(named["process"]["name"], "dig", "{named:#}");
    assert!(
        named["process"]["exe"].as_str().unwrap().ends_with("/dig"),
        "{named:#}"
    );

    // Another directory that claims the same pod.
    let uid = UID.replace("0b1c2d3e", "0b1c2d3f");
    let path = format!("kubepods/pod{uid}/{OTHER_ID}");
    let third = Pod::new(&device.cgroup, &path);
    log(&logs, ["web", "shop", "app"], &uid, OTHER_ID);
    log(&logs, ["kube-system", "coredns", "coredns"], &uid, ID);
    third.ask(&device, "third.test");
    let unnamed = event(&device, "third.test");
    assert_eq!(unnamed["container"]["pod"], uid, "{unnamed:#}");
    for key in ["pod_name", "pod_namespace", "name"] {
        assert_eq!(unnamed["container"][key], Value::Null, "{unnamed:#}");
    }
    drop(agent);
}
