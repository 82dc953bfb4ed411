//! Whether a node may be sent work.

/// What `/readyz` answers. The owner of the node publishes it through a `watch` channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Clients may connect: 200.
    Ready,
    /// Clients should go elsewhere or wait: 503 with this reason, for people.
    NotReady {
        /// What is being waited for, such as "recovering the log".
        reason: String,
    },
}

impl Readiness {
    /// Not ready, because of `reason`.
    pub fn not_ready(reason: impl Into<String>) -> Self {
        Self::NotReady { reason: reason.into() }
    }
}
