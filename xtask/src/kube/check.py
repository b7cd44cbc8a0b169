"""Looks at the Helm chart and the manifests: with Helm's own engine, the schemas of Kubernetes and of the Prometheus
operator, and checkov. Prints `ok …` or `FAILED …` for each thing looked at, and `end`.

Arguments: the directory deploy/kubernetes, the agent's binary, an empty directory, and `check` or `write`.
"""

import copy
import json
import subprocess
import sys
from pathlib import Path

import helm_python as helm
import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator.v1 import PodMonitor

DEPLOY, AGENT, WORK, WHAT = (
    Path(sys.argv[1]),
    sys.argv[2],
    Path(sys.argv[3]),
    sys.argv[4],
)
CHART = DEPLOY / "chart/leakguard"
MANIFESTS = DEPLOY / "manifests"
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
HEAD = """# The chart with its default values and the tunnel wg0: made by `cargo xtask kube --write`, not by hand. Which interface
# is the tunnel is said below, in the ConfigMap.
"""

# What checkov says of every agent that guards a node, and why it stays.
ACCEPTED = {
    "CKV_K8S_11": "a limit on CPU would let an agent miss new interfaces while the node is busy",
    "CKV_K8S_15": "the image may have been loaded onto the nodes, without a registry",
    "CKV_K8S_17": "hostPID: events name processes of the node",
    "CKV_K8S_19": "hostNetwork: the node's interfaces are what is guarded",
    "CKV_K8S_23": "root: the pins and the control socket are root's",
    "CKV_K8S_25": "capabilities: each is needed, which a test shows",
    "CKV_K8S_40": "root, as above",
    "CKV_K8S_43": "the digest is the user's to say (image.digest)",
}

BASE = {"tunnels": ["wg0"]}
MONITORED = {
    **BASE,
    "metrics": {"enabled": True, "labels": {"region": "eu", "rack": 3}},
    "service": {"enabled": True},
    "podMonitor": {"enabled": True},
    "networkPolicy": {"enabled": True},
}
SETS = {
    "default": BASE,
    "monitored": MONITORED,
    "nobody scrapes": {**MONITORED, "networkPolicy": {"enabled": True, "from": []}},
    "observe": {**BASE, "mode": "observe", "onExit": "release", "logFormat": "text"},
    "more configuration": {
        **BASE,
        "tunnels": ["wg0", "any:flannel-wg", "tun*"],
        "config": '[dns]\nports = [5300]\n\n[kill_switch]\nmode = "tunnel-down"\n',
    },
    "another seccomp profile": {
        **BASE,
        "seccompProfile": {"type": "Localhost", "localhostProfile": "leakguard.json"},
        "appArmorProfile": None,
        "seLinuxOptions": {"type": "spc_t"},
        "image": {"digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "hostPaths": {"podLogs": "", "containerLogs": ""},
    },
    **{
        f"profile {path.stem}": yaml.safe_load(path.read_text())
        for path in sorted((CHART / "profiles").glob("*.yaml"))
    },
}
REFUSED = {
    "no tunnel": {},
    "an empty tunnel": {"tunnels": [""]},
    "an unknown key": {**BASE, "tunnel": "wg0"},
    "an unknown mode": {**BASE, "mode": "off"},
    "a metrics port of 0": {**BASE, "metrics": {"enabled": True, "port": 0}},
    "no NET_ADMIN": {**BASE, "capabilities": ["BPF"]},
    "a profile without a name": {**BASE, "seccompProfile": {"type": "Localhost"}},
    "two tables [metrics]": {**BASE, "config": "[metrics]\n"},
}


def expect(name, found, wanted=None):
    """Says whether what was found is what was wanted: nothing, unless told otherwise."""
    good = not found if wanted is None else found == wanted
    print(f"ok {name}" if good else f"FAILED {name}: {found}", flush=True)


def complaint(action):
    """What an action that is refused complains of; nothing, if it is not."""
    try:
        action()
    except Exception as error:  # noqa: BLE001: every refusal counts
        return f"{type(error).__name__}: {error}"[:600]
    return None


def render(chart, values):
    chart.validate_schema(values)
    files = chart.render(values, name="leakguard", namespace="leakguard")
    texts = [
        text.strip()
        for path, text in sorted(files.items())
        if path.endswith(".yaml") and text.strip()
    ]
    return "\n---\n".join(texts) + "\n"


def without_helm(text):
    """A rendering without the labels by which Helm knows what it has installed."""
    own = ("helm.sh/chart:", "app.kubernetes.io/managed-by:")
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.strip().startswith(own))


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def validate(document, version):
    """What the schema of a kind says; a key that it does not know is an error."""
    if document["kind"] != "PodMonitor":
        kubernetes_validate.validate(document, version, strict=True)
        return
    monitor = PodMonitor.model_validate(document)
    told = monitor.model_dump(by_alias=True, exclude_unset=True, mode="json")
    if told != document:
        raise ValueError(f"keys that are not known: {document}")


