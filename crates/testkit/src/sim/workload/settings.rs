//! Somebody who sets what streams are like, and knows it: nobody else touches these streams. Whatever is
//! ensured does what it says, and nothing else (SEMANTICS §8).

use railgun_client::{
    AdminError, Client, EnsureMode, EnsureOptions, EnsureOutcome, Ensured, ErrorCode, FieldDiff,
    SpecPatch, StreamKind, StreamName, StreamSpec, WireCode,
};

use super::{Actor, admin, stream_name};

/// How often it is told that a call was not done before nobody waits for that any longer.
const TOLD_MAX: u32 = 8;

/// What is known of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    spec: StreamSpec,
    revision: u64,
}

/// Something that is asked for.
#[derive(Clone, Debug)]
struct Wish {
    patch: SpecPatch,
    options: EnsureOptions,
}

/// What it must lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    /// Each change with the fields that it changes.
    Created,
    Unchanged,
    Drift(Vec<&'static str>),
    Updated(Vec<&'static str>),
    Refused(ErrorCode),
}

pub(super) async fn run(actor: Actor) {
    for number in 0u64.. {
        if !actor.goes_on() {
            return;
        }
        let name = stream_name(&format!("settings.{number}"));
        look_after(&actor, &name).await;
    }
}

/// Until it is not known any more what the stream is like: a call has had no answer, and may still be done or
/// undo something.
async fn look_after(actor: &Actor, name: &StreamName) {
    let mut known: Option<Known> = None;
    let mut wishes = 0u64;
    while actor.goes_on() {
        let Some(client) = actor.connect().await else { return };
        for _ in 0..actor.draw(3..10) {
            if !actor.goes_on() {
                return;
            }
            actor.pause(1_500).await;
            if actor.percent(25) {
                if let Some(told) = told(actor, &client, name).await
                    && told != known
                {
                    violated(actor, "EN-3", name, &known, format_args!("is told: {told:?}"));
                }
                continue;
            }
            wishes += 1;
            let wish = Wish::draw(actor, known.as_ref(), wishes);
            let (expected, then) = wish.expected(known.as_ref());
            let done = client.admin().ensure_stream(name, wish.patch.clone(), wish.options).await;
            actor.note(format_args!("{name}: {wish:?}: {done:?}"));
            match wish.judge(&expected, then.as_ref(), done) {
                Verdict::AsExpected => {
                    expected.count(actor);
                    known = then;
                }
                Verdict::NotKnown(error) => {
                    admin::judge(actor, &error);
                    if !is_done(actor, &client, name, &known, &then).await {
                        return;
                    }
                    known = then;
                }
                Verdict::Other(how) => {
                    let how = format_args!("{wish:?} must lead to {expected:?}, and is told {how}");
                    return violated(actor, expected.rule(), name, &known, how);
                }
            }
        }
    }
}

/// What the stream is told to be like, if somebody tells.
async fn told(actor: &Actor, client: &Client, name: &StreamName) -> Option<Option<Known>> {
    match client.admin().describe_stream(name).await {
        Ok(told) => Some(Some(Known { spec: told.spec, revision: told.revision })),
        Err(AdminError::Refused(error)) if error.code == code(ErrorCode::StreamNotFound) => {
            Some(None)
        }
        Err(error) => {
            admin::judge(actor, &error);
            None
        }
    }
}

/// Whether a call that had no answer was done, as is told for a while: then it is not done again. Of one that
/// changes nothing nobody can say.
async fn is_done(
    actor: &Actor,
    client: &Client,
    name: &StreamName,
    before: &Option<Known>,
    after: &Option<Known>,
) -> bool {
    let (mut tries, mut is_done) = (0, false);
    while before != after && !is_done && tries < TOLD_MAX && actor.goes_on() {
        actor.pause(1_500).await;
        let Some(told) = told(actor, client, name).await else { continue };
        tries += 1;
        is_done = told == *after;
        if !is_done && told != *before {
            let how = format_args!("may be {after:?} as well, and is told: {told:?}");
            violated(actor, "EN-3", name, before, how);
        }
    }
    is_done
}

fn violated(
    actor: &Actor,
    rule: &str,
    name: &StreamName,
    known: &Option<Known>,
    how: std::fmt::Arguments<'_>,
) {
    actor.history.violated(rule, format_args!("{name} is {known:?}, and {how}"));
}

fn code(code: ErrorCode) -> WireCode {
    WireCode::Known(code)
}

impl Expected {
    fn rule(&self) -> &'static str {
        match self {
            Self::Created | Self::Refused(ErrorCode::StreamNotFound) => "EN-1",
            Self::Unchanged => "EN-2",
            Self::Drift(_) | Self::Updated(_) => "EN-3",
            Self::Refused(ErrorCode::RevisionConflict) => "EN-6",
            Self::Refused(_) => "EN-4",
        }
    }

    fn count(&self, actor: &Actor) {
        actor.trace.count(|counts| match self {
            Self::Created | Self::Updated(_) => counts.ensured_changes += 1,
            Self::Unchanged | Self::Drift(_) => counts.ensured_nothing += 1,
            Self::Refused(_) => counts.ensure_refused += 1,
        });
    }
}

