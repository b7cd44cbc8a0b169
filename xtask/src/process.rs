//! Runs other programs: every run is bounded in time, and a failure names the command.
//!
//! The bound is coreutils' `timeout`, not a kill from here: what runs through `sudo` belongs to
//! root, which this process may not signal. `--foreground` keeps Ctrl-C and password prompts
//! working.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt, fs,
    io::{self, BufRead as _, BufReader},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Error, Result, bail};

/// `timeout` sends SIGKILL this long after SIGTERM.
const KILL_AFTER: Duration = Duration::from_secs(10);
/// `timeout`'s exit code when the time was up.
const TIMED_OUT: i32 = 124;
/// `timeout`'s exit code when the program does not exist.
const NOT_FOUND: i32 = 127;

/// Where Debian keeps administration programs; an ordinary user's PATH lacks them.
const ADMIN_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A command with its bound, as root or as the user.
#[derive(Debug)]
pub(crate) struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    /// What messages show instead of the command line.
    label: Option<String>,
    envs: Vec<(OsString, OsString)>,
    removed_envs: Vec<&'static str>,
    dir: Option<PathBuf>,
    limit: Duration,
    privileged: bool,
}

impl Cmd {
    /// A command that may run for `limit`.
    pub(crate) fn new(program: impl Into<OsString>, limit: Duration) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            label: None,
            envs: Vec::new(),
            removed_envs: Vec::new(),
            dir: None,
            limit,
            privileged: false,
        }
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.envs.push((key.into(), value.into()));
        self
    }

    pub(crate) fn env_remove(mut self, key: &'static str) -> Self {
        self.removed_envs.push(key);
        self
    }

    /// Shows `label` in messages instead of a command line that nobody would type.
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(crate) fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs it as root: as is when already root, else through sudo.
    pub(crate) fn privileged(mut self) -> Self {
        self.privileged = true;
        self
    }

    /// Runs it with this process's standard streams; fails unless it succeeds.
    pub(crate) fn run(&self) -> Result<()> {
        let status = self
            .command()?
            .status()
            .with_context(|| format!("cannot run `{self}`"))?;
        self.check(status)
    }

    /// Runs it with this process's standard streams and hands back how it ended.
    pub(crate) fn status(&self) -> Result<ExitStatus> {
        self.command()?
            .status()
            .with_context(|| format!("cannot run `{self}`"))
    }

    /// As [`Self::status`], for a program that reports its own failures: its exit code is to be this process's.
    pub(crate) fn exit_code(&self) -> Result<ExitCode> {
        let code = self.status()?.code();
        let code = code.and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }

    /// Runs it and returns its stdout; stderr appears only in the error.
    pub(crate) fn output(&self) -> Result<String> {
        let output = self
            .command()?
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run `{self}`"))?;
        if let Err(failure) = self.check(output.status) {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(match stderr.as_str() {
                "" => failure,
                _ => Error::msg(stderr).context(failure),
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it and hands over each line of stdout and stderr, in the order in which they were
    /// written.
    pub(crate) fn lines(&self, mut each: impl FnMut(&str) -> Result<()>) -> Result<ExitStatus> {
        let (reader, writer) = io::pipe().context("cannot create a pipe")?;
        let mut command = self.command()?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().context("cannot duplicate a pipe")?)
            .stderr(writer);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run `{self}`"))?;
        // It holds the writing ends: without this the reader would never see the end.
        drop(command);

        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .with_context(|| format!("cannot read the output of `{self}`"))?
            > 0
        {
            each(String::from_utf8_lossy(&line).trim_end_matches('\n'))?;
            line.clear();
        }
        child
            .wait()
            .with_context(|| format!("cannot wait for `{self}`"))
    }

    /// Turns anything but success into an error that names the command.
    pub(crate) fn check(&self, status: ExitStatus) -> Result<()> {
        match status.code() {
            Some(0) => Ok(()),
            Some(TIMED_OUT) => bail!("`{self}` did not end within {} s", self.limit.as_secs()),
            Some(NOT_FOUND) => bail!("`{}` was not found", self.program.display()),
            _ => bail!("`{self}` failed ({status})"),
        }
    }

    fn command(&self) -> Result<Command> {
        let mut argv: Vec<OsString> = Vec::new();
        if self.privileged && !is_root()? {
            if find_program("sudo").is_none() {
                bail!("this needs root and there is no sudo; run as root: {self}");
            }
            argv.extend(["sudo", "-E", "env"].map(OsString::from));
            // sudo's policy may drop variables in spite of -E; arguments of `env` arrive.
            for (key, value) in &self.envs {
                let mut assignment = key.clone();
                assignment.push("=");
                assignment.push(value);
                argv.push(assignment);
            }
        }
        argv.extend(bound(self.limit));
        argv.push(self.program.clone());
        argv.extend(self.args.iter().cloned());

        let mut argv = argv.into_iter();
        let program = argv.next().unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(argv)
            .envs(self.envs.iter().map(|(key, value)| (key, value)));
        for key in &self.removed_envs {
            command.env_remove(key);
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        Ok(command)
    }
}

impl fmt::Display for Cmd {
    /// The command line as a user would type it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(label) = &self.label {
            return f.write_str(label);
        }
        write!(f, "{}", self.program.display())?;
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            if arg.is_empty() || arg.contains(char::is_whitespace) {
                write!(f, " '{arg}'")?;
            } else {
                write!(f, " {arg}")?;
            }
        }
        Ok(())
    }
}

