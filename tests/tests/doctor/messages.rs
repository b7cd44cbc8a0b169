//! What programs really print when names do not resolve under leakguard is in the table, and the counters speak for it.

use std::fs;
use std::path::Path;
use std::process::Command;

use leakguard::lab::{Daemon, LAB_NAME, output_within, wait_until};

use serde_json::Value;

use crate::machine::{Machine, PATIENCE};

/// A program, and the message that it prints.
struct Said {
    program: String,
    message: &'static str,
}

fn said(program: impl Into<String>, message: &'static str) -> Said {
    Said {
        program: program.into(),
        message,
    }
}

/// Makes a program that says what its C library's resolver says.
fn library_program(compiler: &str, directory: &Path) -> String {
    const SOURCE: &str = r"
#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv) {
    struct addrinfo *found;
    int error = getaddrinfo(argv[1], 0, 0, &found);
    if (error) fprintf(stderr, gai_strerror(error));
    return error != 0;
}
";
    let (source, program) = (directory.join("look.c"), directory.join(compiler));
    fs::write(&source, SOURCE).unwrap();
    let mut compile = Command::new(compiler);
    compile.arg("-w").arg("-o").arg(&program).arg(&source);
    let output = output_within(compile, PATIENCE).unwrap();
    assert!(output.status.success(), "{output:?}");
    format!("{} {LAB_NAME}", program.display())
}

/// What `doctor --error` says of a text.
#[track_caller]
fn explained(machine: &mut Machine, text: &str) -> Vec<Value> {
    let output = machine.doctor(&["--json", "--error", text]);
    assert_eq!(output.status.code(), Some(0), "{text}: {output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    answer["explanations"].as_array().unwrap().clone()
}

#[track_caller]
fn assert_known(machine: &mut Machine, said: &[Said], supported: bool) {
    for Said { program, message } in said {
        let output = machine.shell(program);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let explanations = explained(machine, &text);
        let known = explanations
            .iter()
            .find(|known| known["message"] == *message);
        assert!(known.is_some(), "{program}: {text}: {explanations:#?}");
        assert_eq!(
            known.unwrap()["supported"],
            supported,
            "{program}: {explanations:#?}"
        );
    }
}

/// Programs whose resolver is reached over an uplink; each takes some seconds at most.
fn programs(directory: &Path) -> Vec<Said> {
    const PYTHON: &str = "import socket; socket.getaddrinfo('www.lab.test', 80)";
    const SEND: &str = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.168.77.1', 53))";
    let glibc = library_program("cc", directory);
    let musl = library_program("musl-gcc", directory);
    vec![
        said(glibc, "Temporary failure in name resolution"),
        said(musl, "Try again"),
        said(
            format!("ping -c 1 {LAB_NAME}"),
            "Temporary failure in name resolution",
        ),
        said(
            format!("curl -sS http://{LAB_NAME}/"),
            "Could not resolve host",
        ),
        said(
            format!("wget --tries=1 -O /dev/null http://{LAB_NAME}/"),
            "unable to resolve host address",
        ),
        said(
            format!("/usr/bin/python3 -c \"{PYTHON}\""),
            "Temporary failure in name resolution",
        ),
        said(
            format!("/usr/bin/python3 -c \"{SEND}\""),
            "Operation not permitted",
        ),
        said(
            "bash -c 'printf question > /dev/udp/192.168.77.1/53'",
            "Operation not permitted",
        ),
        said(
            format!("dig +time=1 +tries=1 {LAB_NAME}"),
            "no servers could be reached",
        ),
        said(
            format!("dig +time=1 +tries=1 @192.168.77.1 {LAB_NAME}"),
            "communications error to *: timed out",
        ),
        said(
            format!("nslookup -timeout=1 -retry=0 {LAB_NAME}"),
            "no servers could be reached",
        ),
    ]
}

#[test]
fn what_programs_say_past_the_tunnel_is_known_and_the_counters_support_it() {
    let mut machine = Machine::sound();
    let options = "options timeout:1 attempts:1\n";
    machine.write("resolv.conf", &format!("nameserver 10.8.0.1\n{options}"));
    let directory = tempfile::tempdir().unwrap();
    let programs = programs(directory.path());
    let control = machine.shell(&programs[0].program);
    assert!(control.status.success(), "control: {control:?}");
    let nothing = explained(&mut machine, "Temporary failure in name resolution");
    assert_eq!(
        nothing[0]["supported"], false,
        "nothing was dropped: {nothing:#?}"
    );
    machine.write(
        "resolv.conf",
        &format!("nameserver 192.168.77.1\n{options}"),
    );
    assert_known(&mut machine, &programs, true);
    machine.bench.unprotect();
    let lifted = explained(&mut machine, "Temporary failure in name resolution");
    assert_eq!(
        lifted[0]["supported"], false,
        "nothing is enforced: {lifted:#?}"
    );
}

#[test]
fn what_a_browser_says_past_the_tunnel_is_known() {
    let mut machine = Machine::sound();
    machine.write(
        "resolv.conf",
        "nameserver 192.168.77.1\noptions timeout:1 attempts:1\n",
    );
    let home = tempfile::tempdir().unwrap();
    let browser = format!(
        "HOME={0} chromium --headless=new --no-sandbox --disable-gpu --user-data-dir={0} --timeout=20000 \
         --dump-dom http://{LAB_NAME}/",
        home.path().display()
    );
    let output = machine.shell(&browser);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("ERR_"), "{output:?}");
    let known = [
        "ERR_NAME_NOT_RESOLVED",
        "DNS_PROBE_FINISHED_NO_INTERNET",
        "DNS_PROBE_POSSIBLE",
    ];
    let found = explained(&mut machine, &text);
    let message = found
        .iter()
        .find(|found| known.iter().any(|known| found["message"] == *known));
    assert_eq!(message.unwrap()["supported"], true, "{found:#?}");
}

