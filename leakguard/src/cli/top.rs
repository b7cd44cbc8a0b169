//! `leakguard top`: the live view, its sources of news, and the terminal.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::crossterm::event::{
    self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

use super::args::TopArgs;
use super::{errors, runtime};
use crate::daemon::connect;
use crate::daemon::protocol::{Answer, Ask};
use crate::error::{Exit, WithExit as _, chain};
use crate::event::Entry;
use crate::status;
use crate::top::{Model, Snapshot, draw};

/// How many news may wait; who brings more waits, and the agent counts what it cannot bring.
const BACKLOG: usize = 1024;

/// How soon a key or an event is seen.
const TICK: Duration = Duration::from_millis(100);

/// How soon an agent is looked for again.
const SEARCH_INTERVAL: Duration = Duration::from_secs(2);

/// How often the state can be read: less would be busy, more would be no live view.
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(250)..=Duration::from_mins(1);

/// What the threads bring.
enum News {
    Snapshot(Box<Snapshot>),
    Trouble(String),
    Event(Entry),
    Missed(u64),
    /// A signal has come.
    End,
}

/// Restores the terminal however the view ends.
struct Screen(ratatui::DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        // ratatui's hook has done it before the panic was reported; twice would put the cursor over the report.
        if !thread::panicking() {
            ratatui::restore();
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &TopArgs) -> anyhow::Result<Exit> {
    let TopArgs {
        interval,
        bpffs,
        control,
    } = args;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(anyhow!(
            "`leakguard top` needs a terminal; `leakguard status` and `leakguard events` print the same"
        ))
        .with_exit(Exit::Usage);
    }
    // Before the screen is taken: what cannot be read at all is an error like any other.
    let started = Instant::now();
    let first = runtime()?
        .block_on(snapshot(started, &bpffs.bpffs, &control.control))
        .map_err(errors::guard)?;
    let mut model = Model::new(*interval);
    model.observe(first);

    let (news, received) = sync_channel(BACKLOG);
    let (pace, paced) = watch::channel(*interval);
    let reading = Reading {
        started,
        bpffs: bpffs.bpffs.clone(),
        control: control.control.clone(),
        pace: paced,
        news: news.clone(),
    };
    spawn("status", move || reading.run())?;
    let control = control.control.clone();
    spawn("events", move || follow(&control, &news))?;

    // A log line would go over the picture.
    log::set_max_level(log::LevelFilter::Off);
    let mut screen = Screen(ratatui::try_init().context("cannot use the terminal")?);
    show(&mut screen, &mut model, &received, &pace).context("cannot use the terminal")?;
    Ok(Exit::Done)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .with_context(|| format!("cannot start the thread `{name}`"))?;
    Ok(())
}

/// Shows the model until somebody has seen enough.
fn show(
    screen: &mut Screen,
    model: &mut Model,
    news: &Receiver<News>,
    pace: &watch::Sender<Duration>,
) -> io::Result<()> {
    // What is shown on while the picture is stopped; the model goes on behind it.
    let mut stopped: Option<Model> = None;
    loop {
        // A flood must not keep keys and picture waiting.
        for _ in 0..BACKLOG {
            match news.try_recv() {
                Ok(News::Snapshot(snapshot)) => model.observe(*snapshot),
                Ok(News::Trouble(trouble)) => model.fail(trouble),
                Ok(News::Event(entry)) => model.note(entry),
                Ok(News::Missed(events)) => model.miss(events),
                Ok(News::End) | Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => break,
            }
        }
        let picture = stopped.as_ref().unwrap_or(model);
        screen.0.draw(|frame| draw(picture, frame))?;
        // Asked first: crossterm 0.29 reads without end from a terminal that is gone.
        let waited = await_key()?;
        if waited == Waited::Gone {
            return Ok(());
        }
        let mut heard = false;
        // Whatever there is: a change of the size that is left there is given in place of the next key.
        while event::poll(Duration::ZERO)? {
            heard = true;
            let Input::Key(key) = event::read()? else {
                // The next picture has the new size.
                continue;
            };
            match wish(&key) {
                Some(Wish::End) => return Ok(()),
                Some(Wish::Pause) => {
                    model.toggle_pause();
                    stopped = model.paused().then(|| model.clone());
                }
                Some(Wish::Clear) => model.clear(),
                Some(Wish::Slower) => set_pace(model, pace, model.interval() * 2),
                Some(Wish::Faster) => set_pace(model, pace, model.interval() / 2),
                #[cfg(debug_assertions)]
                Some(Wish::Panic) => panicking(),
                None => {}
            }
        }
        if waited == Waited::Key && !heard {
            // crossterm has not noticed the key: it comes with the next one.
            thread::sleep(TICK);
        }
    }
}

