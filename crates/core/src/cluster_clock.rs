//! Whether a node's clock may stamp a shard's log (CL-6): it must not be far from the voters' median. And
//! what is to stamp it where it may not, or where nobody can say.

use std::collections::BTreeMap;

use railgun_types::NodeId;

/// Beyond this far from the median a clock is told to its owner, in µs.
pub const ALARM_US: u64 = 2_000_000;
/// Beyond this far from the median a node does not lead, in µs.
pub const MUST_NOT_LEAD_US: u64 = 10_000_000;
/// A sample older than this says nothing any more, in µs: a clock may have been set meanwhile.
pub const SAMPLE_AGE_US_MAX: u64 = 5_000_000;
/// For how long clocks must agree on a time far from what was borne out last until they are believed, in µs.
/// Longer than a sample counts: what a clock showed before it was set right bears out nobody.
pub const AGREED_US_MIN: u64 = 2 * SAMPLE_AGE_US_MAX;

/// What a node was told of another one's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSample {
    /// The other node.
    pub node: NodeId,
    /// Its clock less ours, in µs, as if it had told it half-way between question and answer.
    pub offset_us: i64,
    /// The same of the clock that stamps its logs, where others have borne that out.
    pub log_offset_us: Option<i64>,
    /// From the question to the answer, in µs: the offset is right to half of that.
    pub rtt_us: u64,
    /// How long ago the answer came, in µs.
    pub age_us: u64,
}

/// What our clock is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockVerdict {
    /// Good, or nobody can say.
    Fine,
    /// More than [`ALARM_US`] off.
    Alarm {
        /// Our clock less the median, in µs: positive where ours is ahead.
        off_us: i64,
    },
    /// More than [`MUST_NOT_LEAD_US`] off: a leader hands over.
    MustNotLead {
        /// As for an alarm.
        off_us: i64,
    },
}

/// Compares our clock with the median of all: of the other voters' by `samples`, and ours. Of several
/// samples of a node the youngest counts. Where it cannot be told, ours is right: within the error of
/// a sample, and between the two clocks in the middle of an even number. So of two clocks that differ
/// neither is wrong.
#[must_use]
pub fn check(samples: impl IntoIterator<Item = ClockSample>) -> ClockVerdict {
    let off_us = off_us(samples);
    match off_us.unsigned_abs() {
        off if off > MUST_NOT_LEAD_US => ClockVerdict::MustNotLead { off_us },
        off if off > ALARM_US => ClockVerdict::Alarm { off_us },
        _ => ClockVerdict::Fine,
    }
}

/// Our clock less the median, in µs: what [`check`] judges. 0 where ours is right, or nobody can say.
#[must_use]
pub fn off_us(samples: impl IntoIterator<Item = ClockSample>) -> i64 {
    let mut offsets: Vec<i64> = youngest(samples).values().map(least_offset).collect();
    offsets.push(0);
    offsets.sort_unstable();
    let middle = (offsets.len() - 1) / 2;
    let median = nearest_to_zero(offsets[middle], offsets[offsets.len() / 2]);
    median.saturating_neg()
}

/// What the clock that stamps logs is to be from now on. Offsets are less our wall clock, in µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Where it is set to; `None`: it goes on by itself.
    pub set_us: Option<i64>,
    /// Where it was when others bore it out last, if they ever have.
    pub borne_out_us: Option<i64>,
    /// Our wall clock less what is rather right, where nobody can say which is.
    pub doubt_us: Option<i64>,
    /// Clocks agree on a time far from what was borne out last, and are not believed yet.
    pub is_far: bool,
}

impl Course {
    /// Whether anybody has told anything by which it is set.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.borne_out_us.is_some() || self.doubt_us.is_some()
    }
}