/// The words in front of a command that bound its time.
pub(crate) fn bound(limit: Duration) -> impl Iterator<Item = OsString> {
    [
        "timeout".to_owned(),
        "--foreground".to_owned(),
        format!("--kill-after={}", KILL_AFTER.as_secs()),
        limit.as_secs().to_string(),
    ]
    .into_iter()
    .map(OsString::from)
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> Result<bool> {
    // The owner of /proc/self is the effective user.
    let metadata = fs::metadata("/proc/self").context("cannot read /proc/self")?;
    Ok(metadata.uid() == 0)
}

/// Finds a program on PATH or among the administration programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    find_in(
        name,
        env::split_paths(&path).chain(ADMIN_DIRS.into_iter().map(PathBuf::from)),
    )
}

fn find_in(name: impl AsRef<OsStr>, dirs: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let name = name.as_ref();
    dirs.into_iter()
        .map(|dir| dir.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn failure_names_the_command() {
        let error = Cmd::new("sh", SHORT).args(["-c", "exit 3"]).run();
        let error = error.unwrap_err().to_string();
        assert!(error.contains("sh -c 'exit 3'"), "{error}");
        assert!(error.contains('3'), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Cmd::new("no-such-program", SHORT).output().unwrap_err();
        assert!(
            format!("{error:#}").contains("`no-such-program` was not found"),
            "{error:#}"
        );
    }

    #[test]
    fn a_hanging_command_is_ended() {
        let error = Cmd::new("sleep", SHORT).arg("60").run().unwrap_err();
        assert!(error.to_string().contains("within 1 s"), "{error}");
    }

    #[test]
    fn lines_of_both_streams_come_in_order() {
        let mut seen = Vec::new();
        let status = Cmd::new("sh", SHORT)
            .args(["-c", "echo one; echo two >&2; printf three; exit 5"])
            .lines(|line| {
                seen.push(line.to_owned());
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, ["one", "two", "three"]);
        assert_eq!(status.code(), Some(5));
    }

    #[test]
    fn only_executable_files_are_programs() {
        assert!(find_in("sh", [PathBuf::from("/bin")]).is_some());
        assert!(find_in("passwd", [PathBuf::from("/etc")]).is_none());
        assert!(find_in("bin", [PathBuf::from("/")]).is_none());
    }
}
