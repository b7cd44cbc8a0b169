//! The image for containers, in the layout that the Open Container Initiative describes: one layer with the program and the
//! three that it calls. There is no shell in it, no package manager, and nothing of a registry.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    dist::{
        Release, archive,
        stage::{DOCUMENTS, PROGRAM, Tree},
    },
    process::{Cmd, find_program},
    setup::toolchain::STATIC_TARGET,
};

const LIMIT: Duration = Duration::from_mins(2);

/// What the agent calls, out of this machine's Debian packages: `nft` for the second net and redirection, `wg` for handshakes,
/// `ip` for `verify`.
const PROGRAMS: [&str; 3] = ["ip", "nft", "wg"];

/// Directories that something is mounted on, or that somebody writes to.
const DIRECTORIES: [&str; 9] = [
    "dev",
    "etc/leakguard",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/lib/leakguard",
    "var/log/leakguard",
    "var/lib/dpkg/status.d",
];

/// Files that are made here.
const FILES: [(&str, &str); 3] = [
    ("etc/passwd", "root:x:0:0:root:/:/nonexistent\n"),
    ("etc/group", "root:x:0:\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
];

/// Kinds of files, as registries know them.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Makes the image as an archive that `podman load` and `skopeo copy oci-archive:…` read.
pub(super) fn build(release: &Release, tree: &Tree, directory: &Path) -> Result<PathBuf> {
    let root = release.fresh("image/root")?;
    fill(tree, &root)?;
    let layout = release.fresh("image/layout")?;
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot create {}", blobs.display()))?;

    let tar = layout.join("layer.tar");
    archive::tar(release, &root, &tar, None)?;
    let unpacked = archive::sha256(&tar)?;
    archive::gzip(&tar)?;
    let layer = blob(&blobs, &layout.join("layer.tar.gz"), LAYER)?;
    let config = json_blob(&blobs, &config(release, &unpacked)?, CONFIG)?;
    let manifest = json_blob(
        &blobs,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
            "annotations": labels(release),
        }),
        MANIFEST,
    )?;
    let mut listed = manifest;
    listed["platform"] = json!({"architecture": architecture(), "os": "linux"});
    // The name under which it is loaded.
    listed["annotations"] = json!({
        "org.opencontainers.image.ref.name": format!("localhost/leakguard:{}", release.version),
    });
    write_json(
        &layout.join("index.json"),
        &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [listed]}),
    )?;
    write_json(
        &layout.join("oci-layout"),
        &json!({"imageLayoutVersion": "1.0.0"}),
    )?;
    let file = directory.join(format!(
        "leakguard-{}-{}.oci.tar",
        release.version,
        architecture()
    ));
    archive::tar(release, &layout, &file, None)?;
    Ok(file)
}

