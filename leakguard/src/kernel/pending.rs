//! The programs that are still being loaded while the first one enforces already.

use std::mem;
use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};

use super::KernelError;

/// What a thread makes, or has made.
pub(super) enum Pending<T> {
    /// The thread is at it.
    Making(JoinHandle<Result<T, KernelError>>),
    /// Here it is.
    Made(T),
    /// It could not be made, which was told when it was waited for.
    Failed,
}

impl<T: Send + 'static> Pending<T> {
    /// Begins to make it.
    pub(super) fn begin(
        name: &'static str,
        make: impl FnOnce() -> Result<T, KernelError> + Send + 'static,
    ) -> Result<Self, KernelError> {
        let thread = thread::Builder::new().name(name.into()).spawn(make);
        Ok(Self::Making(
            thread.map_err(KernelError::call("clone", name))?,
        ))
    }

    /// Waits until it is made.
    pub(super) fn wait(&mut self) -> Result<&mut T, KernelError> {
        if let Self::Making(_) = self
            && let Self::Making(thread) = mem::replace(self, Self::Failed)
        {
            let made = thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            *self = Self::Made(made);
        }
        match self {
            Self::Made(made) => Ok(made),
            Self::Making(_) | Self::Failed => Err(KernelError::Load {
                program: "the programs".into(),
                source: "they could not be loaded before".into(),
            }),
        }
    }

    /// It, if it was waited for.
    pub(super) fn made(&self) -> Option<&T> {
        match self {
            Self::Made(made) => Some(made),
            Self::Making(_) | Self::Failed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_there_once_it_was_waited_for() {
        let mut pending = Pending::begin("test", || Ok(7)).unwrap();
        assert_eq!(*pending.wait().unwrap(), 7);
        assert_eq!(pending.made(), Some(&7));
    }

    #[test]
    fn what_could_not_be_made_never_is() {
        let refuse = || Err(KernelError::Changed { path: "/".into() });
        let mut pending = Pending::<u32>::begin("test", refuse).unwrap();
        assert!(matches!(pending.wait(), Err(KernelError::Changed { .. })));
        assert!(matches!(pending.wait(), Err(KernelError::Load { .. })));
        assert_eq!(pending.made(), None);
    }
}
