//! Which un-synced changes outlive a crash.

/// Decides about each dirty page and about the operations on names that were not synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrashPlan {
    /// Everything that was not synced is lost.
    LoseAll,
    /// Everything outlives the crash, and is durable.
    KeepAll,
    /// Only the process ends; the machine goes on. Nothing is lost, and nothing more is durable than before.
    ProcessOnly,
    /// Drawn from the seed: pages one by one, names as a prefix.
    Seeded(u64),
    /// Page i of the disk (files in order of creation, pages in order) is kept iff bit i is set; pages
    /// from 64 on are lost. The first `names` operations on names are kept.
    Explicit {
        /// Bit per dirty page.
        pages: u64,
        /// Operations on names that are kept.
        names: usize,
    },
}

impl CrashPlan {
    pub(super) fn choice(&self) -> Choice {
        Choice {
            plan: self.clone(),
            page: 0,
            state: if let Self::Seeded(seed) = self { *seed } else { 0 },
        }
    }
}

/// A plan while it is carried out.
#[derive(Debug)]
pub(super) struct Choice {
    plan: CrashPlan,
    page: u32,
    state: u64,
}

impl Choice {
    /// Whether the next page is kept.
    pub(super) fn page(&mut self) -> bool {
        let page = self.page;
        self.page += 1;
        match self.plan {
            CrashPlan::LoseAll => false,
            CrashPlan::KeepAll | CrashPlan::ProcessOnly => true,
            CrashPlan::Seeded(_) => self.draw() & 1 == 1,
            CrashPlan::Explicit { pages, .. } => {
                pages.checked_shr(page).is_some_and(|bits| bits & 1 == 1)
            }
        }
    }

    /// How many of `pending` operations on names are kept.
    pub(super) fn names(&mut self, pending: usize) -> usize {
        match self.plan {
            CrashPlan::LoseAll => 0,
            CrashPlan::KeepAll | CrashPlan::ProcessOnly => pending,
            CrashPlan::Seeded(_) => (self.draw() % (pending as u64 + 1)) as usize,
            CrashPlan::Explicit { names, .. } => names.min(pending),
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): every seed, also 0 and 1, gives a good sequence.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }
}
