//! `leakguard explain`: what would become of a packet, and why.

use std::path::Path;

use super::args::ExplainArgs;
use super::output::Output;
use super::run::require_tunnel;
use super::{errors, runtime};
use crate::error::{Exit, WithExit as _};
use crate::explain::{Basis, Capture, Captured, Journey, Judge, LinkType, Tuple};

/// Runs the command.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
    runtime()?.block_on(explain(args))
}

async fn explain(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let ExplainArgs {
        packet,
        pcap,
        interface,
        forwarded,
        mark,
        json,
        policy: _,
        bpffs,
    } = args;
    // What is wrong with the question is said before anything is loaded.
    let question = match pcap {
        Some(path) => Question::Capture(Capture::open(path).with_exit(Exit::Usage)?),
        None => Question::Tuple(Tuple::parse(packet).with_exit(Exit::Usage)?),
    };
    let journey = Journey {
        interface: interface.clone(),
        forwarded: *forwarded,
        mark: *mark,
    };
    let basis = basis(args, &bpffs.bpffs).await?;
    let judge = Judge::new(&bpffs.bpffs, basis, &journey)
        .await
        .map_err(errors::explain)?;
    let mut telling = Telling {
        judge,
        output: Output::stdout(),
        json: *json,
    };
    match question {
        Question::Tuple(tuple) => telling.tuple(&tuple).await,
        Question::Capture(capture) => telling.capture(capture).await,
    }
}

enum Question {
    Tuple(Tuple),
    Capture(Capture),
}

/// What is enforced, unless something else is asked about or nothing is enforced.
async fn basis(args: &ExplainArgs, bpffs: &Path) -> anyhow::Result<Basis> {
    if !args.policy.is_given()
        && let Some(enforced) = Basis::enforced(bpffs).map_err(errors::explain)?
    {
        return Ok(enforced);
    }
    let config = args.policy.load()?;
    require_tunnel(&config, "explain").await?;
    Ok(Basis::Configuration(Box::new(config)))
}

struct Telling {
    judge: Judge,
    output: Output,
    json: bool,
}

impl Telling {
    async fn tuple(&mut self, tuple: &Tuple) -> anyhow::Result<Exit> {
        let local = self
            .judge
            .local_address(tuple.destination())
            .await
            .map_err(errors::explain)?;
        let bytes = tuple.packet(local);
        let captured = Captured {
            number: 1,
            link: LinkType::Ip,
            length: u32::try_from(bytes.len())?,
            bytes,
        };
        self.packet(&captured).await?;
        self.summary(true)?;
        Ok(Exit::Done)
    }

    /// What comes before something that cannot be read is told all the same.
    async fn capture(&mut self, mut capture: Capture) -> anyhow::Result<Exit> {
        loop {
            match capture.next_packet() {
                Ok(Some(captured)) => self.packet(&captured).await?,
                Ok(None) => break,
                Err(error) => {
                    self.summary(false)?;
                    return Err(error).with_exit(Exit::Usage);
                }
            }
            if self.output.reader_gone() {
                return Ok(Exit::Done);
            }
        }
        self.summary(true)?;
        Ok(Exit::Done)
    }

    async fn packet(&mut self, captured: &Captured) -> anyhow::Result<()> {
        let explanation = self.judge.explain(captured).await;
        let explanation = explanation.map_err(errors::explain)?;
        if self.json {
            self.output.line(serde_json::to_string(&explanation)?)?;
        } else {
            self.output.line(&explanation)?;
        }
        Ok(())
    }

    fn summary(&mut self, complete: bool) -> anyhow::Result<()> {
        let summary = self.judge.summary(complete);
        if self.json {
            self.output.line(serde_json::to_string(&summary)?)?;
        } else {
            self.output.line("")?;
            self.output.line(&summary)?;
        }
        Ok(())
    }
}
