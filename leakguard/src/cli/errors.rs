//! Which exit code the errors of the agent's parts call for.

use crate::daemon::{ControlError, DaemonError};
use crate::error::{Exit, WithExit as _};
use crate::explain::ExplainError;
use crate::guard::GuardError;
use crate::kernel::KernelError;
use crate::resolver::ResolverError;
use crate::verify::VerifyError;

/// Marks an error of the guard.
pub(super) fn guard(error: GuardError) -> anyhow::Error {
    let exit = match &error {
        GuardError::Kernel(KernelError::Missing { .. }) => Exit::Missing,
        GuardError::NoInterface { .. } | GuardError::Resolvers(_) => Exit::Usage,
        GuardError::NotEnforcing | GuardError::Incomplete { .. } => Exit::NotProtected,
        GuardError::Kernel(_)
        | GuardError::NoWayBack { .. }
        | GuardError::Interfaces(_)
        | GuardError::Netfilter(_) => Exit::Failed,
    };
    marked(error, exit)
}

/// Marks an error of asking the programs.
pub(super) fn explain(error: ExplainError) -> anyhow::Error {
    match error {
        ExplainError::Guard(error) => guard(error),
        error @ ExplainError::Incomplete { .. } => marked(error, Exit::NotProtected),
        error @ ExplainError::Elsewhere { .. } => marked(error, Exit::Failed),
    }
}

/// Marks an error of the leak test.
pub(super) fn verify(error: VerifyError) -> anyhow::Error {
    match error {
        VerifyError::Guard(error) => guard(error),
        error @ VerifyError::Resolvers(_) => marked(error, Exit::Usage),
        error => marked(error, Exit::Failed),
    }
}

/// Marks an error of the agent.
pub(super) fn daemon(error: DaemonError) -> anyhow::Error {
    match error {
        DaemonError::Guard(error) => guard(error),
        DaemonError::Control(error) => control(error),
        DaemonError::Output(error) if error.is_mistake() => marked(error, Exit::Usage),
        error => marked(error, Exit::Failed),
    }
}

/// Marks an error of asking the agent, or of letting it be asked.
pub(super) fn control(error: ControlError) -> anyhow::Error {
    let exit = match &error {
        ControlError::Denied { .. } => Exit::Missing,
        _ => Exit::Failed,
    };
    marked(error, exit)
}

/// Marks an error of setting up the resolver.
pub(super) fn resolver(error: ResolverError) -> anyhow::Error {
    let exit = match &error {
        ResolverError::NoServers | ResolverError::Unfit(_) | ResolverError::Json { .. } => {
            Exit::Usage
        }
        ResolverError::Denied { .. } | ResolverError::Missing { .. } => Exit::Missing,
        _ => Exit::Failed,
    };
    marked(error, exit)
}

fn marked(error: impl Into<anyhow::Error>, exit: Exit) -> anyhow::Error {
    let result: anyhow::Result<std::convert::Infallible> = Err(error.into()).with_exit(exit);
    match result {
        Err(error) => error,
    }
}
