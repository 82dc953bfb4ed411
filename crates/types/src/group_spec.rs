//! What a user asks a consumer group to be, and how a wish differs from what is (SEMANTICS §3, §4, §8).

use std::ops::RangeInclusive;

use crate::limits::{BACKOFF_STEPS, DELAY_MS, OWNER_BYTES};
use crate::{ChangeClass, FieldDiff, InvalidSpec};

/// How a group shares its messages out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GroupMode {
    /// Each message to one of the members; no order across them.
    #[default]
    Balanced = 1,
    /// All messages to one member, in strict order; another one takes over from it.
    Exclusive = 2,
}

impl GroupMode {
    /// The mode of this number.
    #[must_use]
    pub fn from_u8(mode: u8) -> Option<Self> {
        match mode {
            1 => Some(Self::Balanced),
            2 => Some(Self::Exclusive),
            _ => None,
        }
    }

    /// As users write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Exclusive => "exclusive",
        }
    }
}

const ACK_WAIT_MS: RangeInclusive<u64> = 100..=12 * 3_600_000;
const IN_FLIGHT: RangeInclusive<u64> = 1..=100_000;
const IN_FLIGHT_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 30;
const UNSETTLED: RangeInclusive<u64> = 1..=1_000_000;
const WINDOW: RangeInclusive<u64> = 1..=1 << 40;
/// Ten years.
const AGE_MS: RangeInclusive<u64> = 0..=3_650 * 24 * 3_600_000;
const ATTEMPTS: RangeInclusive<u64> = 0..=1_000_000;
const MIN_ATTEMPTS: RangeInclusive<u64> = 1..=1_000_000;
const DISTANCE: RangeInclusive<u64> = 0..=1 << 40;

/// The effective settings of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// How it shares its messages out.
    pub mode: GroupMode,
    /// How long a member may take over a message it has begun, in ms: 100 ms … 12 h (G-8).
    pub ack_wait_ms: u64,
    /// Most messages that members have and have not settled: 1 … 100,000 (G-12).
    pub max_in_flight: u32,
    /// Most bytes of these: 1 MiB … 1 GiB.
    pub max_in_flight_bytes: u64,
    /// Most messages that are leased, delayed, dying or parked: 1 … 1,000,000 (G-5).
    pub max_unsettled: u32,
    /// Offsets beyond the floor up to which messages are handed out: 1 … 2^40 (G-5).
    pub window: u64,
    /// How long a message waits after its first, second, … failure, in ms, each at most 24 h: up to 32
    /// of them, of which the last one repeats (G-11).
    pub backoff_ms: Vec<u64>,
    /// Retention leaves what the group has not settled (G-2).
    pub pin_retention: bool,
    /// Who manages the group; as a stream's.
    pub owner: String,
    /// When a message is given up.
    pub dlq: DlqSpec,
}

impl Default for GroupSpec {
    fn default() -> Self {
        Self {
            mode: GroupMode::Balanced,
            ack_wait_ms: 30_000,
            max_in_flight: 1_000,
            max_in_flight_bytes: 64 << 20,
            max_unsettled: 10_000,
            window: 1_000_000,
            backoff_ms: vec![0, 1_000, 5_000, 30_000],
            pin_retention: false,
            owner: String::new(),
            dlq: DlqSpec::default(),
        }
    }
}

impl GroupSpec {
    /// How long a message waits after its failure number `failure`, the first being 1, in ms.
    #[must_use]
    pub fn backoff_after_ms(&self, failure: u32) -> u64 {
        let step = (failure.max(1) as usize - 1).min(self.backoff_ms.len().saturating_sub(1));
        self.backoff_ms.get(step).copied().unwrap_or(0)
    }

    /// What is possible and probably not meant.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let (distance, in_flight) = (self.dlq.max_distance, self.max_in_flight);
        let mut warnings = Vec::new();
        if self.dlq.enabled && distance != 0 && distance < 2 * u64::from(in_flight) {
            warnings.push(format!(
                "dlq.max_distance {distance} is less than twice max_in_flight {in_flight}: a message that \
                 one member is slow with can lag behind what others settle meanwhile"
            ));
        }
        warnings
    }
}

/// When a message is given up, and becomes a dead letter (SEMANTICS §4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DlqSpec {
    /// Whether what is given up goes to the group's companion; if not, it is parked.
    pub enabled: bool,
    /// Failures after which a message is given up; 0: never by their number.
    pub max_attempts: u32,
    /// Offsets that the group may have acked beyond a message that fails; 0: any number (DL-1).
    pub max_distance: u64,
    /// Time since its first failure after which a message that fails is given up, in ms; 0: never.
    pub max_age_ms: u64,
    /// Failures without which no message is given up by its distance: from 1.
    pub min_attempts: u32,
}

