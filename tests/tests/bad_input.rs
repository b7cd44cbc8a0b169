//! What users get wrong and what machines lack: one clear line, the right exit code, and nothing half attached.

mod device;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use device::{Device, PATIENCE, Run, RunningAgent, TUNNEL};
use leakguard::lab::wait_until;
use leakguard_tests::agent_binary;
use nix::sys::signal::Signal;

const PROBES: usize = 20;
/// Both commands that enforce.
const ENFORCING: [&str; 2] = ["run", "apply"];

/// The command through `setpriv` with these options.
fn with_privileges(device: &Device, options: &[&str], arguments: &[&str]) -> Command {
    let script = format!(
        "exec setpriv {} {} \"$@\"",
        options.join(" "),
        device.public_binary().display()
    );
    let wrapper = device.script("unprivileged", &script);
    device.command_of(wrapper, arguments)
}

#[test]
fn the_control_of_all_these_tests() {
    let mut device = Device::new();
    device.assert_untouched();
    assert_eq!(
        device.leakguard(&["apply", "--tunnel", TUNNEL]).ok(),
        "applied"
    );
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

#[test]
fn no_tunnel_named() {
    let mut device = Device::new();
    let empty = device.directory().join("empty.toml");
    fs::write(&empty, "").unwrap();
    let config = ["--config", empty.to_str().unwrap()];
    for verb in ENFORCING {
        let arguments = [&[verb], &config[..]].concat();
        let example = format!("leakguard {verb} --tunnel {TUNNEL}");
        device.leakguard(&arguments).refused(
            2,
            &[
                "no tunnel is named",
                "these look like tunnels",
                TUNNEL,
                &example,
            ],
        );
    }
    device.assert_untouched();
    device.host().ip(&["link", "del", TUNNEL]).unwrap();
    device.leakguard(&[&["run"], &config[..]].concat()).refused(
        2,
        &[
            "no interface here looks like one",
            "leakguard run --tunnel NAME",
        ],
    );
    device.assert_untouched();
}

#[test]
fn a_tunnel_that_is_not_there_yet_is_awaited_in_safety() {
    let mut device = Device::new();
    assert_eq!(
        device.leakguard(&["apply", "--tunnel", "wg7"]).ok(),
        "applied"
    );
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.leakguard(&["allow", "list"]).ok(), "");
    let agent = device.command(&["run", "--tunnel", "wg7"]);
    let agent = device.await_agent(RunningAgent::spawn(agent, device.directory()));
    let stderr = agent.stderr();
    assert!(
        stderr.contains("warning: no interface matches the tunnel patterns yet"),
        "{stderr}"
    );
}

#[test]
fn bad_patterns_and_names() {
    let mut device = Device::new();
    for verb in ENFORCING {
        for (option, value) in [
            ("--tunnel", "a/b"),
            ("--tunnel", ""),
            ("--local", "x y"),
            ("--uplink", "[z"),
            ("--mode", "audit"),
            ("--block", "tor"),
        ] {
            let run = device.leakguard(&[verb, "--tunnel", TUNNEL, option, value]);
            run.bad_usage(option);
            assert!(run.stdout.is_empty(), "{run:?}");
        }
        device
            .leakguard(&[verb, "--tunnel", TUNNEL, "--uplink", TUNNEL])
            .refused(2, &[TUNNEL, "as tunnel and as uplink"]);
    }
    device.assert_untouched();
}

