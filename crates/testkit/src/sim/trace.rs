//! What happened, in order and with virtual time: two runs are the same iff their traces are. And how
//! often.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::counts::Counts;
use super::shared::Shared;

/// The ordered log of a run. Cheap to clone; clones are one trace.
#[derive(Clone, Debug)]
pub struct Trace {
    start: Instant,
    lines: Shared<Vec<String>>,
    counts: Shared<Counts>,
    /// The node that notes, where there are several.
    node: Option<u8>,
}

impl Trace {
    /// An empty trace that begins now.
    #[must_use]
    pub fn begin() -> Self {
        let (lines, counts) = (Shared::new(Vec::new()), Shared::new(Counts::default()));
        Self { start: Instant::now(), lines, counts, node: None }
    }

    /// The same trace, for what one of several nodes does.
    pub(super) fn of_node(&self, number: u8) -> Self {
        Self { node: Some(number), ..self.clone() }
    }

    /// Virtual time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Notes an event.
    pub(super) fn note(&self, event: fmt::Arguments<'_>) {
        let at = self.elapsed().as_secs_f64();
        let line = match self.node {
            None => format!("{at:>12.6} {event}"),
            Some(node) => format!("{at:>12.6} [{node}] {event}"),
        };
        self.lines.with(|lines| lines.push(line));
    }

    /// Counts something.
    pub(super) fn count(&self, add: impl FnOnce(&mut Counts)) {
        self.counts.with(add);
    }

    /// Counts what befell the nodes.
    pub(super) fn count_fault(&self, name: &'static str) {
        self.count(|counts| *counts.faults.entry(name).or_default() += 1);
    }

    /// How often what came about so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.with(|counts| counts.clone())
    }

    /// Every event so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.with(|lines| lines.clone())
    }

    /// Hash over all events.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.lines.with(|lines| digest(lines.iter().flat_map(|line| line.bytes().chain([b'\n']))))
    }
}

/// 64-bit FNV-1a. Not a CRC: what ends with its own CRC would always have the same.
pub(super) fn digest(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
