//! Exit codes, and how an error carries one from where it arises to `main`.
//!
//! Modules define their own error types and know nothing of exit codes. The command line, which knows what a failure
//! means to the caller, marks it with [`WithExit::with_exit`]; an error without a mark is [`Exit::Failed`].

use std::{error::Error, fmt, process::ExitCode};

/// What the process tells its caller; the numbers are a contract with users' scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for is done; for `status`: the host is protected.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The host is not protected as wanted.
    NotProtected = 3,
    /// A kernel feature or a privilege is missing.
    Missing = 4,
    /// The agent was asked to lift enforcement: whoever starts it again undoes what somebody wanted.
    Released = 5,
}

impl Exit {
    /// The meaning of a code that a process of this program has ended with.
    pub fn with_code(code: i32) -> Self {
        [
            Self::Done,
            Self::Failed,
            Self::Usage,
            Self::NotProtected,
            Self::Missing,
            Self::Released,
        ]
        .into_iter()
        .find(|exit| *exit as i32 == code)
        .unwrap_or(Self::Failed)
    }

    /// The exit code an error asks for: that of its outermost mark, or [`Exit::Failed`].
    pub fn of(error: &anyhow::Error) -> Self {
        error
            .chain()
            .find_map(|cause| cause.downcast_ref::<Marked>())
            .map_or(Self::Failed, |m| m.exit)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Marks an error with the exit code it calls for.
pub trait WithExit<T> {
    /// Makes the process end with `exit` if this error reaches `main`; the messages stay as they are.
    ///
    /// A mark set further out, nearer to `main`, wins.
    fn with_exit(self, exit: Exit) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithExit<T> for Result<T, E> {
    fn with_exit(self, exit: Exit) -> anyhow::Result<T> {
        self.map_err(|error| {
            anyhow::Error::new(Marked {
                exit,
                error: error.into(),
            })
        })
    }
}

/// An error and its exit code; it shows and continues the chain exactly as the error within.
#[derive(Debug)]
struct Marked {
    exit: Exit,
    error: anyhow::Error,
}

impl fmt::Display for Marked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(formatter)
    }
}

impl Error for Marked {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.chain().nth(1)
    }
}

/// The text for standard error: `error: …` and a line `  caused by: …` for each cause.
///
/// Names of files and interfaces come from outside, so control characters are escaped: they could rewrite what the
/// terminal shows. Further lines of one message are kept, indented.
pub fn render(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for (depth, cause) in error.chain().enumerate() {
        text.push_str(if depth == 0 {
            "error: "
        } else {
            "  caused by: "
        });
        for (number, line) in cause.to_string().trim_end().split('\n').enumerate() {
            if number > 0 {
                text.push_str("    ");
            }
            text.push_str(&escape_control(line));
            text.push('\n');
        }
    }
    text
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Whether a character shows nothing, or turns around what is behind it.
fn is_misleading(character: char) -> bool {
    matches!(
        character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}

/// The text with what would act on a terminal, or turn its lines around, written as escape sequences.
pub fn escape_control(text: &str) -> String {
    text.chars().fold(
        String::with_capacity(text.len()),
        |mut escaped, character| {
            if character.is_control() || is_misleading(character) {
                escaped.extend(character.escape_default());
            } else {
                escaped.push(character);
            }
            escaped
        },
    )
}

/// The text as one word of a shell command, which people may copy.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::{Context as _, anyhow};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot attach")]
    struct Attach(#[source] io::Error);

    fn attach() -> Result<(), Attach> {
        Err(Attach(io::Error::other("no such hook")))
    }

    #[test]
    fn codes_are_the_documented_numbers() {
        let numbers = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NotProtected,
            Exit::Missing,
            Exit::Released,
        ]
        .map(|exit| exit as u8);
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
        assert_eq!(ExitCode::from(Exit::Missing), ExitCode::from(4));
        assert_eq!(Exit::with_code(3), Exit::NotProtected);
        assert_eq!(Exit::with_code(101), Exit::Failed);
    }

    #[test]
    fn an_error_without_a_mark_is_a_failure() {
        assert_eq!(Exit::of(&anyhow!("broken")), Exit::Failed);
    }

    #[test]
    fn a_mark_is_found_under_context_and_does_not_show() {
        let error = attach()
            .with_exit(Exit::Missing)
            .context("cannot start")
            .unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Missing);
        assert_eq!(
            render(&error),
            "error: cannot start\n  caused by: cannot attach\n  caused by: no such hook\n"
        );
    }

    #[test]
    fn a_mark_keeps_the_context_within() {
        let error = attach()
            .context("cannot start")
            .with_exit(Exit::Usage)
            .unwrap_err();
        assert_eq!(
            render(&error),
            "error: cannot start\n  caused by: cannot attach\n  caused by: no such hook\n"
        );
    }

    #[test]
    fn the_outer_mark_wins() {
        let error = attach()
            .with_exit(Exit::Missing)
            .with_exit(Exit::NotProtected)
            .unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NotProtected);
        assert_eq!(
            render(&error),
            "error: cannot attach\n  caused by: no such hook\n"
        );
    }

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        let error = anyhow!("no file \u{1b}[2Jx\r\nnext");
        assert_eq!(render(&error), "error: no file \\u{1b}[2Jx\\r\n    next\n");
        assert_eq!(escape_control("a\u{9b}b\tc"), "a\\u{9b}b\\tc");
        assert_eq!(escape_control("a\u{202e}b"), "a\\u{202e}b");
    }
}
