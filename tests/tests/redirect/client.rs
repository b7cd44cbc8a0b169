//! Programs that ask for names, each with its own resolver library.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use leakguard::lab::{LAB_NAME, LabError, WHO_NAME, output_within};
use leakguard_tests::{Bench, cares_program, go_program, musl_program, with_resolver};
use tempfile::TempDir;

use crate::site::CONTENT;

/// The time-out that they are told of, where they can be told.
pub(crate) const TIME_OUT: Duration = Duration::from_secs(1);
/// As long as they are waited for: without leakguard some go on for minutes.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks with a socket of its own; prints the answer if it comes from whom was asked.
const SCRIPT: &str = r#"
import socket, struct, sys
asked, name, way = sys.argv[1:]
family = socket.AF_INET6 if ":" in asked else socket.AF_INET
question = struct.pack("!6H", 0x4c47, 0x0100, 1, 0, 0, 0)
question += b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + struct.pack("!BHH", 0, 16, 1)
s = socket.socket(family, socket.SOCK_STREAM if way == "tcp" else socket.SOCK_DGRAM)
s.settimeout(1)
if way != "unconnected":
    s.connect((asked, 53))
    assert s.getpeername()[:2] == (asked, 53), s.getpeername()
if way == "tcp":
    s.sendall(struct.pack("!H", len(question)) + question)
    stream = s.makefile("rb")
    print(stream.read(*struct.unpack("!H", stream.read(2)))[-3:].decode())
    sys.exit()
if way == "unconnected":
    s.sendto(question, (asked, 53))
else:
    s.send(question)
answer, sender = s.recvfrom(512)
assert sender[:2] == (asked, 53), sender
print(answer[-3:].decode())
"#;

/// A page that says in its title how long it took to fetch something from the lab's name.
const PAGE: &str = r#"<title>waiting</title>
<script>const start = performance.now();
function say(what) { document.title = what + " " + (performance.now() - start); }</script>
<script src="http://www.lab.test/script.js" onload="say('found after')" onerror="say('failed after')"></script>
"#;

/// A program, and how it asks.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) name: &'static str,
    pub(crate) way: &'static str,
    /// The name that it resolves.
    resolves: &'static str,
    /// Its command line; `{server}` stands for whom it asks, and `{name}` for the name.
    words: Vec<String>,
    /// What it prints when it was answered by whom it has asked.
    prints: &'static [&'static str],
    /// Whether it gives up only after time-outs of its own, whatever its calls tell it.
    pub(crate) waits: bool,
}

/// What became of a client.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Whether it had an answer, from whom it has asked as far as it says so.
    pub(crate) answered: bool,
    /// No more than they are waited for.
    pub(crate) elapsed: Duration,
    /// What it has printed, to whatever end.
    pub(crate) printed: String,
}

/// All of them, and where the programs are that were made for this.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) all: Vec<Client>,
    _directory: TempDir,
}

impl Clients {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut all = direct();
        all.extend(libraries(directory.path()));
        Self {
            all,
            _directory: directory,
        }
    }
}

impl Client {
    /// A name of its own in the lab that nobody knows, to be recognised by on the way.
    pub(crate) fn marked_name(&self) -> String {
        let label = format!("{}-{}", self.name, self.way);
        format!("{}.lab.test", label.replace(' ', "-"))
    }

    /// Asks somebody for the name that it resolves.
    pub(crate) fn ask(&self, bench: &Bench, server: IpAddr) -> Asked {
        self.ask_for(bench, server, self.resolves)
    }

