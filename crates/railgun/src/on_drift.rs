//! What a command that ensures something does about a difference.

use clap::ValueEnum;
use railgun_client::EnsureMode;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnDrift {
    /// Fail if it is absent or differs; change nothing
    Check,
    /// Make it if absent; tell a difference, change nothing
    Warn,
    /// Make it if absent; make it so
    Overwrite,
}

impl From<OnDrift> for EnsureMode {
    fn from(on_drift: OnDrift) -> Self {
        match on_drift {
            OnDrift::Check => Self::Check,
            OnDrift::Warn => Self::Warn,
            OnDrift::Overwrite => Self::Overwrite,
        }
    }
}
