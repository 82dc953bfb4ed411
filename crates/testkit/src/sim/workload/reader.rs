//! Readers: from anywhere, to the end or following, through every tier, across crashes.

use std::time::Duration;

use railgun_client::{
    ErrorCode, Event, Offset, Source, StartPosition, StreamUid, SubscribeError, Subscription,
    Timestamp, WireCode,
};

use super::super::audit::rule_of;
use super::super::said::Said;
use super::Actor;

/// Reads again and again.
pub(super) async fn run(actor: Actor) {
    while actor.goes_on() {
        let Some(client) = actor.connect().await else { return };
        for _ in 0..actor.draw(1..6) {
            read_some(&actor, &client).await;
            actor.pause(500).await;
            if !actor.goes_on() {
                break;
            }
        }
    }
}

async fn read_some(actor: &Actor, client: &railgun_client::Client) {
    let (name, stream) = actor.stream();
    let acked = actor.history.acked_end(stream);
    let start = match actor.draw(0..10) {
        0..3 => StartPosition::Earliest,
        3..5 => StartPosition::Offset(Offset(actor.draw(0..acked.0 + 1))),
        5..7 => StartPosition::Last(actor.draw(1..500)),
        7..9 => match actor.history.time_of(stream, Offset(actor.draw(0..acked.0 + 1))) {
            Some(ts) => StartPosition::Time(ts),
            None => StartPosition::Earliest,
        },
        _ => StartPosition::Latest,
    };
    let to_end = actor.percent(60);
    let builder = client.subscribe(name).start(start);
    let builder = if to_end { builder.until_end() } else { builder };
    let mut subscription = match builder.open().await {
        Ok(subscription) => subscription,
        Err(error) => return judge(actor, &error, stream, least_start(start, acked)).await,
    };
    actor.note(format_args!("reads {stream} from {start:?}, to its end: {to_end}"));
    if subscription.stream_uid() != stream {
        let how = format_args!("stream {stream} is read as {}", subscription.stream_uid());
        actor.history.violated("identity", how);
    }
    check_start(actor, stream, start, acked, &subscription);
    let patience = Duration::from_millis(if to_end { 600_000 } else { actor.draw(10..8_000) });
    let reading = read_all(actor, &mut subscription, stream);
    match tokio::time::timeout(patience, reading).await {
        Ok(Ok(end)) if to_end && end < acked => {
            let how = format_args!("a reader of {stream} ended at {end}, {acked} was acked before");
            actor.history.violated("PS-5", how);
        }
        Ok(Err(error)) => judge(actor, &error, stream, subscription.position()).await,
        Ok(Ok(_)) => {}
        Err(_) if to_end => {
            actor.history.violated("liveness", format_args!("a reader of {stream} found no end"));
        }
        Err(_) => {}
    }
}

/// A start is where SEMANTICS §3 says.
fn check_start(
    actor: &Actor,
    stream: StreamUid,
    start: StartPosition,
    acked: Offset,
    opened: &Subscription,
) {
    let (at, next) = (opened.position(), opened.bounds_at_open().1);
    // The others may be told of a moment ago (CL-4).
    let is_current = matches!(start, StartPosition::Latest | StartPosition::Last(_));
    if is_current && next < acked {
        let how = format_args!("{start:?} of {stream} is of {next}, {acked} was acked before");
        actor.history.violated("CL-4", how);
    }
    if !is_start(start, at, next, |offset| actor.history.time_of(stream, offset)) {
        let how = format_args!("{start:?} of {stream}, which goes to {next}, began at {at}");
        actor.history.violated("start", how);
    }
}

/// Where a start is at least, of a stream that was acked so far.
fn least_start(start: StartPosition, acked: Offset) -> Offset {
    match start {
        StartPosition::Offset(offset) => offset,
        StartPosition::Last(count) => Offset(acked.0.saturating_sub(count)),
        StartPosition::Latest => acked,
        StartPosition::Earliest | StartPosition::Time(_) => Offset(0),
    }
}

