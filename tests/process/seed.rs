//! Seeds of what is drawn at random.

use std::hash::{BuildHasher, RandomState};

/// The seed in the environment variable `name`, if it is set; else one that differs each time.
pub(crate) fn seed_of(name: &str) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: '{text}'")),
        Err(_) => RandomState::new().hash_one(std::process::id()),
    }
}