/// Steers the clock that stamps logs, which is at `at_us`, and which others bore out last at `borne_out_us`. The
/// median of three clocks rules if another one of them agrees with it; what one other agrees with is borne out,
/// too. Where that is far from what was borne out before, or far ahead of where it is where nothing was, it counts
/// only once it has been so for [`AGREED_US_MIN`] (`far_for_us`: for how long [`Course::is_far`] has been true
/// without a break). Of clocks that all differ nobody knows which are wrong (two of three are where one was set
/// right and another goes wrong before the first has told), so our wall clock is followed as far as a small step
/// from what was borne out, and beyond goes for nothing. A node that has just started goes by what the others'
/// logs have; where there is nothing to go by, the earliest clock is taken, and the one that stamps is never set
/// far ahead: a log whose time stands still goes on when the others are back, and what is stamped too late stays
/// so for ever.
#[must_use]
pub fn steer(
    samples: impl IntoIterator<Item = ClockSample>,
    at_us: i64,
    borne_out_us: Option<i64>,
    far_for_us: u64,
) -> Course {
    let fresh = youngest(samples);
    let followed = Course { set_us: Some(0), borne_out_us: Some(0), doubt_us: None, is_far: false };
    let agreed_us = agreed_us(&fresh);
    // Where nobody ever bore anything out, ours is set back at once: it may have been wrong from the start.
    let is_far = agreed_us.is_some_and(|agreed_us| {
        let ahead_us = agreed_us.saturating_sub(borne_out_us.unwrap_or(at_us));
        !is_near(ahead_us) && (borne_out_us.is_some() || ahead_us > 0)
    });
    if let Some(agreed_us) = agreed_us.filter(|_| !is_far || far_for_us >= AGREED_US_MIN) {
        let set_us = Some(if is_near(agreed_us) { 0 } else { agreed_us });
        return Course { set_us, borne_out_us: Some(agreed_us), ..followed };
    }
    let earliest_us = fresh.values().map(least_offset).min();
    match (earliest_us, borne_out_us) {
        (_, Some(at_us)) if is_near(at_us) => Course { borne_out_us, is_far, ..followed },
        (_, Some(at_us)) => {
            let doubt_us = Some(at_us.saturating_neg());
            Course { set_us: None, borne_out_us, doubt_us, is_far }
        }
        (Some(earliest_us), None) => {
            let mut logs: Vec<_> = fresh.values().filter_map(|it| it.log_offset_us).collect();
            logs.sort_unstable();
            match logs.get(logs.len().saturating_sub(1) / 2) {
                Some(at_us) if is_near(*at_us) => followed,
                Some(&at_us) => Course {
                    set_us: Some(at_us),
                    borne_out_us: Some(at_us),
                    doubt_us: Some(at_us.saturating_neg()),
                    is_far,
                },
                None => {
                    let set_us = earliest_us.min(0);
                    // It began with our wall clock, which has jumped since, as others may have.
                    let stays = at_us < set_us && !is_near(at_us.saturating_sub(set_us));
                    let rather_us = if stays { at_us } else { earliest_us };
                    Course {
                        set_us: (!stays).then_some(set_us),
                        borne_out_us: None,
                        doubt_us: Some(rather_us.saturating_neg()),
                        is_far,
                    }
                }
            }
        }
        (None, None) => Course { borne_out_us: None, ..followed },
    }
}

/// What two clocks or more agree on, less our wall clock: the median of three and more, and of two both.
fn agreed_us(fresh: &BTreeMap<NodeId, ClockSample>) -> Option<i64> {
    let offsets = || fresh.values().map(least_offset).chain([0]);
    let median_us = off_us(fresh.values().copied()).saturating_neg();
    let agree = offsets().filter(|us| is_near(us.saturating_sub(median_us))).count();
    (agree > 1).then_some(median_us)
}

fn is_near(offset_us: i64) -> bool {
    offset_us.unsigned_abs() <= MUST_NOT_LEAD_US
}

/// The youngest sample of each node, of those that count.
fn youngest(samples: impl IntoIterator<Item = ClockSample>) -> BTreeMap<NodeId, ClockSample> {
    let mut youngest: BTreeMap<NodeId, ClockSample> = BTreeMap::new();
    for sample in samples.into_iter().filter(|sample| sample.age_us <= SAMPLE_AGE_US_MAX) {
        let kept = youngest.entry(sample.node).or_insert(sample);
        if sample.age_us < kept.age_us {
            *kept = sample;
        }
    }
    youngest
}

/// The offset nearest to none that the sample allows.
fn least_offset(sample: &ClockSample) -> i64 {
    let error = i64::try_from(sample.rtt_us / 2).unwrap_or(i64::MAX);
    let (from, to) =
        (sample.offset_us.saturating_sub(error), sample.offset_us.saturating_add(error));
    nearest_to_zero(from, to)
}