impl Default for DlqSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            max_attempts: 5,
            max_distance: 10_000,
            max_age_ms: 0,
            min_attempts: 2,
        }
    }
}

/// The settings of a group that a user names; what is absent is "don't care" (EN-2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupPatch {
    /// See [`GroupSpec::mode`].
    pub mode: Option<GroupMode>,
    /// See [`GroupSpec::ack_wait_ms`].
    pub ack_wait_ms: Option<u64>,
    /// See [`GroupSpec::max_in_flight`].
    pub max_in_flight: Option<u32>,
    /// See [`GroupSpec::max_in_flight_bytes`].
    pub max_in_flight_bytes: Option<u64>,
    /// See [`GroupSpec::max_unsettled`].
    pub max_unsettled: Option<u32>,
    /// See [`GroupSpec::window`].
    pub window: Option<u64>,
    /// See [`GroupSpec::backoff_ms`].
    pub backoff_ms: Option<Vec<u64>>,
    /// See [`GroupSpec::pin_retention`].
    pub pin_retention: Option<bool>,
    /// See [`GroupSpec::owner`].
    pub owner: Option<String>,
    /// See [`GroupSpec::dlq`].
    pub dlq: DlqPatch,
}

/// The part of a wish that is about dead letters; what is absent is "don't care".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DlqPatch {
    /// See [`DlqSpec::enabled`].
    pub enabled: Option<bool>,
    /// See [`DlqSpec::max_attempts`].
    pub max_attempts: Option<u32>,
    /// See [`DlqSpec::max_distance`].
    pub max_distance: Option<u64>,
    /// See [`DlqSpec::max_age_ms`].
    pub max_age_ms: Option<u64>,
    /// See [`DlqSpec::min_attempts`].
    pub min_attempts: Option<u32>,
}

/// Checks that a number, if there is one, is in its range.
fn within(
    path: &'static str,
    value: Option<impl Into<u64>>,
    range: RangeInclusive<u64>,
) -> Result<(), InvalidSpec> {
    match value.map(Into::into) {
        Some(value) if !range.contains(&value) => {
            let reason = format!("{value} is outside {} to {}", range.start(), range.end());
            Err(InvalidSpec { path, reason })
        }
        _ => Ok(()),
    }
}

/// Checks who manages a stream or group.
pub(crate) fn check_owner(owner: &str) -> Result<(), InvalidSpec> {
    let invalid = |reason: String| Err(InvalidSpec { path: "owner", reason });
    if owner.len() > OWNER_BYTES {
        return invalid(format!("{} bytes is more than {OWNER_BYTES}", owner.len()));
    }
    // What a terminal would obey, whoever looks at it.
    match owner.find(char::is_control) {
        Some(at) => invalid(format!("there is a control character at byte {at}")),
        None => Ok(()),
    }
}

/// Collects the fields that are not as wanted.
#[derive(Default)]
pub(crate) struct Comparison {
    pub(crate) diff: Vec<FieldDiff>,
}

impl Comparison {
    pub(crate) fn field(&mut self, path: &str, class: ChangeClass, is: String, wish: String) {
        if is != wish {
            self.diff.push(FieldDiff { path: path.to_owned(), actual: is, wanted: wish, class });
        }
    }

    fn live(&mut self, path: &str, is: impl ToString, wish: impl ToString) {
        self.field(path, ChangeClass::Live, is.to_string(), wish.to_string());
    }
}

