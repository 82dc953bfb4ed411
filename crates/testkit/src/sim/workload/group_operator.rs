//! Somebody who looks after consumer groups: describes, pauses, redrives what is dead.

use railgun_client::AdminError;

use super::{Actor, Group, admin};

pub(super) async fn run(actor: Actor, groups: Vec<Group>) {
    while actor.goes_on() && !groups.is_empty() {
        let Some(client) = actor.connect().await else { return };
        let admin = client.admin();
        for _ in 0..actor.draw(3..10) {
            actor.pause(4_000).await;
            if !actor.goes_on() {
                return;
            }
            let group = actor.random.with(|random| random.pick(&groups).clone());
            let (stream, name) = (&group.stream, &group.name);
            let done = match actor.draw(0..10) {
                0..4 => {
                    actor.history.redrives(group.number);
                    let redriven = admin.redrive(stream, name, &[]).await;
                    actor.note(format_args!("redrives {name}: {redriven:?}"));
                    redriven.map(|_| None)
                }
                4..6 => {
                    let paused = admin.pause_group(stream, name).await;
                    actor.pause(1_000).await;
                    paused.and(admin.resume_group(stream, name).await).map(|done| Some(done.floor))
                }
                6..8 => admin.resume_group(stream, name).await.map(|done| Some(done.floor)),
                _ => admin.describe_group(stream, name).await.map(|told| {
                    actor.note(format_args!("{name} is told: {told:?}"));
                    Some(told.floor)
                }),
            };
            match done {
                Ok(floor) => {
                    floor.into_iter().for_each(|it| actor.history.floor_told(group.number, it));
                }
                Err(error) => judge(&actor, &error),
            }
        }
    }
}

/// As of any call. What is not repeated for fear of doing it twice may end unknown at any time when leads
/// move.
fn judge(actor: &Actor, error: &AdminError) {
    match error {
        AdminError::Unknown { .. } => actor.note(format_args!("a call failed: {error}")),
        _ => admin::judge(actor, error),
    }
}