    /// Asks somebody for a name.
    pub(crate) fn ask_for(&self, bench: &Bench, server: IpAddr, name: &str) -> Asked {
        let server = server.to_string();
        let fill = |text: &str| text.replace("{server}", &server).replace("{name}", name);
        let words: Vec<String> = self.words.iter().map(|word| fill(word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let command = with_resolver(bench, bench.topology.host(), &server, TIME_OUT, &words);
        let started = Instant::now();
        let output = match output_within(command, LIMIT) {
            Err(LabError::Timeout { .. }) => return Asked::in_vain(),
            ended => ended.unwrap(),
        };
        let elapsed = started.elapsed();
        let printed = String::from_utf8_lossy(&output.stdout);
        let has = |text: &&str| printed.contains(&fill(text));
        Asked {
            answered: output.status.success() && self.prints.iter().all(has),
            elapsed: told_time(&printed).unwrap_or(elapsed),
            printed: format!("{printed}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}

impl Asked {
    fn in_vain() -> Self {
        Self {
            answered: false,
            elapsed: LIMIT,
            printed: String::new(),
        }
    }
}

/// What the browser's page says of the time it took; the browser itself takes seconds to start.
fn told_time(printed: &str) -> Option<Duration> {
    let (_, rest) = printed.split_once(" after ")?;
    let (milliseconds, _) = rest.split_once("</title>")?;
    let milliseconds: f64 = milliseconds.parse().ok()?;
    Some(Duration::from_secs_f64(milliseconds / 1000.0))
}

fn client(
    name: &'static str,
    way: &'static str,
    command: &str,
    prints: &'static [&'static str],
) -> Client {
    Client {
        name,
        way,
        resolves: WHO_NAME,
        words: command.split_whitespace().map(str::to_owned).collect(),
        prints,
        waits: false,
    }
}

/// Those that are told on their command line whom to ask; most say who has answered.
fn direct() -> Vec<Client> {
    const DIG: &[&str] = &["\"vpn\"", "SERVER: {server}#53"];
    const DRILL: &[&str] = &["\"vpn\"", "SERVER: {server}"];
    const KDIG: &[&str] = &["\"vpn\"", "From {server}@53"];

    let mut clients = vec![
        client(
            "dig",
            "udp",
            "dig @{server} {name} TXT +tries=1 +time=1",
            DIG,
        ),
        client(
            "dig",
            "tcp",
            "dig @{server} {name} TXT +tries=1 +time=1 +tcp",
            DIG,
        ),
        client("drill", "udp", "drill -u {name} @{server} TXT", DRILL),
        client("drill", "tcp", "drill -t {name} @{server} TXT", DRILL),
        client(
            "kdig",
            "udp",
            "kdig @{server} {name} TXT +retry=0 +time=1",
            KDIG,
        ),
        client(
            "kdig",
            "tcp",
            "kdig @{server} {name} TXT +retry=0 +time=1 +tcp",
            KDIG,
        ),
    ];
    for way in ["unconnected", "connected", "tcp"] {
        let script = [
            "/usr/bin/python3",
            "-I",
            "-c",
            SCRIPT,
            "{server}",
            "{name}",
            way,
        ];
        clients.push(Client {
            words: script.map(str::to_owned).to_vec(),
            ..client("python", way, "", &["vpn"])
        });
    }
    clients
}

/// Those whose library reads in resolv.conf whom to ask.
fn libraries(directory: &Path) -> Vec<Client> {
    let of_library = |name, way, command: &str, prints| Client {
        resolves: LAB_NAME,
        ..client(name, way, command, prints)
    };
    let made = |name, program: fn(&Path) -> std::path::PathBuf| {
        let program = program(directory);
        of_library(
            name,
            "library",
            &format!("{} {{name}}", program.display()),
            &[],
        )
    };
    let page = directory.join("page.html");
    fs::write(&page, PAGE).unwrap();
    let browser = format!(
        "chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
         --disable-component-update --disable-sync --disable-dev-shm-usage --user-data-dir={} --dump-dom file://{}",
        directory.join("profile").display(),
        page.display()
    );
    vec![
        of_library(
            "glibc",
            "udp",
            "getent ahosts {name}",
            &["192.0.2.80", "2001:db8:80::80"],
        ),
        of_library(
            "glibc",
            "tcp",
            "env RES_OPTIONS=use-vc getent ahosts {name}",
            &["192.0.2.80"],
        ),
        // It waits for answers until its time-out, whatever its `sendto` has said.
        Client {
            waits: true,
            ..made("musl", musl_program)
        },
        made("go", go_program),
        made("c-ares", cares_program),
        of_library("curl", "library", "curl -sS http://{name}/", &[CONTENT]),
        of_library("chromium", "library", &browser, &["<title>found after"]),
    ]
}
