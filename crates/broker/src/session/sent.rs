//! Records on their way to a client, and the memory that they take until it has them.

use std::sync::Arc;

use railgun_net::{CROWD_CHECK, FrameWriter, Held, Member, crowded_time};
use railgun_proto::WireError;
use railgun_types::ErrorCode;
use tokio::time::{Instant, timeout};

use super::SessionEnd;

/// See the module.
pub(super) struct Sent {
    held: Vec<Arc<Held>>,
    bytes: usize,
    since: Instant,
    /// What the transport has taken of the stream, and since when it is no more.
    taken: u64,
    taken_at: Instant,
}

impl Sent {
    /// Something is queued; what is `sent` already is not with the client yet.
    pub(super) fn note<'s>(sent: &'s mut Option<Self>, writer: &FrameWriter) -> &'s mut Self {
        let (now, taken) = (Instant::now(), writer.taken());
        sent.get_or_insert(Self { held: vec![], bytes: 0, since: now, taken, taken_at: now })
    }

    /// Of what is queued, so many bytes take this memory.
    pub(super) fn add(&mut self, held: Arc<Held>, bytes: usize) {
        self.bytes += bytes;
        if self.held.last().is_none_or(|last| !Arc::ptr_eq(last, &held)) {
            self.held.push(held);
        }
    }

    /// Whether others may wait for the memory.
    fn is_shared(&self) -> bool {
        self.held.iter().any(|held| held.is_shared())
    }

    /// Whether the client takes its time while others wait for the memory; or takes nothing while other
    /// streams of it wait for that: these need not be in a hurry on its account.
    fn is_overdue(&mut self, taken: u64, memory: &Member) -> bool {
        if self.taken != taken {
            (self.taken, self.taken_at) = (taken, Instant::now());
        }
        let since = if memory.is_crowded() { self.since } else { self.taken_at };
        memory.is_wanted() && since.elapsed() >= crowded_time(self.bytes)
    }
}

/// Sends what is queued, and gives back its memory. A client that does not take what it has credit
/// for, while others wait for the memory, loses the stream; `holds_more`: also where others wait for what is
/// behind that. Cancel safe.
pub(super) async fn flush(
    writer: &mut FrameWriter,
    sent: &mut Option<Sent>,
    memory: Option<&Member>,
    holds_more: bool,
) -> Result<(), SessionEnd> {
    if let (Some(sent), Some(memory)) = (&mut *sent, memory)
        && (holds_more || sent.is_shared())
    {
        loop {
            if sent.is_overdue(writer.taken(), memory) {
                // Who does not read cannot be told; what is on its way is given up.
                writer.reset(ErrorCode::QuotaExceeded);
                let message = "records were not taken while others waited for the memory";
                return Err(WireError::new(ErrorCode::QuotaExceeded, message).into());
            }
            if let Ok(flushed) = timeout(CROWD_CHECK, writer.flush()).await {
                flushed?;
                break;
            }
        }
    } else {
        writer.flush().await?;
    }
    *sent = None;
    Ok(())
}
