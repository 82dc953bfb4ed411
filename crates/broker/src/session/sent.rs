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
    /// So many bytes that were just queued; what is `sent` already is not with the client yet.
    pub(super) fn add(
        sent: &mut Option<Self>,
        held: Arc<Held>,
        bytes: usize,
        writer: &FrameWriter,
    ) {
        let now = Instant::now();
        let (held_before, taken) = (Vec::new(), writer.taken());
        let sent = sent.get_or_insert(Self {
            held: held_before,
            bytes: 0,
            since: now,
            taken,
            taken_at: now,
        });
        sent.bytes += bytes;
        if sent.held.last().is_none_or(|last| !Arc::ptr_eq(last, &held)) {
            sent.held.push(held);
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
/// for, while others wait for the memory, loses the stream. Cancel safe.
pub(super) async fn flush(
    writer: &mut FrameWriter,
    sent: &mut Option<Sent>,
    memory: Option<&Member>,
) -> Result<(), SessionEnd> {
    if let (Some(sent), Some(memory)) = (&mut *sent, memory)
        && sent.is_shared()
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
