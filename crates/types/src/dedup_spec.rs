//! The ID time box of a stream: for how long a message's id keeps the same message from being appended
//! again (DD-1).

use std::fmt;

use crate::limits::{
    DEDUP_IDS_DEFAULT, DEDUP_IDS_PER_SHARD, DEDUP_WINDOW_MS_MAX, DEDUP_WINDOW_MS_MIN,
};
use crate::stream_spec::{ChangeClass, FieldDiff, InvalidSpec};

/// What happens to a message with a new id while as many are held as may be (DD-5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum DedupFull {
    /// It is refused until an id has left the box.
    #[default]
    Reject = 1,
    /// The oldest id is forgotten before its time: the box is shorter than its window then.
    EvictOldest = 2,
}

impl DedupFull {
    /// The choice of this number.
    #[must_use]
    pub fn from_u8(full: u8) -> Option<Self> {
        match full {
            1 => Some(Self::Reject),
            2 => Some(Self::EvictOldest),
            _ => None,
        }
    }

    /// As users write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::EvictOldest => "evict-oldest",
        }
    }
}

/// The effective settings of a stream's ID time box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupSpec {
    /// How long an id is held, in ms of log time: 0 (the box is off), or 1 s … 7 d.
    pub window_ms: u64,
    /// Whether messages without an id are refused.
    pub require_id: bool,
    /// Most ids held: 1 … [`DEDUP_IDS_PER_SHARD`].
    pub max_ids: u64,
    /// What happens when there are so many.
    pub full: DedupFull,
}

impl Default for DedupSpec {
    fn default() -> Self {
        Self {
            window_ms: 0,
            require_id: false,
            max_ids: DEDUP_IDS_DEFAULT,
            full: DedupFull::default(),
        }
    }
}

impl DedupSpec {
    /// Whether ids are compared at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.window_ms > 0
    }

    /// The window in µs.
    #[must_use]
    pub fn window_us(&self) -> i64 {
        // At most 7 days, as it is validated.
        i64::try_from(self.window_ms).unwrap_or(i64::MAX).saturating_mul(1_000)
    }
}

/// The settings of a box that a user names; what is absent is "don't care" (EN-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DedupPatch {
    /// See [`DedupSpec::window_ms`].
    pub window_ms: Option<u64>,
    /// See [`DedupSpec::require_id`].
    pub require_id: Option<bool>,
    /// See [`DedupSpec::max_ids`].
    pub max_ids: Option<u64>,
    /// See [`DedupSpec::full`].
    pub full: Option<DedupFull>,
}

impl DedupPatch {
    pub(crate) fn validate(&self) -> Result<(), InvalidSpec> {
        if let Some(ms) = self.window_ms
            && ms != 0
            && !(DEDUP_WINDOW_MS_MIN..=DEDUP_WINDOW_MS_MAX).contains(&ms)
        {
            let reason = format!("{} is neither 0 nor 1s to 7d", Window(ms));
            return Err(InvalidSpec { path: "dedup.window", reason });
        }
        if let Some(ids) = self.max_ids
            && !(1..=DEDUP_IDS_PER_SHARD).contains(&ids)
        {
            let reason = format!("{ids} is outside 1 to {DEDUP_IDS_PER_SHARD}");
            return Err(InvalidSpec { path: "dedup.max_ids", reason });
        }
        Ok(())
    }

    pub(crate) fn apply_to(&self, spec: &mut DedupSpec) {
        let Self { window_ms, require_id, max_ids, full } = *self;
        spec.window_ms = window_ms.unwrap_or(spec.window_ms);
        spec.require_id = require_id.unwrap_or(spec.require_id);
        spec.max_ids = max_ids.unwrap_or(spec.max_ids);
        spec.full = full.unwrap_or(spec.full);
    }