#[test]
fn bad_configuration_files() {
    let mut device = Device::new();
    let file = device.directory().join("leakguard.toml");
    let path = file.to_str().unwrap().to_owned();
    let cases: [(&str, u32, &[&str]); 6] = [
        ("mode = \"enforce\n", 0o600, &["leakguard.toml:1:"]),
        (
            "[interfaces]\ntunel = [\"wg0\"]\n",
            0o600,
            &["leakguard.toml:2:1", "`tunel`", "`tunnel`"],
        ),
        (
            "[interfaces]\ntunnel = [\"a/b\"]\n",
            0o600,
            &["leakguard.toml:2:", "`a/b`"],
        ),
        (
            "[interfaces]\ntunnel = [\"tun0\"]\n",
            0o602,
            &["writable by group or others", "chmod go-w"],
        ),
        (
            "[interfaces]\ntunnel = [\"tun0\"]\n",
            0o620,
            &["writable by group or others", "chmod go-w"],
        ),
        ("mode = 7\n", 0o600, &["leakguard.toml:1:"]),
    ];
    for (contents, mode, words) in cases {
        fs::write(&file, contents).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        for verb in ENFORCING {
            device
                .leakguard(&[verb, "--config", &path])
                .refused(2, words);
        }
    }
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
    device
        .leakguard(&["apply", "--config", &path])
        .refused(2, &[&path, "chown root"]);
    fs::remove_file(&file).unwrap();
    for verb in ENFORCING {
        device
            .leakguard(&[verb, "--config", &path])
            .refused(2, &["no configuration file", &path]);
    }
    device.assert_untouched();

    // Who is not root is told that the file cannot be read, not that it is not there.
    fs::write(&file, "[interfaces]\ntunnel = [\"tun0\"]\n").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let command = with_privileges(&device, &nobody, &["apply", "--config", &path]);
    Run::of(command).refused(2, &["cannot be read by user"]);
    device.assert_untouched();
}

#[test]
fn missing_privileges() {
    let mut device = Device::new();
    let privileges: [&[&str]; 4] = [
        &["--reuid=65534", "--regid=65534", "--clear-groups"],
        &["--bounding-set=-all", "--inh-caps=-all"],
        &["--bounding-set=-net_admin", "--inh-caps=-net_admin"],
        &[
            "--bounding-set=-sys_admin,-bpf",
            "--inh-caps=-sys_admin,-bpf",
        ],
    ];
    for options in privileges {
        for verb in ENFORCING {
            let command = with_privileges(&device, options, &[verb, "--tunnel", TUNNEL]);
            Run::of(command).refused(4, &["a privilege", "CAP_NET_ADMIN", "as root"]);
        }
        device.assert_untouched();
    }
    // Enough of them is enough, though it is not all of them.
    let some = "+net_admin,+bpf,+perfmon,+sys_admin,+dac_override";
    let (bounding, inheritable) = (
        format!("--bounding-set=-all,{some}"),
        format!("--inh-caps=-all,{some}"),
    );
    let command = with_privileges(
        &device,
        &[&bounding, &inheritable],
        &["apply", "--tunnel", TUNNEL],
    );
    assert_eq!(Run::of(command).ok(), "applied", "control");

    // What it may not see, it does not call absent; what it may not lift, it does not call lifted.
    let nobody = privileges[0];
    for arguments in [["status"].as_slice(), &["allow", "list"], &["release"]] {
        let run = Run::of(with_privileges(&device, nobody, arguments));
        run.refused(4, &["is missing", "as root"]);
    }
    assert_eq!(device.seen(PROBES), (0, 0));
    assert_eq!(device.status()["level"], "full");
}

/// systemd takes the agent for started when the level is the wanted one: with its rights it must be able to tell.
#[test]
fn the_rights_of_the_service_are_enough_to_see_that_all_is_enforced() {
    let device = Device::new();
    device.leakguard(&["apply", "--tunnel", TUNNEL]).ok();
    let unit = include_str!("../../dist/leakguard.service");
    let rights = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .unwrap();
    let read = |rights: &str| {
        let some: String = rights
            .split_whitespace()
            .map(|right| right.to_lowercase().replacen("cap_", ",+", 1))
            .collect();
        let options = [
            format!("--bounding-set=-all{some}"),
            format!("--inh-caps=-all{some}"),
        ];
        let options = [options[0].as_str(), options[1].as_str()];
        Run::of(with_privileges(&device, &options, &["status"]))
    };
    let run = read(rights);
    assert!(run.ok().starts_with("level      full\n"), "{run:?}");
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    let run = read(rights);
    assert_eq!(run.code, Some(3), "control: {run:?}");
}

