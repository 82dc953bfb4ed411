//! Has every group settle all that it has, when nothing is wrong any more, and looks whether each message
//! was acked or is dead (G-2, DL-3).

use std::sync::Arc;
use std::time::Duration;

use railgun_client::{
    Client, ClientOptions, DeadOffsets, ErrorCode, Event, GroupError, GroupEvent, GroupName,
    GroupSubscription, Offset, StartPosition, StreamName, SubscribeError, WireCode,
};
use tokio::time::{Instant, timeout};

use super::dial::SimDial;
use super::history::{GroupNumber, Handed, History, MemberNumber};
use super::trace::Trace;

/// Time in which a group has settled everything.
const PATIENCE: Duration = Duration::from_secs(300);
/// Time in which a dead letter is made, where nothing is wrong.
const LETTER_PATIENCE: Duration = Duration::from_secs(60);
/// Who got nothing for so long asks whether there is anything left.
const QUIET: Duration = Duration::from_millis(500);

/// A consumer group that stays.
#[derive(Clone, Debug)]
pub struct Group {
    /// The stream whose messages it hands out.
    pub stream: StreamName,
    /// Its name.
    pub name: GroupName,
    /// What the history calls it.
    pub number: GroupNumber,
    /// How long its members may take for a message.
    pub ack_wait: Duration,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Settling {
    /// The groups that are to settle all.
    pub groups: Vec<Group>,
    /// Of what members and readers were told.
    pub history: History,
    /// For what is of interest besides.
    pub trace: Trace,
}

/// Why a group did not come to its end.
type Unsettled = Box<dyn std::error::Error + Send + Sync>;

impl Settling {
    /// Returns when all is settled; what is not right is in the history.
    pub async fn run(self, client: &Client) {
        for group in &self.groups {
            if let Err(error) = self.settle(client, group).await {
                let how = format_args!("group {} does not settle: {error}", group.name);
                self.history.violated("group errors", how);
            }
        }
    }

    /// The same for a client of simulated nodes.
    pub(super) async fn run_over(self, dial: SimDial) {
        let options = ClientOptions { seed: Some([9; 16]), ..ClientOptions::new(dial.servers()) };
        match Client::connect_over(Arc::new(dial), options).await {
            Ok(client) => self.run(&client).await,
            Err(error) => self.history.violated("liveness", format_args!("no member: {error}")),
        }
    }

    async fn settle(&self, client: &Client, group: &Group) -> Result<(), Unsettled> {
        let (stream, name) = (&group.stream, &group.name);
        client.admin().resume_group(stream, name).await?;
        let number = self.history.joins(group.number);
        let builder = client.subscribe(stream.clone()).group(name.clone());
        let mut subscription = builder.credit(500).open().await?;
        let end = Instant::now() + PATIENCE;
        let mut taken = Instant::now();
        let next = loop {
            let is_quiet = !self.take(number, &mut subscription).await?;
            if !is_quiet {
                taken = Instant::now();
            } else {
                let told = client.admin().describe_group(stream, name).await?;
                self.history.check_floor(group.number, told.floor);
                if told.lag == 0 && told.dying == 0 {
                    break told.next_offset;
                }
                self.trace.note(format_args!("group {name} is not settled: {told:?}"));
                if told.dying > 0 && taken.elapsed() > LETTER_PATIENCE {
                    let how = format_args!("group {name} makes no dead letters: {told:?}");
                    self.history.violated("DL-3", how);
                    return Ok(());
                }
            }
            if Instant::now() > end {
                let told = client.admin().describe_group(stream, name).await?;
                let how = format_args!("nothing is wrong, and group {name} is left with {told:?}");
                self.history.violated("G-2", how);
                return Ok(());
            }
        };
        subscription.drain().await?;
        let dead = client.admin().dead_letters(stream, name).await?;
        self.read_letters(client, group, &dead).await?;
        self.history.check_settled(group.number, next, &dead);
        Ok(())
    }

    /// Takes what comes next and acks it; whether there was something.
    async fn take(
        &self,
        number: MemberNumber,
        subscription: &mut GroupSubscription,
    ) -> Result<bool, GroupError> {
        let Ok(event) = timeout(QUIET, subscription.next_batch()).await else { return Ok(false) };
        let batch = match event? {
            Some(GroupEvent::Delivery(batch)) => batch,
            Some(GroupEvent::Skipped(range)) => {
                let how = format_args!("nothing was removed, and {range} is skipped");
                self.history.violated("G-2", how);
                return Ok(true);
            }
            Some(_) => return Ok(true),
            None => return Ok(false),
        };
        let stream = self.history.stream_of(number);
        let mut all = Vec::new();
        for record in batch.records() {
            let handed = Handed {
                offset: record.offset,
                attempt: batch.attempt(),
                generation: batch.redriven(),
                token: batch.fencing_token(),
            };
            self.history.handed(number, handed);
            let (offset, ts) = (record.offset, record.ts);
            self.history.read(stream, offset, ts, &record.into(), "the last member");
            all.push(handed);
        }
        let asked = self.trace.elapsed();
        match batch.ack_confirmed().await {
            Ok(()) => {
                all.into_iter().for_each(|it| self.history.acked_for_good(number, it, asked));
            }
            Err(GroupError::Stale { range, reason }) => {
                self.trace.note(format_args!("{range} is stale: {reason:?}"));
                self.trace.count(|counts| counts.stale += 1);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Reads all letters of a group, and counts those that are dead.
    async fn read_letters(
        &self,
        client: &Client,
        group: &Group,
        dead: &DeadOffsets,
    ) -> Result<(), SubscribeError> {
        let count = dead.dead.iter().map(|range| range.len()).sum::<u64>();
        self.trace.count(|counts| counts.dead_letters += count);
        let companion = StreamName::companion(&group.stream, &group.name);
        let builder = client.subscribe(companion).start(StartPosition::Earliest).until_end();
        let mut letters = match builder.open().await {
            Ok(letters) => letters,
            // Nothing ever died.
            Err(SubscribeError::Refused { error, .. })
                if error.code == WireCode::Known(ErrorCode::StreamNotFound) && count == 0 =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (uid, mut next) = (letters.stream_uid(), Offset(0));
        while let Some(event) = letters.next_batch().await? {
            let Event::Data(run) = event else { continue };
            for record in run.records() {
                self.history.follows("DL-3", uid, &mut next, record.offset);
                let (offset, ts) = (record.offset, record.ts);
                self.history.read(uid, offset, ts, &record.into(), "a reader of dead letters");
            }
        }
        Ok(())
    }
}