def config_of(parts):
    (text,) = [
        part["data"]["leakguard.toml"] for part in parts if part["kind"] == "ConfigMap"
    ]
    return text


def config_check(parts):
    file = WORK / "leakguard.toml"
    file.write_text(config_of(parts))
    file.chmod(0o444)
    run = subprocess.run(
        [AGENT, "config", "check", str(file)], capture_output=True, text=True, check=False
    )
    file.unlink()
    return run.stderr if run.returncode else None


def pods_of(parts):
    (pod,) = [part["spec"]["template"] for part in parts if part["kind"] == "DaemonSet"]
    return pod


def checkov(text):
    """The checks that fail."""
    file = WORK / "checked.yaml"
    file.write_text(text)
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("checkov")),
            "--file",
            str(file),
            "--framework",
            "kubernetes",
            "--output=json",
            "--quiet",
            "--compact",
            "--skip-download",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    file.unlink()
    report = json.loads(run.stdout)
    if not report["summary"]["passed"]:
        raise ValueError(f"checkov has looked at nothing: {run.stdout}{run.stderr}")
    return {check["check_id"] for check in report["results"]["failed_checks"]}


def look_at(chart):
    for name, values in SETS.items():
        findings = helm.lint(str(CHART), values)["messages"]
        serious = [finding for finding in findings if finding["severity"] > 1]
        expect(f"lint: {name}", serious)
    for name, values in REFUSED.items():
        expect(f"refused: {name}", complaint(lambda: render(chart, values)) is None, False)
    for name, values in SETS.items():
        parts = documents(render(chart, values))
        complaints = [
            f"{part['kind']} {version}: {found}"
            for part in parts
            for version in VERSIONS
            if (found := complaint(lambda: validate(part, version)))
        ]
        expect(f"schemas of {VERSIONS[0]} to {VERSIONS[-1]}: {name}", complaints)
        expect(f"leakguard config check: {name}", config_check(parts))
    parts = documents(render(chart, MONITORED))
    kinds = sorted(part["kind"] for part in parts)
    expect(
        "every kind is made",
        kinds,
        ["ConfigMap", "DaemonSet", "NetworkPolicy", "PodMonitor", "Service", "ServiceAccount"],
    )
    for part in parts:
        wrong = copy.deepcopy(part)
        {"ConfigMap": wrong, "ServiceAccount": wrong}.get(wrong["kind"], wrong.get("spec", {}))[
            "surprise"
        ] = 1
        found = complaint(lambda: validate(wrong, VERSIONS[-1]))
        expect(f"refused: a {part['kind']} with a key that there is not", found is None, False)
    unlike = {**BASE, "config": "[dns]\nblok = []\n"}
    found = config_check(documents(render(chart, unlike)))
    expect("refused: a configuration with a key that there is not", found is None, False)

    sums = {
        pods_of(documents(render(chart, values)))["metadata"]["annotations"]["checksum/config"]
        for values in (BASE, {**BASE, "mode": "observe"}, {**BASE, "tunnels": ["wg1"]})
    }
    expect("another configuration is another pod", len(sums), 3)
    same = pods_of(documents(render(chart, {**BASE, "updateStrategy": {"type": "OnDelete"}})))
    expect(
        "the same configuration is the same pod",
        same,
        pods_of(documents(render(chart, BASE))),
    )
    expect("checkov", checkov(render(chart, MONITORED)), set(ACCEPTED))
    insecure = render(chart, BASE).replace("privileged: false", "privileged: true")
    found = "CKV_K8S_16" in checkov(insecure)
    expect("checkov finds a privileged container", found, True)


def main():
    with helm.Chart.load(str(CHART)) as chart:
        rendered = HEAD + without_helm(render(chart, BASE))
        manifest = MANIFESTS / "leakguard.yaml"
        if WHAT == "write":
            manifest.write_text(rendered)
        print(f"Helm {helm.helm_sdk_version()}", flush=True)
        expect("the manifests are the chart", manifest.read_text() == rendered, True)
        beside = {path.name for path in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml"}
        named = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
        expect("kustomization.yaml names every manifest", set(named), beside)
        for path in sorted(MANIFESTS.glob("*.yaml")):
            if path.name == "kustomization.yaml":
                continue
            for part in documents(path.read_text()):
                found = complaint(lambda: validate(part, VERSIONS[-1]))
                expect(f"{path.name}: {part['kind']}", found)
        look_at(chart)
    print("end", flush=True)


main()