#[test]
fn no_cgroup2() {
    let mut device = Device::new();
    let directory = device.directory().to_str().unwrap().to_owned();
    for verb in ENFORCING {
        for cgroup in [directory.as_str(), "/proc", "/nonexistent", "/etc/passwd"] {
            device
                .leakguard(&[verb, "--tunnel", TUNNEL, "--cgroup", cgroup])
                .refused(4, &[&format!("cgroup2 at {cgroup}"), "--cgroup"]);
        }
    }
    device.assert_untouched();
}

#[test]
fn no_bpffs() {
    let mut device = Device::new();
    let file = device.directory().join("file");
    fs::write(&file, "precious").unwrap();
    for verb in ENFORCING {
        for bpffs in [file.to_str().unwrap(), "/nonexistent"] {
            device
                .leakguard(&[verb, "--tunnel", TUNNEL, "--bpffs", bpffs])
                .refused(
                    4,
                    &[&format!("a bpffs at {bpffs}"), "mount -t bpf", "--bpffs"],
                );
        }
    }
    for arguments in [["release"].as_slice(), &["allow", "list"], &["status"]] {
        let arguments = [arguments, &["--bpffs", "/nonexistent"]].concat();
        let run = device.leakguard(&arguments);
        assert!(run.stderr.lines().count() <= 1, "{run:?}");
        let expected = if arguments[0] == "release" { 0 } else { 3 };
        assert_eq!(run.code, Some(expected), "{run:?}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    device.assert_untouched();
}

#[test]
fn a_directory_gets_a_bpffs_of_its_own() {
    let mut device = Device::new();
    let directory = device.directory().join("bpf");
    fs::create_dir(&directory).unwrap();
    let path = directory.to_str().unwrap();
    let mounted = || {
        let mounts = leakguard::host::mounts().unwrap();
        mounts
            .iter()
            .any(|mount| mount.point == directory && mount.fs_type == "bpf")
    };
    assert_eq!(
        device
            .leakguard(&["apply", "--tunnel", TUNNEL, "--bpffs", path])
            .ok(),
        "applied"
    );
    assert!(mounted());
    assert_eq!(device.seen(PROBES), (0, 0));
    let release = device.leakguard(&["release", "--bpffs", path]);
    nix::mount::umount(&directory).unwrap();
    assert_eq!(release.ok(), "released");
    device.assert_untouched();
}

#[test]
fn nft_that_cannot_be_run() {
    let mut device = Device::new();
    let wrapper = device.without_nft();
    let command = device.command_of(&wrapper, &["run", "--tunnel", TUNNEL]);
    let mut agent = device.await_agent(RunningAgent::spawn(command, device.directory()));
    let stderr = agent.stderr();
    assert!(
        stderr.contains("warning: no second net for forwarded traffic: cannot run nft"),
        "{stderr}"
    );
    for program in [wrapper, agent_binary()] {
        let status = |arguments: &[&str]| Run::of(device.command_of(&program, arguments));
        let status_text = status(&["status"]);
        assert_eq!(status_text.code, Some(3), "{status_text:?}");
        assert!(
            status_text.stdout.contains("level      reduced"),
            "{status_text:?}"
        );
        assert!(status_text.stdout.contains("second net"), "{status_text:?}");
        let allowed = status(&["status", "--min-level", "reduced"]);
        assert_eq!(allowed.code, Some(0), "{allowed:?}");
    }
    // The TC program stands on the uplink, so forwarded packets are caught as well.
    assert_eq!(device.seen(PROBES), (0, 0));
    assert!(agent.signal(Signal::SIGTERM).success());

    // Where nft can be run again, the next agent makes up for it.
    let agent = device.agent(&[]);
    assert_eq!(device.status()["level"], "full");
    drop(agent);
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

#[test]
fn nft_that_is_ended_by_a_signal_has_refused_nothing() {
    let mut device = Device::new();
    let nft = leakguard::host::find_program("nft").unwrap();
    let copy = device.directory().join("nft");
    fs::copy(nft, &copy).unwrap();
    // As when a service manager ends the agent with all its children.
    let script = format!(
        "[ \"$1\" = -f ] && kill -TERM $$\nexec {} \"$@\"",
        copy.display()
    );
    let program = device.with_nft(&device.script("ended", &script));
    let command = device.command_of(&program, &["run", "--tunnel", TUNNEL]);
    let mut agent = device.await_agent(RunningAgent::spawn(command, device.directory()));
    let stderr = agent.stderr();
    assert!(stderr.contains("nft was ended by a signal"), "{stderr}");
    // That would give up the table for bridged traffic for good.
    assert!(!stderr.contains("bridged"), "{stderr}");
    assert!(agent.signal(Signal::SIGTERM).success());
    assert_eq!(device.leakguard(&["release"]).ok(), "released");
    device.assert_untouched();
}

#[test]
fn a_cgroup_that_is_removed_is_noticed() {
    let mut device = Device::new();
    let child = device.cgroup.path().join("child");
    fs::create_dir(&child).unwrap();
    let path = child.to_str().unwrap();
    assert_eq!(
        device
            .leakguard(&["apply", "--tunnel", TUNNEL, "--cgroup", path])
            .ok(),
        "applied"
    );
    assert_eq!(device.status()["level"], "full");
    fs::remove_dir(&child).unwrap();
    wait_until("status notices", PATIENCE, || {
        Ok(device.status()["level"] == "none")
    })
    .unwrap();
    let status = device.leakguard(&["status"]);
    assert_eq!(status.code, Some(3));
    assert!(
        status.stdout.contains("local sockets are not judged"),
        "{status:?}"
    );
    assert_eq!(
        device.leakguard(&["apply", "--tunnel", TUNNEL]).ok(),
        "applied"
    );
    assert_eq!(device.status()["level"], "full");
    assert_eq!(device.seen(PROBES), (0, 0));
}

/// What somebody else may have pinned where leakguard's state belongs.
#[test]
fn foreign_pins() {
    let mut device = Device::new();
    // A second state, in the same layout, to take real objects from.
    let root = device.bpffs.path().join("leakguard");
    device.leakguard(&["apply", "--tunnel", TUNNEL]).ok();
    let version = fs::read_dir(&root).unwrap().next().unwrap().unwrap().path();
    let kept = device.bpffs.path().join("kept");
    fs::rename(&version, &kept).unwrap();
    let list = |directory: &str| -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(kept.join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        found.sort();
        found
    };
    let (maps, links) = (list("maps"), list("links"));
    assert!(maps.len() >= 5 && links.len() >= 2, "{maps:?} {links:?}");

    // (object, where it is put, how it is called)
    let mut cases = Vec::new();
    for (index, map) in maps.iter().enumerate() {
        let name = map.file_name().unwrap().to_str().unwrap();
        let other = &maps[(index + 1) % maps.len()];
        if name != "TUNNELS" && name != "LOCALS" {
            cases.push((other.clone(), format!("maps/{name}"), "map"));
        }
        cases.push((links[0].clone(), format!("maps/{name}"), "map"));
    }
    for link in &links {
        let name = link.file_name().unwrap().to_str().unwrap();
        cases.push((maps[0].clone(), format!("links/{name}"), "link"));
    }
    for (object, place, what) in cases {
        for directory in ["maps", "links"] {
            fs::create_dir_all(version.join(directory)).unwrap();
        }
        let pin = version.join(&place);
        fs::hard_link(&object, &pin).unwrap();
        for verb in ENFORCING {
            device.leakguard(&[verb, "--tunnel", TUNNEL]).refused(
                1,
                &[pin.to_str().unwrap(), &format!("is not leakguard's {what}")],
            );
        }
        let left: Vec<_> = ["maps", "links"]
            .into_iter()
            .flat_map(|directory| fs::read_dir(version.join(directory)).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(
            left,
            [pin],
            "nothing was put next to it, and it is left alone"
        );
        fs::remove_dir_all(&version).unwrap();
    }
    fs::remove_dir_all(&kept).unwrap();
    fs::remove_dir(&root).unwrap();
    device.leakguard(&["release"]).ok();
    device.assert_untouched();
}
