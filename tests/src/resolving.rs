//! Programs that resolve names by a C library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use leakguard::lab::{Netns, output_within};

use super::Bench;

/// How long a compiler may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A command that runs a program in a namespace and in the guarded cgroup, with a resolver of its own in
/// `/etc/resolv.conf` that is asked once and waited for so long.
pub fn with_resolver(
    bench: &Bench,
    netns: &Netns,
    resolver: &str,
    time_out: Duration,
    program: &[&str],
) -> Command {
    const SCRIPT: &str = r#"
printf 'nameserver %s\noptions timeout:%s attempts:1\n' "$1" "$2" >"$3/resolv.conf"
resolv=$(readlink -m /etc/resolv.conf)
[ -e "$resolv" ] || { mount -t tmpfs tmpfs "${resolv%/*}" && : >"$resolv"; }
mount --bind "$3/resolv.conf" "$resolv"
printf 'hosts: dns\n' >"$3/nsswitch.conf"
mount --bind "$3/nsswitch.conf" /etc/nsswitch.conf
shift 3
exec "$@"
"#;
    let scratch = tempfile::tempdir().unwrap().keep();
    let mut command = netns.command("unshare");
    bench.cgroup.attach(&mut command);
    command
        .args(["--mount", "sh", "-ec", SCRIPT, "sh", resolver])
        .arg(time_out.as_secs().to_string())
        .arg(scratch)
        .args(program);
    command
}

/// Makes a program that resolves a name with musl's resolver.
pub fn musl_program(directory: &Path) -> PathBuf {
    const SOURCE: &str = r"
#include <netdb.h>
int main(int argc, char **argv) {
    struct addrinfo *found;
    return getaddrinfo(argv[1], 0, 0, &found) != 0;
}
";
    let (source, program) = (directory.join("musl.c"), directory.join("musl-resolver"));
    fs::write(&source, SOURCE).unwrap();
    let mut compile = Command::new("musl-gcc");
    compile.arg("-static").arg("-o").arg(&program).arg(&source);
    let output = output_within(compile, LIMIT).unwrap();
    assert!(output.status.success(), "{output:?}");
    program
}
