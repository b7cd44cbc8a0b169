//! The image, run by podman and runc with the privileges that docs/install.md states, and without each of them.

use std::{fs, process::id, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    dist::{Packages, Release},
    nspawn,
    process::Cmd,
    test::libtest::Tally,
};

const LIMIT: Duration = Duration::from_mins(5);

/// What the container may do, as docs/install.md says.
const PRIVILEGES: &str = "CAP_BPF CAP_NET_ADMIN CAP_PERFMON CAP_SYS_PTRACE";

/// What is done with the image.
const SCRIPT: &str = concat!(
    include_str!("../../nspawn/guest/steps.sh"),
    include_str!("../guest/image.sh")
);

/// Runs the rest of its arguments in a cgroup of their own, whatever they start included; nothing outlives the last line.
///
/// They have no process numbers of their own: an agent finds processes by those of the host.
const IN_A_CGROUP: &str = r#"
set -eu
top=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
own=$top/$1
shift
mkdir "$own"
leave() {
    echo 1 >"$own/cgroup.kill"
    # The kernel needs a moment to see that its processes are gone.
    for _ in $(seq 200); do
        find "$own" -depth -type d -exec rmdir {} + 2>/dev/null && break
        sleep 0.05
    done
}
trap leave EXIT
trap 'exit 143' HUP INT TERM
(echo 0 >"$own/cgroup.procs" && exec "$@") &
wait $!
"#;

pub(super) fn check(release: &Release, packages: &Packages) -> Result<Tally> {
    let logs = release.fresh("check/image")?;
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let machine = Cmd::new("sh", LIMIT)
        .args(["-c", IN_A_CGROUP, "sh"])
        .arg(format!("leakguard-dist-{}", id()))
        .args(["unshare", "--cgroup", "--net", "--mount"])
        .args(["sh", "-c", SCRIPT, "image"])
        .arg(&packages.image)
        .arg(format!("localhost/leakguard:{}", release.version))
        .arg(&logs)
        .arg(PRIVILEGES)
        .label("the image in a container")
        .privileged();
    nspawn::watch("dist", "image", &machine, &logs)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::workspace::root;

    #[test]
    fn the_document_states_the_privileges_that_are_tested() {
        let text = fs::read_to_string(root().join("docs/install.md")).unwrap();
        for privilege in PRIVILEGES.split(' ') {
            assert!(
                text.contains(&format!("--cap-add={privilege}")),
                "{privilege}"
            );
        }
    }
}
