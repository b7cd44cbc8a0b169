//! `leakguard config` and the exit codes, by running the program; needs no privileges.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test as the tests do"
)]

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// What a run of the program left behind.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the program and checks what holds for every run: no panic, no backtrace.
fn leakguard(args: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_leakguard"))
        .args(args)
        .env("RUST_BACKTRACE", "full")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let run = Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    for word in ["panicked", "backtrace", "src/"] {
        assert!(!run.stderr.contains(word), "{args:?}: {}", run.stderr);
    }
    run
}

/// Runs the program, which must refuse with code 2 and exactly this on standard error.
fn refuses(args: &[&str], stderr: &str) {
    let run = leakguard(args);
    assert_eq!(run.stderr, stderr, "{args:?}");
    assert_eq!(run.code, Some(2), "{args:?}");
    assert_eq!(run.stdout, "", "{args:?}");
}

/// A configuration file in a directory of its own.
struct File {
    _directory: TempDir,
    path: PathBuf,
}

impl File {
    fn new(contents: impl AsRef<[u8]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leakguard.toml");
        fs::write(&path, contents).unwrap();
        let file = Self {
            _directory: directory,
            path,
        };
        file.set_mode(0o600);
        file
    }

    fn set_mode(&self, mode: u32) {
        fs::set_permissions(&self.path, Permissions::from_mode(mode)).unwrap();
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

#[test]
fn a_good_file_is_ok() {
    let file = File::new("[interfaces]\ntunnel = ['wg0']\n");
    for args in [
        ["config", "check", file.name()].as_slice(),
        &["config", "check", "--config", file.name()],
    ] {
        let run = leakguard(args);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        assert_eq!(run.stdout, format!("{}: ok\n", file.name()));
    }
}

#[test]
fn a_file_without_a_tunnel_is_ok_with_a_note() {
    let file = File::new("");
    let run = leakguard(&["config", "check", file.name()]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert!(
        run.stdout
            .starts_with(&format!("{}: ok\nnote: ", file.name())),
        "{}",
        run.stdout
    );
}

#[test]
fn malformed_toml_is_refused_with_its_place() {
    let file = File::new("mode = \"enforce\"\n[interfaces\n");
    let run = leakguard(&["config", "check", file.name()]);
    assert_eq!(run.code, Some(2));
    assert!(
        run.stderr
            .starts_with(&format!("error: {}:2:12: ", file.name())),
        "{}",
        run.stderr
    );
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
}

#[test]
fn wrong_settings_are_refused_with_their_place_and_what_is_allowed() {
    for (text, problem) in [
        (
            "mode = 'enforce'\n[metric]\n",
            "2:2: unknown field `metric`, expected one of `mode`, `on_exit`, `preflight`, `interfaces`, `dns`, `kill_switch`, `ipv6`, `hardening`, `events`, `metrics`, `resolver`, `verify`",
        ),
        (
            "mode = 'audit'\n",
            "1:8: unknown mode `audit`; allowed: observe, enforce",
        ),
        (
            "[dns]\nblock = ['dns', 'tor']\n",
            "2:17: unknown class `tor`; allowed: dns, dot, doq, mdns, llmnr, netbios, doh",
        ),
        (
            "[hardening]\npacket_sockets = 'deny'\n",
            "2:18: unknown packet_sockets `deny`; allowed: off, deny-new, strict",
        ),
        (
            "[dns]\nfragments = 'all'\n",
            "2:13: unknown way to treat fragments `all`; allowed: track, strict",
        ),
        (
            "[dns]\ndoh_resolvers = 'mine'\n",
            "2:17: `mine` names no list of resolvers; write \"builtin\", or the path of a file from / on",
        ),
        (
            "[dns]\nports = [0]\n",
            "2:10: 0 is not a port; allowed: 1 to 65535",
        ),
    ] {
        let file = File::new(text);
        let stderr = format!("error: {}:{problem}\n", file.name());
        for args in [["config", "check"], ["config", "show"]] {
            refuses(&[args[0], args[1], "--config", file.name()], &stderr);
        }
    }
}

#[test]
fn a_bad_pattern_is_refused_with_its_place() {
    let file = File::new("[interfaces]\ntunnel = ['wg0', 'a/b']\n");
    let run = leakguard(&["config", "check", file.name()]);
    assert_eq!(run.code, Some(2));
    assert!(
        run.stderr
            .starts_with(&format!("error: {}:2:18: ", file.name())),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("`a/b`"), "{}", run.stderr);
}

#[test]
fn a_file_that_others_can_write_is_refused_with_the_remedy() {
    let file = File::new("");
    file.set_mode(0o646);
    let name = file.name();
    refuses(
        &["config", "check", name],
        &format!(
            "error: {name} is writable by group or others (mode 0646); run: chmod go-w {name}\n"
        ),
    );
    file.set_mode(0o644);
    assert_eq!(leakguard(&["config", "check", name]).code, Some(0));
}

#[test]
fn an_unreadable_file_is_refused() {
    // Root may read every file, so there is nothing to refuse.
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        return;
    }
    let file = File::new("");
    file.set_mode(0o000);
    let run = leakguard(&["config", "check", file.name()]);
    assert_eq!(run.code, Some(2));
    assert!(
        run.stderr.contains("cannot be read by user"),
        "{}",
        run.stderr
    );
}

#[test]
fn what_is_no_file_is_refused() {
    let file = File::new("");
    let directory = file.path.parent().and_then(Path::to_str).unwrap();
    let absent = format!("{directory}/absent.toml");
    refuses(
        &["config", "check", directory],
        &format!("error: {directory} is a directory; name the file in it\n"),
    );
    refuses(
        &["config", "check", "/dev/null"],
        "error: /dev/null is not a regular file; write the settings to one and name that\n",
    );
    refuses(
        &["config", "show", "--config", &absent],
        &format!(
            "error: no configuration file {absent}; check the path, or leave it out to use the defaults\n"
        ),
    );
    let below = format!("{}/x", file.name());
    refuses(
        &["config", "show", "--config", &below],
        &format!("error: cannot read {below}\n  caused by: Not a directory (os error 20)\n"),
    );
}

#[test]
fn contents_that_are_no_text_are_refused() {
    let file = File::new(b"mode = 'enforce'\n\xff\n");
    let name = file.name();
    refuses(
        &["config", "check", name],
        &format!("error: {name}:2:1: not valid UTF-8; save the file as UTF-8\n"),
    );
    let file = File::new(vec![b'#'; (1 << 20) + 1]);
    let name = file.name();
    refuses(
        &["config", "check", name],
        &format!("error: {name} is larger than 1024 KiB; check the path\n"),
    );
}

#[test]
fn what_show_prints_is_accepted_by_check_and_shown_the_same() {
    let file = File::new("on_exit = 'release'\n[dns]\nports = [5300]\n");
    let options = [
        "--tunnel", "wg0,tun*", "--mode", "observe", "--block", "dot,dns", "--uplink", "eth*",
    ];
    let shown = leakguard(
        &[
            ["config", "show", "--config", file.name()].as_slice(),
            &options,
        ]
        .concat(),
    );
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""));
    for line in [
        "mode = \"observe\"",
        "on_exit = \"release\"",
        "tunnel = [\"wg0\", \"tun*\"]",
        "uplink = [\"eth*\"]",
        "block = [\"dns\", \"dot\"]",
        "ports = [5300]",
    ] {
        assert!(
            shown.stdout.lines().any(|shown| shown == line),
            "{line} in\n{}",
            shown.stdout
        );
    }

