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
mount -t tmpfs tmpfs /mnt
printf 'nameserver %s\noptions timeout:%s attempts:1\n' "$1" "$2" >/mnt/resolv.conf
resolv=$(readlink -m /etc/resolv.conf)
[ -e "$resolv" ] || { mount -t tmpfs tmpfs "${resolv%/*}" && : >"$resolv"; }
mount --bind /mnt/resolv.conf "$resolv"
printf 'hosts: dns\n' >/mnt/nsswitch.conf
mount --bind /mnt/nsswitch.conf /etc/nsswitch.conf
shift 2
exec "$@"
"#;
    let mut command = netns.command("unshare");
    bench.cgroup.attach(&mut command);
    command
        .args(["--mount", "sh", "-ec", SCRIPT, "sh", resolver])
        .arg(time_out.as_secs().to_string())
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
    let (source, program) = write(directory, "musl.c", SOURCE);
    let mut compile = Command::new("musl-gcc");
    compile.arg("-static").arg("-o").arg(&program).arg(&source);
    succeed(compile);
    program
}

/// Makes a program that resolves a name with c-ares.
pub fn cares_program(directory: &Path) -> PathBuf {
    const SOURCE: &str = r"
#include <ares.h>
#include <sys/select.h>
static int failed = 1;
static void done(void *argument, int status, int timeouts, struct ares_addrinfo *found) {
    failed = status != ARES_SUCCESS;
}
int main(int argc, char **argv) {
    struct ares_addrinfo_hints hints = {0};
    ares_channel channel;
    ares_library_init(ARES_LIB_INIT_ALL);
    if (ares_init(&channel) != ARES_SUCCESS) return 2;
    ares_getaddrinfo(channel, argv[1], 0, &hints, done, 0);
    for (;;) {
        fd_set readable, writable;
        FD_ZERO(&readable);
        FD_ZERO(&writable);
        int count = ares_fds(channel, &readable, &writable);
        if (!count) return failed;
        struct timeval room, *wait = ares_timeout(channel, 0, &room);
        select(count, &readable, &writable, 0, wait);
        ares_process(channel, &readable, &writable);
    }
}
";
    let (source, program) = write(directory, "cares.c", SOURCE);
    let mut compile = Command::new("gcc");
    compile.arg("-o").arg(&program).arg(&source).arg("-lcares");
    succeed(compile);
    program
}

/// Makes a program that resolves a name with Go's own resolver.
pub fn go_program(directory: &Path) -> PathBuf {
    const SOURCE: &str = r#"
package main

import (
	"context"
	"net"
	"os"
)

func main() {
	resolver := &net.Resolver{PreferGo: true}
	if _, err := resolver.LookupHost(context.Background(), os.Args[1]); err != nil {
		os.Exit(1)
	}
}
"#;
    let (source, program) = write(directory, "pure.go", SOURCE);
    let mut compile = Command::new("go");
    // Nothing of the developer's is read or written.
    compile
        .args(["build", "-o"])
        .arg(&program)
        .arg(&source)
        .env("GOCACHE", directory.join("cache"))
        .env("GOENV", "off")
        .env("GO111MODULE", "off");
    succeed(compile);
    program
}

/// Writes a program's source; says where, and where the program goes.
fn write(directory: &Path, file: &str, source: &str) -> (PathBuf, PathBuf) {
    let path = directory.join(file);
    fs::write(&path, source).unwrap();
    let program = path.with_extension("program");
    (path, program)
}

fn succeed(compile: Command) {
    let output = output_within(compile, LIMIT).unwrap();
    assert!(output.status.success(), "{output:?}");
}