/// The name that registries have for this architecture.
fn architecture() -> &'static str {
    if STATIC_TARGET.starts_with("aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

fn labels(release: &Release) -> Value {
    json!({
        "org.opencontainers.image.title": "leakguard",
        "org.opencontainers.image.description": "DNS leak protection for Linux, enforced in the kernel",
        "org.opencontainers.image.version": release.version,
        "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
    })
}

fn config(release: &Release, unpacked: &str) -> Result<Value> {
    let created = release.timestamp()?;
    Ok(json!({
        "created": created,
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/bin/leakguard"],
            "Cmd": ["run"],
            "Env": ["PATH=/usr/sbin:/usr/bin"],
            "WorkingDir": "/",
            "User": "0:0",
            "StopSignal": "SIGTERM",
            "Labels": labels(release),
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{unpacked}")]},
        "history": [{"created": created, "created_by": "cargo xtask dist"}],
    }))
}

/// Lays out the layer's files.
fn fill(tree: &Tree, root: &Path) -> Result<()> {
    for directory in DIRECTORIES
        .into_iter()
        .chain(["usr/bin", "usr/sbin", "usr/lib", "usr/lib64"])
    {
        fs::create_dir_all(root.join(directory))
            .with_context(|| format!("cannot create {directory}"))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(Path::new("usr").join(name), root.join(name))
            .with_context(|| format!("cannot link {name}"))?;
    }
    for (name, text) in FILES {
        fs::write(root.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    copy(&tree.root.join(PROGRAM), root, Path::new(PROGRAM))?;
    for name in [
        "third-party.txt",
        "rust-library.html",
        "LICENSE-APACHE",
        "LICENSE-MIT",
    ] {
        let place = Path::new(DOCUMENTS).join(name);
        copy(&tree.root.join(&place), root, &place)?;
    }
    let mut packages = BTreeSet::new();
    for name in PROGRAMS {
        let program = find_program(name).with_context(|| format!("there is no {name}"))?;
        let program = canonical(&program)?;
        for file in libraries(&program)?.into_iter().chain([program]) {
            packages.insert(package(&file)?);
            copy(&file, root, file.strip_prefix("/").unwrap_or(&file))?;
        }
    }
    packages
        .into_iter()
        .try_for_each(|name| describe(&name, root))
}

/// A file's place without links on the way to it; its own name stays, which for a library is the one that programs ask for.
fn canonical(file: &Path) -> Result<PathBuf> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    let directory = directory
        .canonicalize()
        .with_context(|| format!("cannot find {}", directory.display()))?;
    Ok(directory.join(file.file_name().unwrap_or_default()))
}

/// The libraries that a program is loaded with, and the loader.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = Cmd::new("ldd", LIMIT).arg(program).output()?;
    said.lines()
        .flat_map(str::split_whitespace)
        .filter(|word| word.starts_with('/'))
        .map(|word| canonical(Path::new(word)))
        .collect()
}

/// Debian's package that a file is of.
fn package(file: &Path) -> Result<String> {
    let path = file.display().to_string();
    // Packages still name files by their places from before `/lib` became a link.
    let before = path.strip_prefix("/usr").unwrap_or(&path).to_owned();
    let owner = |path: &str| {
        Cmd::new("dpkg-query", LIMIT)
            .arg("--search")
            .arg(path)
            .output()
    };
    let said = owner(&path).or_else(|_| owner(&before))?;
    let (package, _) = said
        .split_once(": ")
        .with_context(|| format!("nobody knows of which package {path} is"))?;
    Ok(package.to_owned())
}

/// Says which version of a package something is of, where scanners of images look for it, and whose it is.
fn describe(package: &str, root: &Path) -> Result<()> {
    let status = Cmd::new("dpkg-query", LIMIT)
        .args(["--status", package])
        .output()?;
    let name = package.split(':').next().unwrap_or(package);
    let place = root.join("var/lib/dpkg/status.d").join(name);
    fs::write(&place, status).with_context(|| format!("cannot write {}", place.display()))?;
    let copyright = Path::new("usr/share/doc").join(name).join("copyright");
    copy(&Path::new("/").join(&copyright), root, &copyright)
}

/// Copies what `source` is or leads to, to a place below `root`.
fn copy(source: &Path, root: &Path, place: &Path) -> Result<()> {
    let target = root.join(place);
    let directory = target.parent().unwrap_or(root);
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    fs::copy(source, &target)
        .map(drop)
        .with_context(|| format!("cannot copy {}", source.display()))
}

/// Puts a file where its checksum says; returns how others refer to it.
fn blob(blobs: &Path, file: &Path, kind: &str) -> Result<Value> {
    let digest = archive::sha256(file)?;
    let size = fs::metadata(file)
        .with_context(|| format!("cannot find {}", file.display()))?
        .len();
    fs::rename(file, blobs.join(&digest))
        .with_context(|| format!("cannot move {}", file.display()))?;
    Ok(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size}))
}

fn json_blob(blobs: &Path, value: &Value, kind: &str) -> Result<Value> {
    let file = blobs.join("new");
    write_json(&file, value)?;
    blob(blobs, &file, kind)
}

fn write_json(file: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string(value).context("cannot write JSON")?;
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
