//! The `DaemonSet` for Kubernetes, as arguments of podman: what a kubelet would ask of its runtime, as far as it goes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use leakguard::host::find_program;
use leakguard::lab::output_within;
use serde_json::Value;

/// How long reading a file may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Where the manifests are.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes");

/// Prints the documents of a YAML file as a list in JSON.
const TO_JSON: &str =
    "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";

/// The shipped manifest.
#[derive(Debug)]
pub struct DaemonSet {
    pod: Value,
    /// What the `ConfigMap` holds.
    pub config: String,
}

/// What a node has for it.
#[derive(Clone, Copy, Debug)]
pub struct Host<'lab> {
    /// A directory for files of the container.
    pub directory: &'lab Path,
    /// In place of `/sys/fs/bpf`.
    pub bpffs: &'lab Path,
    /// In place of `/run/leakguard`.
    pub run: &'lab Path,
    /// In place of `/var/log`.
    pub logs: &'lab Path,
}

impl DaemonSet {
    /// Reads it.
    pub fn shipped() -> Self {
        // Debian's own, which has the module.
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", TO_JSON]);
        command.arg(Path::new(DEPLOY).join("manifests/leakguard.yaml"));
        let output = output_within(command, LIMIT).unwrap();
        let documents: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let only = |kind: &str| {
            let mut found = documents.iter().filter(|found| found["kind"] == kind);
            let first = found.next().unwrap();
            assert!(found.next().is_none(), "two of the kind {kind}");
            first
        };
        let config = &only("ConfigMap")["data"]["leakguard.toml"];
        Self {
            pod: only("DaemonSet")["spec"]["template"]["spec"].clone(),
            config: config.as_str().unwrap().to_owned(),
        }
    }

    /// The filter of system calls that is shipped.
    pub fn seccomp() -> PathBuf {
        Path::new(DEPLOY).join("seccomp/leakguard.json")
    }

    fn container(&self) -> &Value {
        let containers = self.pod["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1);
        assert!(self.pod.get("initContainers").is_none());
        &containers[0]
    }

    /// The capabilities that it adds to none.
    pub fn capabilities(&self) -> Vec<String> {
        let capabilities = &self.container()["securityContext"]["capabilities"];
        assert_eq!(capabilities["drop"], serde_json::json!(["ALL"]));
        words(&capabilities["add"])
    }

    /// The command of a probe: `readinessProbe` and the like.
    pub fn probe(&self, name: &str) -> Vec<String> {
        words(&self.container()[name]["exec"]["command"])
    }

    /// What the container runs, with more arguments.
    pub fn command(&self, more: &[&str]) -> Vec<String> {
        let container = self.container();
        let mut all = [words(&container["command"]), words(&container["args"])].concat();
        all.extend(more.iter().map(|&word| word.to_owned()));
        all
    }

    /// Arguments of `podman run`, up to the command: the rights and the mounts of the manifest, with the capabilities
    /// given, on a root of its own with this binary.
    pub fn arguments(
        &self,
        node: &Host<'_>,
        capabilities: &[String],
        binary: &Path,
    ) -> Vec<String> {
        let mut all = self.rights(capabilities);
        let container = self.container();
        let config = write(node.directory, "config", |directory| {
            fs::write(directory.join("leakguard.toml"), &self.config).unwrap();
        });
        for mount in container["volumeMounts"].as_array().unwrap() {
            let source = match self.volume(mount["name"].as_str().unwrap()) {
                None => config.clone(),
                Some("/sys/fs/bpf") => node.bpffs.to_owned(),
                Some("/run/leakguard") => node.run.to_owned(),
                Some("/sys/fs/cgroup") => "/sys/fs/cgroup".into(),
                Some(path) => {
                    let below = Path::new(path).strip_prefix("/var/log").unwrap();
                    node.logs.join(below)
                }
            };
            let target = mount["mountPath"].as_str().unwrap();
            let suffix = if mount["readOnly"] == true { ":ro" } else { "" };
            all.push(format!("--volume={}:{target}{suffix}", source.display()));
        }
        all.push(format!(
            "--volume={}:/usr/bin/leakguard:ro",
            binary.display()
        ));
        let root = write(node.directory, "root", fill_root);
        all.extend(["--rootfs".to_owned(), root.to_str().unwrap().to_owned()]);
        all
    }

    /// What it may do, and what it sees of the host. What this does not know is an error.
    fn rights(&self, capabilities: &[String]) -> Vec<String> {
        assert_eq!(self.pod["hostNetwork"], true);
        assert_eq!(self.pod["hostPID"], true);
        assert_eq!(
            self.pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        let context = self.container()["securityContext"].as_object().unwrap();
        let known = BTreeSet::from([
            "allowPrivilegeEscalation",
            "appArmorProfile",
            "capabilities",
            "privileged",
            "readOnlyRootFilesystem",
            "runAsGroup",
            "runAsUser",
        ]);
        assert_eq!(
            context.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            known
        );
        for (key, value) in [
            ("privileged", false),
            ("allowPrivilegeEscalation", false),
            ("readOnlyRootFilesystem", true),
        ] {
            assert_eq!(context[key], value, "{key}");
        }
        let mut all: Vec<String> = [
            "--network=host",
            "--pid=host",
            // What runtimes give on cgroup2.
            "--cgroupns=private",
            "--security-opt=no-new-privileges",
            "--read-only",
            "--read-only-tmpfs=false",
            "--cap-drop=ALL",
        ]
        .map(str::to_owned)
        .into();
        all.push(format!(
            "--user={}:{}",
            context["runAsUser"], context["runAsGroup"]
        ));
        all.push(format!(
            "--security-opt=seccomp={}",
            Self::seccomp().display()
        ));
        all.push(format!(
            "--stop-timeout={}",
            self.pod["terminationGracePeriodSeconds"]
        ));
        all.extend(capabilities.iter().map(|name| format!("--cap-add={name}")));
        all
    }

    /// Where on the node a volume is; `None` of the configuration.
    fn volume(&self, name: &str) -> Option<&str> {
        let volumes = self.pod["volumes"].as_array().unwrap();
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == name)
            .unwrap();
        let host = volume.get("hostPath");
        assert!(
            host.is_some() || volume.get("configMap").is_some(),
            "{volume}"
        );
        host.map(|host| host["path"].as_str().unwrap())
    }
}

fn words(list: &Value) -> Vec<String> {
    let words = list.as_array().unwrap().iter();
    words
        .map(|word| word.as_str().unwrap().to_owned())
        .collect()
}

/// Makes a directory once more, and fills it.
fn write(parent: &Path, name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let directory = parent.join(name);
    if directory.exists() {
        fs::remove_dir_all(&directory).unwrap();
    }
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    fill(&directory);
    directory
}

/// What the agent needs besides itself: nft, and the libraries of both.
fn fill_root(root: &Path) {
    for name in [
        "etc/leakguard",
        "proc",
        "sys",
        "dev",
        "run/leakguard",
        "var/log",
        "tmp",
        "usr/bin",
    ] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("usr/bin/leakguard"), "").unwrap();
    let nft = find_program("nft").unwrap();
    fs::copy(&nft, root.join("usr/bin/nft")).unwrap();
    for program in [&nft, &super::agent_binary()] {
        let mut ldd = Command::new("ldd");
        ldd.arg(program);
        let output = output_within(ldd, LIMIT).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            let library = Path::new(library);
            let copy = root.join(library.strip_prefix("/").unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(library, copy).unwrap();
        }
    }
}