impl GroupPatch {
    /// Checks every value that is present.
    ///
    /// # Errors
    /// [`InvalidSpec`] names the first field that cannot be.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        within("ack_wait_ms", self.ack_wait_ms, ACK_WAIT_MS)?;
        within("max_in_flight", self.max_in_flight, IN_FLIGHT)?;
        within("max_in_flight_bytes", self.max_in_flight_bytes, IN_FLIGHT_BYTES)?;
        within("max_unsettled", self.max_unsettled, UNSETTLED)?;
        within("window", self.window, WINDOW)?;
        if let Some(backoff) = &self.backoff_ms {
            let invalid = |reason| Err(InvalidSpec { path: "backoff_ms", reason });
            if !(1..=BACKOFF_STEPS).contains(&backoff.len()) {
                return invalid(format!("{} steps is outside 1 to {BACKOFF_STEPS}", backoff.len()));
            }
            if let Some(step) = backoff.iter().find(|step| **step > DELAY_MS) {
                return invalid(format!("{step} is more than {DELAY_MS}"));
            }
        }
        self.owner.as_deref().map_or(Ok(()), check_owner)?;
        self.dlq.validate()
    }

    /// The settings of a new group: the given ones, over those that its stream has for its groups, over
    /// the defaults.
    #[must_use]
    pub fn over_defaults(&self, of_stream: &DlqSpec) -> GroupSpec {
        let mut spec = GroupSpec { dlq: of_stream.clone(), ..GroupSpec::default() };
        self.apply_to(&mut spec);
        spec
    }

    /// Sets what is present.
    pub fn apply_to(&self, spec: &mut GroupSpec) {
        let Self {
            mode,
            ack_wait_ms,
            max_in_flight,
            max_in_flight_bytes,
            max_unsettled,
            window,
            backoff_ms,
            pin_retention,
            owner,
            dlq,
        } = self;
        set(&mut spec.mode, mode.as_ref());
        set(&mut spec.ack_wait_ms, ack_wait_ms.as_ref());
        set(&mut spec.max_in_flight, max_in_flight.as_ref());
        set(&mut spec.max_in_flight_bytes, max_in_flight_bytes.as_ref());
        set(&mut spec.max_unsettled, max_unsettled.as_ref());
        set(&mut spec.window, window.as_ref());
        set(&mut spec.backoff_ms, backoff_ms.as_ref());
        set(&mut spec.pin_retention, pin_retention.as_ref());
        set(&mut spec.owner, owner.as_ref());
        dlq.apply_to(&mut spec.dlq);
    }

    /// The fields present here whose effective value in `actual` is another (EN-2).
    #[must_use]
    pub fn diff(&self, actual: &GroupSpec) -> Vec<FieldDiff> {
        let mut wanted = actual.clone();
        self.apply_to(&mut wanted);
        let mut found = Comparison::default();
        let mode = |spec: &GroupSpec| spec.mode.name().to_owned();
        found.field("mode", ChangeClass::Destructive, mode(actual), mode(&wanted));
        found.live("ack_wait_ms", actual.ack_wait_ms, wanted.ack_wait_ms);
        found.live("max_in_flight", actual.max_in_flight, wanted.max_in_flight);
        found.live("max_in_flight_bytes", actual.max_in_flight_bytes, wanted.max_in_flight_bytes);
        found.live("max_unsettled", actual.max_unsettled, wanted.max_unsettled);
        found.live("window", actual.window, wanted.window);
        let backoff = |spec: &GroupSpec| format!("{:?}", spec.backoff_ms);
        found.live("backoff_ms", backoff(actual), backoff(&wanted));
        found.live("pin_retention", actual.pin_retention, wanted.pin_retention);
        found.live("owner", &actual.owner, &wanted.owner);
        self.dlq.compare(&actual.dlq, &mut found);
        found.diff
    }
}

impl DlqPatch {
    /// Checks every value that is present.
    ///
    /// # Errors
    /// [`InvalidSpec`] names the first field that cannot be.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        within("dlq.max_attempts", self.max_attempts, ATTEMPTS)?;
        within("dlq.max_distance", self.max_distance, DISTANCE)?;
        within("dlq.max_age_ms", self.max_age_ms, AGE_MS)?;
        within("dlq.min_attempts", self.min_attempts, MIN_ATTEMPTS)
    }

    /// Sets what is present.
    pub fn apply_to(&self, spec: &mut DlqSpec) {
        let Self { enabled, max_attempts, max_distance, max_age_ms, min_attempts } = self;
        set(&mut spec.enabled, enabled.as_ref());
        set(&mut spec.max_attempts, max_attempts.as_ref());
        set(&mut spec.max_distance, max_distance.as_ref());
        set(&mut spec.max_age_ms, max_age_ms.as_ref());
        set(&mut spec.min_attempts, min_attempts.as_ref());
    }

    pub(crate) fn compare(&self, actual: &DlqSpec, found: &mut Comparison) {
        let mut wanted = actual.clone();
        self.apply_to(&mut wanted);
        found.live("dlq.enabled", actual.enabled, wanted.enabled);
        found.live("dlq.max_attempts", actual.max_attempts, wanted.max_attempts);
        found.live("dlq.max_distance", actual.max_distance, wanted.max_distance);
        found.live("dlq.max_age_ms", actual.max_age_ms, wanted.max_age_ms);
        found.live("dlq.min_attempts", actual.min_attempts, wanted.min_attempts);
    }
}

