//! The seam through which the broker draws random bits.

use std::fmt::Debug;

/// Draws identifiers. Injected at the root, so that a simulation draws from its seed.
pub trait Entropy: Debug + Send + Sync + 'static {
    /// 128 bits that nobody can guess.
    fn uid(&self) -> [u8; 16];
}

/// The operating system's random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// If the system has no random source: nothing this node makes would be unique.
    #[expect(clippy::disallowed_methods, reason = "the one place where randomness is drawn")]
    fn uid(&self) -> [u8; 16] {
        let mut uid = [0; 16];
        if let Err(error) = getrandom::fill(&mut uid) {
            panic!("the system gives no random bytes: {error}");
        }
        uid
    }
}
