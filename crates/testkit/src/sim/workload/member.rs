//! A member of a consumer group: takes messages and settles most of them, some never, some too late; dies
//! in the midst, or drains, and joins again.

use std::time::Duration;

use railgun_client::{
    Client, Delivery, ErrorCode, GroupError, GroupEvent, GroupSubscription, WireCode,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::super::history::{Handed, History, MemberNumber};
use super::{Actor, Group};

/// For so long a member waits for what it has said to be confirmed, before it goes.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn run(actor: Actor, group: Group) {
    while actor.goes_on() {
        // Each time another one, as one that is left may go on for a while: which of two learns first that
        // their connection is lost is nobody's seed.
        let Some(client) = actor.connect().await else { return };
        take_part(&actor, &client, &group).await;
        actor.pause(1_500).await;
    }
}

/// What a member has of its group.
struct Part<'a> {
    actor: &'a Actor,
    group: &'a Group,
    number: MemberNumber,
    /// So many messages, if any, it is about to reject at once: who leads then has that many dead letters to
    /// make.
    to_reject: usize,
    rejected: Vec<Delivery>,
    /// Those that wait for confirmations, or stall.
    tasks: JoinSet<()>,
}

async fn take_part(actor: &Actor, client: &Client, group: &Group) {
    let number = actor.history.joins(group.number);
    let builder = client.subscribe(group.stream.clone()).group(group.name.clone());
    let credit = actor.draw(1..60);
    let mut subscription = match builder.credit(credit as u32).open().await {
        Ok(subscription) => subscription,
        Err(error) => return judge(actor, &error),
    };
    actor.note(format_args!("joins"));
    let to_reject = if actor.percent(20) { actor.draw(1..credit + 1) as usize } else { 0 };
    let (rejected, tasks) = (Vec::new(), JoinSet::new());
    let mut part = Part { actor, group, number, to_reject, rejected, tasks };
    for _ in 0..actor.draw(1..400) {
        let patience = Duration::from_millis(actor.draw(1..3_000));
        match timeout(patience, subscription.next()).await {
            Ok(Ok(Some(event))) => part.on_event(event).await,
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return judge(actor, &error),
            Err(_) => part.reject(),
        }
        if !actor.goes_on() {
            break;
        }
    }
    part.leave(subscription).await;
}

impl Part<'_> {
    async fn on_event(&mut self, event: GroupEvent) {
        let actor = self.actor;
        match event {
            GroupEvent::Delivery(delivery) => {
                let handed = actor.history.hand(self.number, &delivery, &actor.name);
                self.work(delivery, handed).await;
            }
            GroupEvent::Skipped(range) => {
                let how = format_args!("nothing was removed, and {range} is skipped");
                actor.history.violated("G-2", how);
            }
            GroupEvent::Stale { .. } => actor.trace.count(|counts| counts.stale += 1),
            other => actor.note(format_args!("is told: {other:?}")),
        }
    }

    /// Settles it in some way, now, later or never.
    async fn work(&mut self, delivery: Delivery, handed: Handed) {
        let actor = self.actor;
        if self.to_reject > 0 {
            self.rejected.push(delivery);
            if self.rejected.len() == self.to_reject {
                self.reject();
            }
            return;
        }
        match actor.draw(0..100) {
            0..60 => {
                actor.history.says_acked(self.number, handed);
                delivery.ack();
            }
            60..80 => {
                let (history, number) = (actor.history.clone(), self.number);
                self.tasks.spawn(confirm(history, number, delivery, handed, None));
            }
            80..85 => delivery.nack(),
            85..88 => delivery.nack_after(Duration::from_millis(actor.draw(1..1_500))),
            88..90 => delivery.reject("it is not for me"),
            90..93 => {
                // Longer than it may take, or not: by and by somebody else has it.
                let late = self.group.ack_wait.mul_f64(actor.draw(50..200) as f64 / 100.0);
                let (history, number) = (actor.history.clone(), self.number);
                self.tasks.spawn(confirm(history, number, delivery, handed, Some(late)));
            }
            93..96 => {
                delivery.extend();
                actor.pause(200).await;
                actor.history.says_acked(self.number, handed);
                delivery.ack();
            }
            // Nobody says anything of it, and its time runs out.
            _ => drop(delivery),
        }
        if actor.percent(10) {
            actor.pause(200).await;
        }
    }

    fn reject(&mut self) {
        self.to_reject = 0;
        self.rejected.drain(..).for_each(|delivery| delivery.reject("none is for me"));
    }

    async fn leave(mut self, mut subscription: GroupSubscription) {
        let actor = self.actor;
        match actor.draw(0..10) {
            0..3 => actor.note(format_args!("dies")),
            3..5 => {
                actor.note(format_args!("leaves"));
                drop(subscription);
                self.wait().await;
            }
            _ => {
                actor.note(format_args!("drains"));
                self.wait().await;
                let drained = timeout(CONFIRM_PATIENCE, subscription.drain()).await;
                if let Ok(Err(error)) = drained {
                    judge(actor, &error);
                }
            }
        }
    }

    async fn wait(&mut self) {
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.expect("who waits for an answer does not panic");
            }
        };
        drop(timeout(CONFIRM_PATIENCE, ended).await);
    }
}

/// Acks it, after a while perhaps, and waits for the answer.
async fn confirm(
    history: History,
    number: MemberNumber,
    delivery: Delivery,
    handed: Handed,
    late: Option<Duration>,
) {
    if let Some(late) = late {
        sleep(late).await;
    }
    history.confirm(number, delivery, handed).await;
}

/// Some failures have no excuse here.
fn judge(actor: &Actor, error: &GroupError) {
    actor.note(format_args!("a member failed: {error}"));
    let is_excused = match error {
        GroupError::Refused { error, .. } => {
            let waits = [ErrorCode::GoingAway, ErrorCode::StreamStarting].map(WireCode::Known);
            waits.contains(&error.code) || actor.history.excuses(error.code)
        }
        GroupError::Disconnected { .. } => actor.history.excuses_silence(),
        GroupError::Closed | GroupError::Stale { .. } => true,
        GroupError::NotFound { .. }
        | GroupError::Deleted { .. }
        | GroupError::NotMade { .. }
        | GroupError::TooManyStreams { .. }
        | GroupError::Damaged { .. }
        | GroupError::Protocol { .. } => false,
    };
    if !is_excused {
        actor.history.violated("group errors", format_args!("{}: {error}", actor.name));
    }
}