enum Verdict {
    AsExpected,
    /// It was refused or lost for another reason, and may be done or not.
    NotKnown(AdminError),
    Other(String),
}

impl Wish {
    fn draw(actor: &Actor, known: Option<&Known>, number: u64) -> Self {
        let as_it_is = known.map(|known| known.spec.clone()).unwrap_or_default();
        let mut patch = SpecPatch::default();
        if actor.percent(60) {
            let is_same = actor.percent(40);
            let other = format!("owner {number}");
            patch.owner = Some(if is_same { as_it_is.owner } else { other });
        }
        if actor.percent(50) {
            let is_same = actor.percent(40);
            let other = actor.draw(1..1 << 20) as u32;
            let bytes = if is_same { as_it_is.max_message_bytes } else { other };
            patch.max_message_bytes = Some(bytes);
        }
        if actor.percent(20) {
            // The other kind cannot be made.
            let is_other = known.is_some() && actor.percent(40);
            let kind = if is_other { StreamKind::Ephemeral } else { StreamKind::Persistent };
            patch.kind = Some(kind);
        }
        let revision = known.map_or(0, |known| known.revision);
        let if_revision = match actor.draw(0..10) {
            0..6 => None,
            6..9 => Some(revision),
            _ => Some(revision + actor.draw(1..3)),
        };
        let mode = match actor.draw(0..5) {
            0 => EnsureMode::Check,
            1 => EnsureMode::Warn,
            _ => EnsureMode::Overwrite,
        };
        Self { patch, options: EnsureOptions { mode, if_revision, allow_destructive: false } }
    }

    /// What it must lead to, and what the stream is like then.
    fn expected(&self, known: Option<&Known>) -> (Expected, Option<Known>) {
        let Self { patch, options } = self;
        let actual = known.map_or(0, |known| known.revision);
        let is_conflict = options.if_revision.is_some_and(|wanted| wanted != actual);
        let Some(known) = known else {
            return match options.mode {
                EnsureMode::Check => (Expected::Refused(ErrorCode::StreamNotFound), None),
                _ if is_conflict => (Expected::Refused(ErrorCode::RevisionConflict), None),
                _ => {
                    let spec = patched(patch, StreamSpec::default());
                    (Expected::Created, Some(Known { spec, revision: 1 }))
                }
            };
        };
        let stays = |expected| (expected, Some(known.clone()));
        if is_conflict {
            return stays(Expected::Refused(ErrorCode::RevisionConflict));
        }
        let wanted = patched(patch, known.spec.clone());
        let other = [
            ("kind", wanted.kind != known.spec.kind),
            ("max_message_bytes", wanted.max_message_bytes != known.spec.max_message_bytes),
            ("owner", wanted.owner != known.spec.owner),
        ];
        let other: Vec<_> = other.into_iter().filter(|(_, is)| *is).map(|(path, _)| path).collect();
        match options.mode {
            _ if other.is_empty() => stays(Expected::Unchanged),
            EnsureMode::Check | EnsureMode::Warn => stays(Expected::Drift(other)),
            EnsureMode::Overwrite if other.contains(&"kind") => {
                stays(Expected::Refused(ErrorCode::ImmutableField))
            }
            EnsureMode::Overwrite => {
                let then = Known { spec: wanted, revision: known.revision + 1 };
                (Expected::Updated(other), Some(then))
            }
        }
    }