/// What a key stands for.
enum Wish {
    End,
    Pause,
    Clear,
    Slower,
    Faster,
    #[cfg(debug_assertions)]
    Panic,
}

fn wish(key: &KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if control => Some(Wish::End),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::End),
        KeyCode::Char('p' | ' ') => Some(Wish::Pause),
        KeyCode::Char('c') => Some(Wish::Clear),
        KeyCode::Char('+') => Some(Wish::Slower),
        KeyCode::Char('-') => Some(Wish::Faster),
        #[cfg(debug_assertions)]
        KeyCode::F(12) => Some(Wish::Panic),
        _ => None,
    }
}

/// What came of waiting for a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waited {
    Key,
    Nothing,
    /// The terminal is gone.
    Gone,
}

fn await_key() -> io::Result<Waited> {
    let stdin = io::stdin();
    let mut terminal = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(TICK).map_err(io::Error::other)?;
    match poll(&mut terminal, limit) {
        // The size has changed, for example.
        Ok(0) | Err(Errno::EINTR) => return Ok(Waited::Nothing),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let found = terminal[0].revents().unwrap_or(PollFlags::empty());
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    Ok(if found.intersects(gone) {
        Waited::Gone
    } else {
        Waited::Key
    })
}

/// Shows what becomes of the terminal then.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "it is what was asked for")]
fn panicking() {
    panic!("somebody has asked for it");
}

fn set_pace(model: &mut Model, pace: &watch::Sender<Duration>, wanted: Duration) {
    let interval = wanted.clamp(*INTERVALS.start(), *INTERVALS.end());
    model.set_interval(interval);
    pace.send_replace(interval);
}

async fn snapshot(
    started: Instant,
    bpffs: &Path,
    control: &Path,
) -> Result<Snapshot, crate::guard::GuardError> {
    Ok(Snapshot {
        at: started.elapsed(),
        status: status::read(bpffs).await?,
        agent: agent(control),
    })
}

/// The agent, if one answers.
fn agent(control: &Path) -> Option<(u32, crate::daemon::HealthReport)> {
    let mut agent = connect(control, &Ask::Hello {}).ok()??;
    match agent.answer() {
        Ok(Answer::Agent { pid, health, .. }) => Some((pid, health)),
        _ => None,
    }
}

/// Reads the state over and over.
struct Reading {
    started: Instant,
    bpffs: PathBuf,
    control: PathBuf,
    pace: watch::Receiver<Duration>,
    news: SyncSender<News>,
}

impl Reading {
    fn run(self) {
        let Self {
            started,
            bpffs,
            control,
            mut pace,
            news,
        } = self;
        let Ok(runtime) = runtime() else { return };
        runtime.block_on(async {
            let signals = (
                signal(SignalKind::terminate()),
                signal(SignalKind::hangup()),
                signal(SignalKind::interrupt()),
            );
            let (Ok(mut terminate), Ok(mut hangup), Ok(mut interrupt)) = signals else {
                return;
            };
            loop {
                let interval = *pace.borrow_and_update();
                tokio::select! {
                    () = sleep(interval) => {}
                    Ok(()) = pace.changed() => continue,
                    _ = terminate.recv() => break,
                    _ = hangup.recv() => break,
                    _ = interrupt.recv() => break,
                }
                let read = match snapshot(started, &bpffs, &control).await {
                    Ok(snapshot) => News::Snapshot(Box::new(snapshot)),
                    Err(error) => News::Trouble(chain(&error)),
                };
                if news.send(read).is_err() {
                    return;
                }
            }
            // Without a view there is nothing left to end.
            drop(news.send(News::End));
        });
    }
}

/// Brings events from whatever agent there is, until nobody wants them.
fn follow(control: &Path, news: &SyncSender<News>) {
    let question = Ask::Events {
        follow: true,
        packets: false,
    };
    loop {
        if let Ok(Some(mut agent)) = connect(control, &question) {
            while let Ok(Some(line)) = agent.line() {
                let item = match serde_json::from_str(&line) {
                    Ok(entry) => News::Event(entry),
                    Err(_) => match serde_json::from_str(&line) {
                        Ok(Answer::Missed { events }) => News::Missed(events),
                        _ => break,
                    },
                };
                if news.send(item).is_err() {
                    return;
                }
            }
        }
        // None yet, or none any more.
        thread::sleep(SEARCH_INTERVAL);
    }
}

/// Accepts an interval.
pub(super) fn interval(text: &str) -> Result<Duration, &'static str> {
    let parsed: jiff::SignedDuration = text.parse().or(Err(
        "not a time; write it with its unit, such as 1s or 500ms",
    ))?;
    Duration::try_from(parsed)
        .ok()
        .filter(|interval| INTERVALS.contains(interval))
        .ok_or("not between 250ms and 60s")
}