#[test]
fn what_is_not_leakguards_doing_is_told_apart() {
    let mut machine = Machine::sound();
    // A name that the tunnel's resolver does not have, one of another family, and a port where nobody listens.
    machine.write(
        "resolv.conf",
        "nameserver 10.8.0.1\noptions timeout:1 attempts:1\n",
    );
    let said = [
        said(
            "/usr/bin/python3 -c \"import socket; socket.getaddrinfo('absent.lab.test', 80)\"",
            "Name or service not known",
        ),
        said(
            "dig +time=1 +tries=1 -p 54 @127.0.0.1 x",
            "communications error to *: connection refused",
        ),
        said("bash -c ': > /dev/tcp/127.0.0.1/9'", "Connection refused"),
        said(
            "curl -sS http://127.0.0.1:9/",
            "Failed to connect to * port *",
        ),
        said(
            "systemctl restart x",
            "System has not been booted with systemd as init system",
        ),
    ];
    assert_known(&mut machine, &said, false);
    let unknown = machine.doctor(&["--error", "segmentation fault"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert!(
        String::from_utf8_lossy(&unknown.stderr).starts_with("error: "),
        "{unknown:?}"
    );
}

#[test]
fn a_resolver_on_this_host_that_asks_past_the_tunnel_says_servfail() {
    let mut machine = Machine::sound();
    let directory = tempfile::tempdir().unwrap();
    machine.write("resolv.conf", "nameserver 127.0.0.1\n");
    let conf = "server:\n interface: 127.0.0.1\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n \
                use-syslog: no\n module-config: \"iterator\"\n do-not-query-localhost: no\n \
                forward-zone:\n name: \".\"\n forward-addr: 192.168.77.1\n";
    machine.write("unbound/unbound.conf", conf);
    let mut unbound = machine.command("unbound");
    unbound.args(["-d", "-c", "/etc/unbound/unbound.conf"]);
    let unbound = Daemon::start(unbound, directory.path()).unwrap();
    // Unbound takes .test for its own.
    let question = "dig +time=20 +tries=1 www.example.org";
    let mut text = String::new();
    wait_until("unbound gives up", PATIENCE, || {
        text = String::from_utf8(machine.shell(question).stdout).unwrap();
        Ok(text.contains("status: SERVFAIL"))
    })
    .unwrap_or_else(|error| panic!("{error}: {text}{}", unbound.stderr()));
    let found = explained(&mut machine, &text);
    assert_eq!(found[0]["message"], "status: SERVFAIL", "{found:#?}");
    assert_eq!(found[0]["supported"], true, "{found:#?}");
}