    fn judge(
        &self,
        expected: &Expected,
        then: Option<&Known>,
        done: Result<Ensured, AdminError>,
    ) -> Verdict {
        let done = match done {
            Ok(done) => done,
            Err(AdminError::Refused(error)) => {
                return match expected {
                    Expected::Refused(expected) if error.code == code(*expected) => {
                        Verdict::AsExpected
                    }
                    _ if is_about_streams(error.code) => Verdict::Other(error.to_string()),
                    _ => Verdict::NotKnown(AdminError::Refused(error)),
                };
            }
            Err(error) => return Verdict::NotKnown(error),
        };
        let paths =
            |diff: &[FieldDiff]| diff.iter().map(|field| field.path.clone()).collect::<Vec<_>>();
        let is_expected = match (expected, &done.outcome) {
            (Expected::Created, EnsureOutcome::Created)
            | (Expected::Unchanged, EnsureOutcome::Unchanged) => true,
            (Expected::Drift(other), EnsureOutcome::Drift(diff))
            | (Expected::Updated(other), EnsureOutcome::Updated(diff)) => paths(diff) == *other,
            _ => false,
        };
        match is_expected && then.is_some_and(|then| then.revision == done.revision) {
            true => Verdict::AsExpected,
            false => Verdict::Other(format!("{done:?}")),
        }
    }
}

/// Whether it says what a stream is like, not how the cluster is.
fn is_about_streams(told: WireCode) -> bool {
    let about = [
        ErrorCode::StreamNotFound,
        ErrorCode::RevisionConflict,
        ErrorCode::ImmutableField,
        ErrorCode::DestructiveChange,
        ErrorCode::InvalidSpec,
        ErrorCode::FeatureLevel,
    ];
    about.map(code).contains(&told)
}

fn patched(patch: &SpecPatch, mut spec: StreamSpec) -> StreamSpec {
    let SpecPatch { kind, max_message_bytes, owner, dlq, dedup: _ } = patch.clone();
    spec.kind = kind.unwrap_or(spec.kind);
    spec.max_message_bytes = max_message_bytes.unwrap_or(spec.max_message_bytes);
    spec.owner = owner.unwrap_or(spec.owner);
    dlq.apply_to(&mut spec.dlq);
    spec
}

#[cfg(test)]
mod tests {
    use railgun_client::{ChangeClass, StreamUid, WireError};

    use super::*;

    fn wish(mode: EnsureMode, owner: &str, if_revision: Option<u64>) -> Wish {
        let patch = SpecPatch { owner: Some(owner.to_owned()), ..SpecPatch::default() };
        let allow_destructive = false;
        Wish { patch, options: EnsureOptions { mode, if_revision, allow_destructive } }
    }

    fn known(owner: &str, revision: u64) -> Known {
        let spec = StreamSpec { owner: owner.to_owned(), ..StreamSpec::default() };
        Known { spec, revision }
    }