/// Whether `at` is the start of a stream that ends before `next`, as far as log times are known.
fn is_start(
    start: StartPosition,
    at: Offset,
    next: Offset,
    time_of: impl Fn(Offset) -> Option<Timestamp>,
) -> bool {
    match start {
        StartPosition::Earliest => at == Offset(0),
        StartPosition::Offset(offset) => at == offset,
        StartPosition::Latest => at == next,
        StartPosition::Last(count) => at.0 == next.0.saturating_sub(count),
        StartPosition::Time(ts) => {
            let early = time_of(at).is_some_and(|found| found < ts);
            let before = at.0.checked_sub(1).and_then(|offset| time_of(Offset(offset)));
            !early && before.is_none_or(|before| before < ts)
        }
    }
}

/// Each offset once, in order, without gaps (PS-5, I7). Returns where it ended.
pub(super) async fn read_all(
    actor: &Actor,
    subscription: &mut Subscription,
    stream: StreamUid,
) -> Result<Offset, SubscribeError> {
    let mut next = subscription.position();
    let whole = actor.percent(50);
    loop {
        // By record or by batch: the same must come.
        if whole {
            match subscription.next().await? {
                Some(Event::Data(record)) => {
                    let at = (record.offset, record.ts);
                    took(actor, stream, &mut next, at, &(&record).into(), record.source);
                }
                Some(Event::Removed(removed)) => gap(actor, stream, &removed),
                None => return Ok(next),
            }
        } else {
            match subscription.next_batch().await? {
                Some(Event::Data(delivery)) => {
                    let source = delivery.source();
                    for record in delivery.records() {
                        let at = (record.offset, record.ts);
                        took(actor, stream, &mut next, at, &record.into(), source);
                    }
                }
                Some(Event::Removed(removed)) => gap(actor, stream, &removed),
                None => return Ok(next),
            }
        }
        if actor.percent(2) {
            actor.pause(100).await;
        }
    }
}

fn took(
    actor: &Actor,
    stream: StreamUid,
    next: &mut Offset,
    (offset, ts): (Offset, Timestamp),
    said: &Said<'_>,
    source: Source,
) {
    actor.history.follows("PS-5", stream, next, offset);
    let name = source.name();
    actor.history.read(stream, offset, ts, said, &format!("{} ({name})", actor.name));
    actor.note(format_args!("read {stream} {offset} from {name}"));
    actor.history.read_from(source);
}

fn gap(actor: &Actor, stream: StreamUid, removed: &railgun_client::Removed) {
    let how = format_args!("nothing of {stream} was removed, and a reader is told {removed:?}");
    actor.history.violated("PS-5", how);
}

/// Some failures have no excuse here. `position`: what was to be read.
async fn judge(actor: &Actor, error: &SubscribeError, stream: StreamUid, position: Offset) {
    actor.note(format_args!("reading failed: {error}"));
    let excused = match error {
        SubscribeError::Refused { error, .. } => {
            let stops = [ErrorCode::GoingAway, ErrorCode::StreamStarting].map(WireCode::Known);
            stops.contains(&error.code) || actor.history.excuses(error.code)
        }
        SubscribeError::Disconnected { .. } if actor.history.node_may_be_ill() => true,
        // What is waited for may be in the bucket.
        SubscribeError::Disconnected { .. } => {
            actor.history.bucket_may_be_ill()
                && actor.checker.cold_end(stream).await.is_none_or(|end| position < end)
        }
        SubscribeError::TooManyStreams { .. }
        | SubscribeError::Damaged { .. }
        | SubscribeError::Protocol { .. } => false,
    };
    if !excused {
        actor.history.violated(rule_of(error), format_args!("{}: {error}", actor.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_elsewhere_is_noticed() {
        // Records 0 to 9, at the times 0, 0, 10, 10, 20 …
        let times = |offset: Offset| (offset.0 < 10).then_some(Timestamp(offset.0 as i64 / 2 * 10));
        let right = |start, at| is_start(start, Offset(at), Offset(10), times);
        let starts = [
            (StartPosition::Earliest, 0),
            (StartPosition::Offset(Offset(3)), 3),
            (StartPosition::Latest, 10),
            (StartPosition::Last(4), 6),
            (StartPosition::Last(40), 0),
            (StartPosition::Time(Timestamp(10)), 2),
            (StartPosition::Time(Timestamp(11)), 4),
            (StartPosition::Time(Timestamp(99)), 10),
        ];
        for (start, at) in starts {
            let found: Vec<_> = (0..11).filter(|at| right(start, *at)).collect();
            assert_eq!(found, [at], "{start:?}");
        }
    }
}
