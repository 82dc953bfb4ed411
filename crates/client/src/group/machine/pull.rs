//! What a member that fetches has asked for (G-15).
//!
//! The newest fetch counts alone: with it both sides forget what was delivered before and not begun. So
//! nothing that came late, or on another connection, is mistaken for a part of it, and nothing stays with a
//! member whose application has turned away.

use railgun_proto::v1;
use railgun_types::OffsetRange;

use super::{Fault, Item, Machine, Phase, Run};

/// Most that a fetch is to bring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) messages: u32,
    /// Encoded bytes.
    pub(crate) bytes: u64,
    /// Only what is there.
    pub(crate) no_wait: bool,
}

/// How far the newest fetch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The server owes nothing, and knows it.
    #[default]
    Idle,
    Untold,
    Told,
    /// What is delivered is of this fetch.
    Answered,
    /// Nothing more comes.
    Over,
}

#[derive(Debug, Default)]
pub(super) struct Pull {
    demand: Demand,
    /// Of the last frame on this connection.
    number: u64,
    stage: Stage,
}

impl Pull {
    pub(super) fn is_untold(&self) -> bool {
        self.stage == Stage::Untold
    }

    /// Whether deliveries that come now are wanted.
    pub(super) fn is_answered(&self) -> bool {
        self.stage == Stage::Answered
    }

    pub(super) fn tell(&mut self) -> v1::Fetch {
        self.number += 1;
        self.stage = Stage::Told;
        let Demand { messages, bytes, no_wait } = self.demand;
        v1::Fetch { number: self.number, messages, bytes, no_wait }
    }

    /// A server has taken the member, and owes it nothing yet.
    pub(super) fn on_joined(&mut self) {
        self.number = 0;
        self.stage = if self.demand.messages > 0 { Stage::Untold } else { Stage::Idle };
    }

    pub(super) fn on_fetching(&mut self, number: u64) -> Result<(), Fault> {
        if number > self.number {
            return Err(Fault::Unfetched { number, sent: self.number });
        }
        if number == self.number && self.stage == Stage::Told {
            self.stage = match self.demand.messages {
                0 => Stage::Idle,
                _ => Stage::Answered,
            };
        }
        Ok(())
    }

    pub(super) fn on_fetched(&mut self, number: u64) {
        if number == self.number && self.stage == Stage::Answered {
            self.stage = Stage::Over;
        }
    }
}

impl Machine {
    /// Of a member that gets only what it fetches.
    pub(crate) fn pulling(mut self) -> Self {
        self.pull = Some(Pull::default());
        self
    }

    /// From here on this is wanted, and nothing of what lies in the buffer.
    pub(crate) fn fetch(&mut self, demand: Demand) -> bool {
        if let Some(pull) = &mut self.pull {
            (pull.demand, pull.stage) = (demand, Stage::Untold);
        }
        self.unbuffer(EVERYTHING, |_| true);
        self.must_wake()
    }

    /// Whether there is nothing to wait for any more.
    pub(crate) fn is_fetched(&self) -> bool {
        let Some(pull) = &self.pull else { return true };
        let has_all = || self.leases.buffered() >= pull.demand.messages as usize;
        match pull.stage {
            Stage::Idle | Stage::Over => true,
            Stage::Answered => has_all(),
            Stage::Untold | Stage::Told => matches!(self.phase, Phase::Draining { .. }),
        }
    }

    /// Begins with what the fetch has brought, and ends it: nothing of it is left at the server.
    pub(crate) fn take_fetched(&mut self) -> (Vec<Run>, bool) {
        let is_fetched = self.is_fetched();
        let mut begun = Vec::new();
        for item in std::mem::take(&mut self.buffer) {
            match item {
                Item::Run(run) => {
                    self.buffer_bytes -= run.records.bytes();
                    self.begin_all(&run, &mut begun);
                }
                Item::News(_) => self.buffer.push_back(item),
            }
        }
        if let Some(pull) = &mut self.pull {
            pull.demand = Demand::default();
            pull.stage = if is_fetched { Stage::Idle } else { Stage::Untold };
        }
        (begun, self.must_wake())
    }

    /// Parts of a run may have been taken back.
    fn begin_all(&mut self, run: &Run, begun: &mut Vec<Run>) {
        let mut left = run.range();
        while !left.is_empty() {
            let part = self.leases.begin(run.tag.lease, left);
            // Ranges within a run are as short as the run.
            let skip = part.start.0.saturating_sub(run.range().start.0) as usize;
            let Some(records) = run.records.part(skip, part.len() as usize) else { return };
            begun.push(Run { records, ..run.clone() });
            left.start = part.end;
        }
    }
}

pub(super) const EVERYTHING: OffsetRange =
    OffsetRange { start: railgun_types::Offset(0), end: railgun_types::Offset(u64::MAX) };