    /// Adds what differs to `diff`. Turning the box off forgets its ids, and nothing brings them back
    /// (EN-4).
    pub(crate) fn diff(&self, actual: &DedupSpec, diff: &mut Vec<FieldDiff>) {
        let mut wanted = *actual;
        self.apply_to(&mut wanted);
        let mut compare = |path: &str, of: &dyn Fn(&DedupSpec) -> String, class| {
            let (actual, wanted) = (of(actual), of(&wanted));
            if actual != wanted {
                diff.push(FieldDiff { path: path.to_owned(), actual, wanted, class });
            }
        };
        let off = actual.is_on() && !wanted.is_on();
        let class = if off { ChangeClass::Destructive } else { ChangeClass::Live };
        compare("dedup.window", &|spec| Window(spec.window_ms).to_string(), class);
        compare("dedup.require_id", &|spec| spec.require_id.to_string(), ChangeClass::Live);
        compare("dedup.max_ids", &|spec| spec.max_ids.to_string(), ChangeClass::Live);
        compare("dedup.full", &|spec| spec.full.name().to_owned(), ChangeClass::Live);
    }
}

/// A window in ms, for people: in the largest unit that leaves no rest.
struct Window(u64);

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] =
            [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let Self(ms) = *self;
        if ms == 0 {
            return f.write_str("off");
        }
        match UNITS.into_iter().find(|(_, unit)| ms.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", ms / unit),
            None => write!(f, "{ms}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_off_or_has_a_window_between_a_second_and_a_week() {
        // DD-1
        let path = |patch: DedupPatch| patch.validate().map_err(|error| error.path);
        let window = |ms| path(DedupPatch { window_ms: Some(ms), ..DedupPatch::default() });
        for ms in [0, 1_000, 120_000, 7 * 86_400_000] {
            assert_eq!(window(ms), Ok(()), "{ms}");
        }
        for ms in [1, 999, 7 * 86_400_000 + 1, u64::MAX] {
            assert_eq!(window(ms), Err("dedup.window"), "{ms}");
        }
        let ids = |ids| path(DedupPatch { max_ids: Some(ids), ..DedupPatch::default() });
        assert_eq!((ids(1), ids(DEDUP_IDS_PER_SHARD)), (Ok(()), Ok(())));
        for number in [0, DEDUP_IDS_PER_SHARD + 1] {
            assert_eq!(ids(number), Err("dedup.max_ids"), "{number}");
        }
    }

    #[test]
    fn only_turning_the_box_off_loses_something() {
        // EN-4
        let on = DedupSpec { window_ms: 120_000, ..DedupSpec::default() };
        let differs = |actual: &DedupSpec, patch: DedupPatch| {
            let mut diff = Vec::new();
            patch.diff(actual, &mut diff);
            let said = |it: FieldDiff| (it.path, it.actual, it.wanted, it.class);
            diff.into_iter().map(said).collect::<Vec<_>>()
        };
        assert_eq!(differs(&on, DedupPatch::default()), []);
        let window = |ms| DedupPatch { window_ms: Some(ms), ..DedupPatch::default() };
        let said = |is: &str, wish: &str, class| {
            vec![("dedup.window".to_owned(), is.to_owned(), wish.to_owned(), class)]
        };
        assert_eq!(differs(&on, window(0)), said("2m", "off", ChangeClass::Destructive));
        assert_eq!(differs(&on, window(90_000)), said("2m", "90s", ChangeClass::Live));
        let off = DedupSpec::default();
        assert_eq!(differs(&off, window(7_200_000)), said("off", "2h", ChangeClass::Live));
        let all = DedupPatch {
            window_ms: Some(1_500),
            require_id: Some(true),
            max_ids: Some(7),
            full: Some(DedupFull::EvictOldest),
        };
        let paths: Vec<_> = differs(&on, all).into_iter().map(|(path, ..)| path).collect();
        assert_eq!(paths, ["dedup.window", "dedup.require_id", "dedup.max_ids", "dedup.full"]);
    }
}