    #[test]
    fn what_an_ensure_must_lead_to() {
        use EnsureMode::{Check, Overwrite, Warn};
        let there = known("a", 3);
        let of = |wish: Wish, there| wish.expected(there);
        let refused = |code| Expected::Refused(code);
        let (missing, conflict) = (ErrorCode::StreamNotFound, ErrorCode::RevisionConflict);
        assert_eq!(of(wish(Check, "a", None), None), (refused(missing), None));
        assert_eq!(of(wish(Warn, "a", Some(1)), None), (refused(conflict), None));
        assert_eq!(of(wish(Warn, "a", Some(0)), None), (Expected::Created, Some(known("a", 1))));
        let same = Some(there.clone());
        assert_eq!(of(wish(Check, "a", None), Some(&there)), (Expected::Unchanged, same.clone()));
        let drift = Expected::Drift(vec!["owner"]);
        assert_eq!(of(wish(Warn, "b", Some(3)), Some(&there)), (drift, same.clone()));
        assert_eq!(
            of(wish(Overwrite, "b", Some(2)), Some(&there)),
            (refused(conflict), same.clone())
        );
        let updated = Expected::Updated(vec!["owner"]);
        assert_eq!(of(wish(Overwrite, "b", None), Some(&there)), (updated, Some(known("b", 4))));
        let mut other = wish(Overwrite, "b", None);
        other.patch.kind = Some(StreamKind::Ephemeral);
        let immutable = refused(ErrorCode::ImmutableField);
        assert_eq!(of(other, Some(&there)), (immutable, same));
    }

    #[test]
    fn whatever_else_it_is_told_is_noticed() {
        let there = known("a", 3);
        let verdict = |wish: Wish, done| {
            let (expected, then) = wish.expected(Some(&there));
            match wish.judge(&expected, then.as_ref(), done) {
                Verdict::AsExpected => "expected",
                Verdict::NotKnown(_) => "not known",
                Verdict::Other(_) => "other",
            }
        };
        let ensured =
            |outcome, revision| Ok(Ensured { outcome, stream_uid: StreamUid([1; 16]), revision });
        let refused = |code, actual| {
            Err(AdminError::Refused(WireError { actual, ..WireError::new(code, "so it is") }))
        };
        let diff = |path: &str| {
            let [actual, wanted] = ["a", "b"].map(str::to_owned);
            vec![FieldDiff { path: path.to_owned(), actual, wanted, class: ChangeClass::Live }]
        };
        let change = |if_revision| wish(EnsureMode::Overwrite, "b", if_revision);
        let updated = |path, revision| ensured(EnsureOutcome::Updated(diff(path)), revision);
        assert_eq!(verdict(change(None), updated("owner", 4)), "expected");
        assert_eq!(verdict(change(None), updated("owner", 5)), "other", "twice");
        assert_eq!(verdict(change(None), updated("kind", 4)), "other");
        assert_eq!(
            verdict(change(None), ensured(EnsureOutcome::Unchanged, 4)),
            "other",
            "it did it"
        );
        assert_eq!(verdict(change(None), ensured(EnsureOutcome::Unchanged, 3)), "other");
        assert_eq!(verdict(change(None), ensured(EnsureOutcome::Drift(diff("owner")), 3)), "other");
        assert_eq!(verdict(change(None), ensured(EnsureOutcome::Created, 1)), "other");
        let conflict = |actual| refused(ErrorCode::RevisionConflict, Some(actual));
        assert_eq!(verdict(change(Some(3)), conflict(4)), "other", "with itself");
        assert_eq!(verdict(change(Some(3)), conflict(5)), "other");
        assert_eq!(verdict(change(None), conflict(4)), "other", "nothing was said of a revision");
        assert_eq!(verdict(change(Some(2)), updated("owner", 4)), "other", "it had to be refused");
        assert_eq!(verdict(change(None), refused(ErrorCode::Unavailable, None)), "not known");
        let same = wish(EnsureMode::Warn, "a", None);
        assert_eq!(verdict(same, updated("owner", 4)), "other");
    }
}