/// Of the values from `from` to `to`.
fn nearest_to_zero(from: i64, to: i64) -> i64 {
    if from > 0 { from } else { to.min(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: i64 = 1_000_000;
    const YEAR: i64 = 365 * 86_400 * SECOND;

    fn verdict(offsets: &[i64]) -> ClockVerdict {
        check(offsets.iter().zip(2..).map(|(&offset_us, node)| ClockSample {
            node: NodeId(node),
            offset_us,
            log_offset_us: None,
            rtt_us: 0,
            age_us: 0,
        }))
    }

    fn one(offset_us: i64, log_offset_us: Option<i64>) -> ClockSample {
        ClockSample { node: NodeId(2), offset_us, log_offset_us, rtt_us: 0, age_us: 0 }
    }

    fn course(set_us: Option<i64>, borne_out_us: Option<i64>, doubt_us: Option<i64>) -> Course {
        Course { set_us, borne_out_us, doubt_us, is_far: false }
    }

    /// Where clocks that agree on another time have not done so for long.
    fn steer<const N: usize>(samples: [ClockSample; N], borne_out_us: Option<i64>) -> Course {
        super::steer(samples, 0, borne_out_us, AGREED_US_MIN - 1)
    }

    #[test]
    fn logs_follow_the_wall_clock_as_far_as_others_bear_it_out() {
        let third = ClockSample { node: NodeId(3), ..one(0, None) };
        let far = ClockSample { offset_us: -YEAR, ..third };
        // With three clocks the median rules, whatever was before.
        for before in [None, Some(0), Some(YEAR)] {
            let steer = |samples: &[ClockSample]| {
                super::steer(samples.iter().copied(), 0, before, AGREED_US_MIN)
            };
            assert_eq!(steer(&[one(-YEAR, None), third]), course(Some(0), Some(0), None));
            let ours_is_ahead = course(Some(-YEAR), Some(-YEAR), None);
            assert_eq!(steer(&[one(-YEAR, None), far]), ours_is_ahead);
            let small = 9 * SECOND;
            let slightly = [one(small, None), ClockSample { offset_us: small, ..third }];
            assert_eq!(steer(&slightly), course(Some(0), Some(small), None));
            // One that agrees is as good.
            assert_eq!(steer(&[one(small, None)]), course(Some(0), Some(0), None));
        }
        // Of two that differ nobody knows which is right: small steps, and no large one.
        let near = course(Some(0), Some(10 * SECOND), None);
        let jumped = course(None, Some(-YEAR), Some(YEAR));
        for samples in [&[][..], &[one(YEAR, None)], &[one(-YEAR, Some(-YEAR))]] {
            let steer = |before_us| {
                super::steer(samples.iter().copied(), 0, Some(before_us), AGREED_US_MIN)
            };
            assert_eq!(steer(10 * SECOND), near);
            assert_eq!(steer(-YEAR), jumped);
            let beyond = course(None, Some(10 * SECOND + 1), Some(-10 * SECOND - 1));
            assert_eq!(steer(10 * SECOND + 1), beyond);
        }
        let stale = ClockSample { age_us: SAMPLE_AGE_US_MAX + 1, ..third };
        assert_eq!(steer([one(YEAR, None), stale], Some(-YEAR)), jumped);
    }

    #[test]
    fn of_clocks_that_all_differ_none_is_followed() {
        let all = |own: ClockSample, other_us: i64| {
            [own, ClockSample { node: NodeId(3), offset_us: other_us, ..own }]
        };
        for samples in [all(one(YEAR, None), 3 * YEAR), all(one(-YEAR, None), YEAR)] {
            assert_eq!(steer(samples, Some(0)), course(Some(0), Some(0), None), "ours stays");
            let by_itself = course(None, Some(2 * YEAR), Some(-2 * YEAR));
            assert_eq!(steer(samples, Some(2 * YEAR)), by_itself, "ours has jumped, too");
        }
        let told = all(one(YEAR, Some(SECOND)), 3 * YEAR);
        assert_eq!(steer(told, None), course(Some(0), Some(0), None), "their logs agree with it");
        let told = all(one(YEAR, None), -3 * YEAR);
        let earliest = course(Some(-3 * YEAR), None, Some(3 * YEAR));
        assert_eq!(steer(told, None), earliest, "none of them knows");
    }

    #[test]
    fn clocks_that_agree_on_another_time_are_believed_after_a_while() {
        let not_yet = |course: Course| Course { is_far: true, ..course };
        // The other one's clock was as far ahead, has been set right, and has not told yet.
        let jumped = not_yet(course(None, Some(-YEAR), Some(YEAR)));
        assert_eq!(steer([one(0, None)], Some(-YEAR)), jumped);
        let third = ClockSample { node: NodeId(3), ..one(-2 * YEAR, None) };
        assert_eq!(steer([one(0, None), third], Some(-YEAR)), jumped);
        // The two others' were.
        let others = [one(YEAR, None), ClockSample { offset_us: YEAR, ..third }];
        let ours = not_yet(course(Some(0), Some(SECOND), None));
        assert_eq!(steer(others, Some(SECOND)), ours);
        let after_all = super::steer(others, 0, Some(SECOND), AGREED_US_MIN);
        assert_eq!(after_all, course(Some(YEAR), Some(YEAR), None));
        // They agree with what was before.
        assert_eq!(steer(others, Some(YEAR)), course(Some(YEAR), Some(YEAR), None));
    }

    #[test]
    fn a_node_that_has_just_started_goes_by_what_the_other_knows() {
        assert_eq!(steer([], None), course(Some(0), None, None), "who is alone knows it all");
        assert!(!steer([], None).is_known());
        assert!(steer([], Some(0)).is_known());
        for offset_us in [0, YEAR, -YEAR] {
            assert!(steer([one(offset_us, None)], None).is_known());
        }
        let stale = ClockSample { age_us: SAMPLE_AGE_US_MAX + 1, ..one(0, None) };
        assert!(!steer([stale], None).is_known());
        // The other's clock has jumped, its log's has not.
        assert_eq!(steer([one(YEAR, Some(SECOND))], None), course(Some(0), Some(0), None));
        // Ours was wrong from the start.
        let ours_is_ahead = course(Some(-YEAR), Some(-YEAR), Some(YEAR));
        assert_eq!(steer([one(-YEAR, Some(-YEAR))], None), ours_is_ahead);
        let ours_is_behind = course(Some(YEAR), Some(YEAR), Some(-YEAR));
        assert_eq!(steer([one(YEAR, Some(YEAR))], None), ours_is_behind);
        // Neither knows.
        assert_eq!(steer([one(YEAR, None)], None), course(Some(0), None, Some(-YEAR)));
        assert_eq!(steer([one(-YEAR, None)], None), course(Some(-YEAR), None, Some(YEAR)));
    }

    #[test]
    fn where_nobody_knows_no_log_jumps_ahead() {
        let steer = |samples: &[ClockSample], at_us| {
            super::steer(samples.iter().copied(), at_us, None, AGREED_US_MIN)
        };
        // Both wall clocks have jumped since this node started.
        let stays = |at_us: i64| course(None, None, Some(-at_us));
        assert_eq!(steer(&[one(YEAR, None)], -2 * YEAR), stays(-2 * YEAR));
        assert_eq!(steer(&[one(-YEAR, None)], -2 * YEAR), stays(-2 * YEAR));
        // It is set back to the earliest, and for a small step to that again.
        let earliest = course(Some(-YEAR), None, Some(YEAR));
        assert_eq!(steer(&[one(-YEAR, None)], 0), earliest);
        assert_eq!(steer(&[one(-YEAR, None)], -YEAR - 10 * SECOND), earliest);
        assert_eq!(steer(&[one(YEAR, None)], -10 * SECOND), course(Some(0), None, Some(-YEAR)));
        // Those who know set it ahead.
        let known = course(Some(YEAR), Some(YEAR), Some(-YEAR));
        assert_eq!(steer(&[one(YEAR, Some(YEAR))], -YEAR), known);
        // Those who agree set it ahead after a while: one of them may have been set right meanwhile.
        let not_yet = |samples: &[ClockSample], at_us| {
            super::steer(samples.iter().copied(), at_us, None, AGREED_US_MIN - 1)
        };
        let others = [one(YEAR, None), ClockSample { node: NodeId(3), ..one(YEAR, None) }];
        assert_eq!(not_yet(&others, -YEAR), Course { is_far: true, ..stays(-YEAR) });
        assert_eq!(steer(&others, -YEAR), course(Some(YEAR), Some(YEAR), None));
        let with_ours = [one(0, None)];
        assert_eq!(not_yet(&with_ours, -YEAR), Course { is_far: true, ..stays(-YEAR) });
        assert_eq!(steer(&with_ours, -YEAR), course(Some(0), Some(0), None));
        // And back at once.
        let back = [one(-YEAR, None), ClockSample { node: NodeId(3), ..one(-YEAR, None) }];
        assert_eq!(not_yet(&back, 0), course(Some(-YEAR), Some(-YEAR), None));
    }

    #[test]
    fn the_median_of_all_clocks_counts() {
        assert_eq!(verdict(&[]), ClockVerdict::Fine);
        assert_eq!(verdict(&[YEAR]), ClockVerdict::Fine, "one of two is wrong, nobody knows which");
        assert_eq!(verdict(&[YEAR, 5]), ClockVerdict::Fine, "the other one is wrong");
        assert_eq!(verdict(&[2 * SECOND, 2 * SECOND]), ClockVerdict::Fine);
        let off_us = -2 * SECOND - 1;
        assert_eq!(verdict(&[-off_us, YEAR]), ClockVerdict::Alarm { off_us });
        assert_eq!(verdict(&[10 * SECOND; 2]), ClockVerdict::Alarm { off_us: -10 * SECOND });
        let off_us = YEAR;
        assert_eq!(verdict(&[-YEAR, -YEAR - 7]), ClockVerdict::MustNotLead { off_us });
        // Of four the two in the middle say where the median is: here from 0 to 3 s, then from 3 s on.
        assert_eq!(verdict(&[-YEAR, 3 * SECOND, YEAR]), ClockVerdict::Fine);
        let off_us = -3 * SECOND;
        assert_eq!(verdict(&[3 * SECOND, 4 * SECOND, YEAR]), ClockVerdict::Alarm { off_us });
        let five = [11 * SECOND, 12 * SECOND, 13 * SECOND, -YEAR];
        assert_eq!(verdict(&five), ClockVerdict::MustNotLead { off_us: -11 * SECOND });
        assert_eq!(verdict(&[i64::MIN, i64::MIN]), ClockVerdict::MustNotLead { off_us: i64::MAX });
    }

    #[test]
    fn a_sample_counts_while_it_is_young_and_as_far_as_it_is_exact() {
        let far = |node, rtt_us, age_us| ClockSample {
            node: NodeId(node),
            offset_us: 12 * SECOND,
            log_offset_us: None,
            rtt_us,
            age_us,
        };
        let (must, alarm) = (
            ClockVerdict::MustNotLead { off_us: -12 * SECOND },
            ClockVerdict::Alarm { off_us: -9 * SECOND },
        );
        assert_eq!(check([far(2, 0, 0), far(3, 0, SAMPLE_AGE_US_MAX)]), must);
        assert_eq!(check([far(2, 0, 0), far(3, 0, SAMPLE_AGE_US_MAX + 1)]), ClockVerdict::Fine);
        assert_eq!(
            check([far(2, 0, 0), far(3, 6_000_000, 0)]),
            alarm,
            "three seconds less, or more"
        );
        assert_eq!(check([far(2, 0, 0), far(3, u64::MAX, 0)]), ClockVerdict::Fine);
        // A node has one clock: what it told last is what it shows.
        let set = ClockSample { offset_us: 0, age_us: 1, ..far(3, 0, 0) };
        assert_eq!(check([far(2, 0, 0), far(3, 0, 2), set]), ClockVerdict::Fine);
        assert_eq!(check([far(2, 0, 0), set, far(3, 0, 2)]), ClockVerdict::Fine);
    }

    proptest! {
        /// Whoever is with the majority is fine, however far the others are.
        #[test]
        fn a_minority_says_nothing(
            near in proptest::collection::vec(-2 * SECOND..=2 * SECOND, 2..=3),
            far in proptest::collection::vec(any::<i64>(), 0..=2),
        ) {
            prop_assert_eq!(verdict(&[&near[..], &far[..]].concat()), ClockVerdict::Fine);
        }
    }
}
