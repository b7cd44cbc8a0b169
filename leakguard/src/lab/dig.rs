use std::net::IpAddr;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::{Cgroup, LabError, Netns, output_within};

/// One lookup with the real `dig`: one try, no search list.
#[derive(Clone, Debug)]
pub struct Query {
    server: IpAddr,
    name: String,
    record: &'static str,
    tcp: bool,
    port: u16,
    timeout: Duration,
}

impl Query {
    /// Asks `server` for a record such as `TXT` or `AAAA`, over UDP to port 53, for at most 2 s.
    pub fn new(server: impl Into<IpAddr>, name: &str, record: &'static str) -> Self {
        Self {
            server: server.into(),
            name: name.to_owned(),
            record,
            tcp: false,
            port: 53,
            timeout: Duration::from_secs(2),
        }
    }

    /// Asks over TCP.
    #[must_use]
    pub fn over_tcp(self) -> Self {
        Self { tcp: true, ..self }
    }

    /// Asks another port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Waits that long for the answer, in whole seconds.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Runs dig inside `netns`, and inside `cgroup` if there is one.
    pub fn run(&self, netns: &Netns, cgroup: Option<&Cgroup>) -> Result<Lookup, LabError> {
        let mut dig = netns.command("dig");
        dig.args(self.arguments());
        if let Some(cgroup) = cgroup {
            cgroup.attach(&mut dig);
        }
        let started = Instant::now();
        // dig ends by itself; the margin is for a busy machine.
        let output = output_within(dig, self.timeout + Duration::from_secs(10))?;
        let elapsed = started.elapsed();
        let text = String::from_utf8_lossy(&output.stdout);
        let (messages, answers): (Vec<_>, Vec<_>) = text
            .lines()
            .filter(|line| !line.is_empty() && !is_banner(line))
            .partition(|line| line.starts_with(';'));
        Ok(Lookup {
            answers: answers
                .into_iter()
                .map(|line| line.trim_matches('"').to_owned())
                .collect(),
            messages: messages
                .into_iter()
                .map(|line| line.trim_start_matches([';', ' ']).to_owned())
                .collect(),
            status: output.status,
            elapsed,
        })
    }

    /// Who is asked.
    pub fn server(&self) -> IpAddr {
        self.server
    }

    /// Whether it goes over TCP.
    pub fn is_tcp(&self) -> bool {
        self.tcp
    }

    /// The command line, as a user would type it.
    pub fn command_line(&self) -> String {
        format!("dig {}", self.arguments().join(" "))
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("@{}", self.server),
            self.name.clone(),
            self.record.to_owned(),
        ];
        if self.port != 53 {
            arguments.extend(["-p".to_owned(), self.port.to_string()]);
        }
        if self.tcp {
            arguments.push("+tcp".to_owned());
        }
        arguments.extend([
            "+short".to_owned(),
            "+tries=1".to_owned(),
            format!("+time={}", self.timeout.as_secs().max(1)),
        ]);
        arguments
    }
}

/// Whether it is one of the lines by which dig introduces itself before an error.
fn is_banner(line: &str) -> bool {
    ["; <<>>", "; (", ";; global options:"]
        .iter()
        .any(|banner| line.starts_with(banner))
}

/// What dig found.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The records' data, without quotation marks.
    pub answers: Vec<String>,
    /// What dig said about errors, without its leading semicolons and its banner.
    pub messages: Vec<String>,
    /// How dig ended: 9 is "no reply from a server".
    pub status: ExitStatus,
    /// How long dig ran.
    pub elapsed: Duration,
}

impl Lookup {
    /// Whether the answer is exactly one record with this data.
    pub fn is(&self, answer: &str) -> bool {
        self.answers == [answer]
    }
}