fn set<T: Clone>(field: &mut T, wish: Option<&T>) {
    if let Some(wish) = wish {
        field.clone_from(wish);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_present_fields_are_compared_and_the_mode_is_destructive() {
        // EN-2, EN-4
        let actual = GroupSpec { window: 7, ..GroupSpec::default() };
        assert_eq!(GroupPatch::default().diff(&actual), []);
        let patch = GroupPatch {
            mode: Some(GroupMode::Exclusive),
            window: Some(7),
            backoff_ms: Some(vec![0, 50]),
            owner: Some("shop".to_owned()),
            dlq: DlqPatch { max_attempts: Some(9), enabled: Some(true), ..DlqPatch::default() },
            ..GroupPatch::default()
        };
        let diff = patch.diff(&actual);
        let texts: Vec<_> =
            diff.iter().map(|d| (d.path.as_str(), d.actual.as_str(), d.wanted.as_str())).collect();
        assert_eq!(
            texts,
            [
                ("mode", "balanced", "exclusive"),
                ("backoff_ms", "[0, 1000, 5000, 30000]", "[0, 50]"),
                ("owner", "", "shop"),
                ("dlq.max_attempts", "5", "9"),
            ]
        );
        assert_eq!(diff[0].class, ChangeClass::Destructive);
        assert!(diff[1..].iter().all(|field| field.class == ChangeClass::Live));
        let mut spec = actual;
        patch.apply_to(&mut spec);
        assert_eq!(patch.diff(&spec), []);
    }

    #[test]
    fn a_new_group_has_what_its_stream_says_of_dead_letters() {
        let of_stream = DlqSpec { max_attempts: 9, max_distance: 0, ..DlqSpec::default() };
        let dlq = DlqPatch { max_distance: Some(5), ..DlqPatch::default() };
        let spec = GroupPatch { dlq, ..GroupPatch::default() }.over_defaults(&of_stream);
        let dlq = DlqSpec { max_attempts: 9, max_distance: 5, ..DlqSpec::default() };
        assert_eq!(spec, GroupSpec { dlq, ..GroupSpec::default() });
    }

    #[test]
    fn impossible_values_are_named() {
        let none = GroupPatch::default;
        let dlq = |dlq| GroupPatch { dlq, ..none() };
        for (path, patch) in [
            ("ack_wait_ms", GroupPatch { ack_wait_ms: Some(99), ..none() }),
            ("ack_wait_ms", GroupPatch { ack_wait_ms: Some(43_200_001), ..none() }),
            ("max_in_flight", GroupPatch { max_in_flight: Some(0), ..none() }),
            ("max_in_flight", GroupPatch { max_in_flight: Some(100_001), ..none() }),
            ("max_in_flight_bytes", GroupPatch { max_in_flight_bytes: Some(1), ..none() }),
            ("max_unsettled", GroupPatch { max_unsettled: Some(0), ..none() }),
            ("window", GroupPatch { window: Some(0), ..none() }),
            ("backoff_ms", GroupPatch { backoff_ms: Some(vec![]), ..none() }),
            ("backoff_ms", GroupPatch { backoff_ms: Some(vec![0; 33]), ..none() }),
            ("backoff_ms", GroupPatch { backoff_ms: Some(vec![86_400_001]), ..none() }),
            ("owner", GroupPatch { owner: Some("a\nb".to_owned()), ..none() }),
            ("dlq.min_attempts", dlq(DlqPatch { min_attempts: Some(0), ..DlqPatch::default() })),
            ("dlq.max_age_ms", dlq(DlqPatch { max_age_ms: Some(u64::MAX), ..DlqPatch::default() })),
        ] {
            assert_eq!(patch.validate().map_err(|error| error.path), Err(path));
        }
        let full = GroupPatch {
            mode: Some(GroupMode::Exclusive),
            ack_wait_ms: Some(100),
            max_in_flight: Some(100_000),
            max_in_flight_bytes: Some(1 << 30),
            max_unsettled: Some(1),
            window: Some(1),
            backoff_ms: Some(vec![86_400_000; 32]),
            pin_retention: Some(true),
            owner: Some("Größe: L".to_owned()),
            dlq: DlqPatch {
                enabled: Some(false),
                max_attempts: Some(0),
                max_distance: Some(0),
                max_age_ms: Some(0),
                min_attempts: Some(1),
            },
        };
        assert_eq!(full.validate(), Ok(()));
    }

    #[test]
    fn the_last_step_of_the_back_off_repeats() {
        // G-11
        let spec = GroupSpec { backoff_ms: vec![0, 10, 20], ..GroupSpec::default() };
        let steps = [0, 1, 2, 3, 4, u32::MAX].map(|failure| spec.backoff_after_ms(failure));
        assert_eq!(steps, [0, 0, 10, 20, 20, 20]);
        let none = GroupSpec { backoff_ms: vec![], ..GroupSpec::default() };
        assert_eq!(none.backoff_after_ms(1), 0);
    }

    #[test]
    fn a_distance_that_normal_work_passes_is_warned_of() {
        let with = |max_distance| {
            let dlq = DlqSpec { max_distance, ..DlqSpec::default() };
            GroupSpec { dlq, ..GroupSpec::default() }.warnings().len()
        };
        assert_eq!([0, 1_999, 2_000].map(with), [0, 1, 0]);
    }
}