    let copy = File::new(&shown.stdout);
    let checked = leakguard(&["config", "check", copy.name()]);
    assert_eq!(checked.stdout, format!("{}: ok\n", copy.name()));
    assert_eq!(
        leakguard(&["config", "show", "--config", copy.name()]).stdout,
        shown.stdout
    );
}

#[test]
fn the_command_line_and_the_file_must_agree() {
    let file = File::new("[interfaces]\nlocal = ['wg0']\n");
    refuses(
        &["config", "show", "--config", file.name(), "--tunnel", "wg0"],
        "error: `wg0` is named as tunnel and as local; keep it in one of the two\n",
    );
}

#[test]
fn a_list_of_resolvers_is_checked_with_the_configuration() {
    let list = File::new("dns.example # ours\n\nhttps://dns.example/dns-query\n");
    let file = File::new(format!("[dns]\ndoh_resolvers = '{}'\n", list.name()));
    refuses(
        &["config", "check", "--config", file.name()],
        &format!(
            "error: {}\n  caused by: {}:3: `https://dns.example/dns-query` is no address, prefix or name; one a line, \
             comments after #\n",
            file.name(),
            list.name()
        ),
    );
}

#[test]
fn wrong_usage_exits_2_and_help_exits_0() {
    for args in [
        [].as_slice(),
        &["frobnicate"],
        &["config"],
        &["config", "show", "--mode", "audit"],
        &["config", "show", "--block", "tor"],
        &["config", "show", "--tunnel", ""],
        &["config", "show", "--config", ""],
        &["run", "--kill-switch", "always"],
    ] {
        let run = leakguard(args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(!run.stderr.is_empty(), "{args:?}");
    }
    for args in [
        ["--help"].as_slice(),
        &["--version"],
        &["help", "run"],
        &["config", "check", "-h"],
    ] {
        let run = leakguard(args);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(!run.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn help_lists_every_command() {
    let help = leakguard(&["--help"]).stdout;
    for command in [
        "run", "apply", "status", "events", "allow", "release", "config", "demo",
    ] {
        assert!(
            help.lines()
                .any(|line| line.starts_with(&format!("  {command} "))),
            "{command}"
        );
    }
}

#[test]
fn escape_sequences_in_a_path_do_not_reach_the_terminal() {
    let run = leakguard(&["config", "check", "/absent\u{1b}[2J"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("/absent\\u{1b}[2J"), "{}", run.stderr);
}

#[test]
fn a_reader_that_is_gone_is_no_error_and_a_full_disk_is() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let show = |stdout: Stdio| {
        Command::new(env!("CARGO_BIN_EXE_leakguard"))
            .args(["config", "show", "--tunnel", "wg0"])
            .stdout(stdout)
            .stderr(Stdio::piped())
            .output()
            .unwrap()
    };
    let gone = show(writer.into());
    assert_eq!(
        (gone.status.code(), gone.stderr.as_slice()),
        (Some(0), b"".as_slice())
    );
    let full = show(
        fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
            .into(),
    );
    assert_eq!(full.status.code(), Some(1));
    assert!(
        full.stderr
            .starts_with(b"error: cannot write to standard output\n  caused by: ")
    );
}
