//! Entries to one follower: a stream on which requests go out without waiting for answers. Both
//! directions are driven by whoever polls the stream of answers, so that nothing of the session
//! outlives it: openraft wants its requests back before the next session.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Fuse, Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use super::{AppendResult, OPEN_PATIENCE, broken, invalid, rpc_error};
use crate::peers::{
    Destination, PeerError, PeerNetwork, PeerReceiver, PeerSender, PeerStream, StreamUse,
};
use crate::wire::{self, Append};

/// What may be on its way to a follower without an answer: bytes (or one request), and requests.
const UNANSWERED_BYTES_MAX: usize = 8 << 20;
const UNANSWERED_MAX: usize = 64;
/// A follower that owes an answer and gives none for this long is gone, whatever its connection says.
/// Longer than a disk takes for the slowest usual sync.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// A session from its first request to the end of `input`, a refusal or a break.
pub(super) fn session<S>(
    peers: Arc<dyn PeerNetwork>,
    to: Destination,
    input: S,
) -> BoxStream<'static, AppendResult>
where
    S: Stream<Item = Append> + Send + Unpin + 'static,
{
    stream::once(begin(peers, to, input)).flatten().boxed()
}

/// openraft's pause between attempts lies before the first request, so nothing is opened before it.
async fn begin<S>(
    peers: Arc<dyn PeerNetwork>,
    to: Destination,
    mut input: S,
) -> BoxStream<'static, AppendResult>
where
    S: Stream<Item = Append> + Send + Unpin + 'static,
{
    let Some(first) = input.next().await else { return stream::empty().boxed() };
    let opened = timeout(OPEN_PATIENCE, peers.open(&to, StreamUse::Append)).await;
    let opened = opened.unwrap_or_else(|_| {
        Err(PeerError::Unreachable { reason: format!("no stream after {OPEN_PATIENCE:?}") })
    });
    match opened {
        Ok(stream) => Session::new(stream, first, input).boxed(),
        Err(error) => stream::once(std::future::ready(Err(rpc_error(error)))).boxed(),
    }
}

struct Session {
    /// Until all requests are sent.
    writer: Option<BoxFuture<'static, Result<(), PeerError>>>,
    /// Told when the answers that still come have come.
    writer_error: Option<PeerError>,
    answers: Fuse<BoxStream<'static, AppendResult>>,
}

/// A request under way. Its place is given back with the answer.
struct Unanswered {
    since: Instant,
    _place: OwnedSemaphorePermit,
}

impl Session {
    fn new<S>(stream: PeerStream, first: Append, input: S) -> Self
    where
        S: Stream<Item = Append> + Send + Unpin + 'static,
    {
        let (sent, unanswered) = mpsc::channel(UNANSWERED_MAX);
        let PeerStream { sender, receiver } = stream;
        let reader = Reader { receiver, unanswered, oldest: None, heard: Instant::now() };
        Self {
            writer: Some(Box::pin(write(sender, first, input, sent))),
            writer_error: None,
            answers: stream::unfold(Some(reader), Reader::next).boxed().fuse(),
        }
    }
}

impl Stream for Session {
    type Item = AppendResult;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<AppendResult>> {
        if let Some(writer) = &mut self.writer
            && let Poll::Ready(written) = writer.as_mut().poll(cx)
        {
            self.writer = None;
            self.writer_error = written.err();
        }
        match self.answers.poll_next_unpin(cx) {
            // A follower that refuses says why and ends the stream; the writer sees only the end.
            Poll::Ready(None) => {
                Poll::Ready(self.writer_error.take().map(|error| Err(rpc_error(error))))
            }
            other => other,
        }
    }
}

async fn write<S>(
    mut sender: Box<dyn PeerSender>,
    first: Append,
    mut input: S,
    sent: mpsc::Sender<Unanswered>,
) -> Result<(), PeerError>
where
    S: Stream<Item = Append> + Send + Unpin,
{
    let places = Arc::new(Semaphore::new(UNANSWERED_BYTES_MAX));
    let mut next = Some(first);
    while let Some(append) = next {
        let message = wire::encode_append(append);
        let bytes = message.bytes().min(UNANSWERED_BYTES_MAX);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // The semaphore is never closed, and nobody listens to answers any more where the other is.
        let Ok(place) = Arc::clone(&places).acquire_many_owned(bytes).await else { break };
        let unanswered = Unanswered { since: Instant::now(), _place: place };
        if sent.send(unanswered).await.is_err() {
            break;
        }
        sender.send(message).await?;
        next = input.next().await;
    }
    sender.finish();
    Ok(())
}

struct Reader {
    receiver: Box<dyn PeerReceiver>,
    unanswered: mpsc::Receiver<Unanswered>,
    oldest: Option<Unanswered>,
    /// When the last answer came.
    heard: Instant,
}

impl Reader {
    /// The next answer. Errors are the last.
    async fn next(reader: Option<Self>) -> Option<(AppendResult, Option<Self>)> {
        let mut reader = reader?;
        let answer = reader.answer().await?;
        let goes_on = matches!(answer, Ok(Ok(_)));
        Some((answer, goes_on.then_some(reader)))
    }

    /// `None` when everything was sent and answered.
    async fn answer(&mut self) -> Option<AppendResult> {
        let since = match &self.oldest {
            Some(oldest) => oldest.since,
            None => tokio::select! {
                biased;
                sent = self.unanswered.recv() => self.oldest.insert(sent?).since,
                // Nothing is due: this is how an idle follower's end is noticed in good time.
                early = self.receiver.receive() => return Some(Err(match early {
                    Ok(Some(_)) => broken("the follower answers what it was not asked"),
                    Ok(None) => broken("the follower has ended the stream"),
                    Err(error) => rpc_error(error),
                })),
            },
        };
        let patience = since.max(self.heard) + ANSWER_PATIENCE;
        let received = match timeout_at(patience, self.receiver.receive()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Some(Err(broken("the follower has ended the stream"))),
            Ok(Err(error)) => return Some(Err(rpc_error(error))),
            Err(_) => return Some(Err(broken("the follower owes an answer for too long"))),
        };
        self.heard = Instant::now();
        self.oldest = None;
        Some(wire::decode_appended(&received.head).map_err(invalid))
    }
}

#[cfg(test)]
mod tests;
