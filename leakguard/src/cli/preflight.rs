//! The look before `run` and `apply` enforce.

use crate::config::{Config, Mode, Preflight};
use crate::error::{Exit, WithExit as _, chain};
use crate::preflight::{Problem, Report, Sources, look};

/// Says what enforcing would break; an error if the configuration wants it to be one.
pub(super) async fn check(config: &Config) -> anyhow::Result<()> {
    if config.preflight() == Preflight::Off {
        return Ok(());
    }
    let Report { notes, problems } = match look(config, &Sources::default()).await {
        Ok(report) => report,
        Err(error) if config.preflight() == Preflight::Warn => {
            log::warn!("cannot look ahead: {}", chain(&error));
            return Ok(());
        }
        Err(error) => return Err(error).with_exit(Exit::NotProtected),
    };
    for note in notes {
        log::info!("{note}");
    }
    for Problem { what, remedy } in problems {
        if config.mode() == Mode::Observe {
            log::info!("if it were enforced: {what}; {remedy}");
        } else if config.preflight() == Preflight::Refuse {
            return Err(anyhow::anyhow!(
                "{what}; {remedy}, or go on with --preflight warn"
            ))
            .with_exit(Exit::NotProtected);
        } else {
            log::warn!("{what}; {remedy}");
        }
    }
    Ok(())
}
