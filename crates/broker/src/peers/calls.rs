//! The connection for calls to one node: many under way at a time on one stream, answered in any order.
//! Owns what is un-answered.

use std::collections::BTreeMap;

use bytes::Bytes;
use railgun_proto::{Frame, WireError, v1};
use railgun_raft::PeerError;
use railgun_types::ErrorCode;
use tokio::sync::{mpsc, oneshot};

use super::dial::{DialTo, Dialled};
use super::{Asked, CallAsk, CallResult};

/// Calls that may be un-answered: more come of a peer that does not answer at all.
const UNANSWERED_MAX: usize = 4_096;

pub(super) struct CallLine {
    dial: DialTo,
    from: mpsc::Receiver<CallAsk>,
}

/// Why a conversation has ended.
enum Ended {
    /// Nobody asks any more.
    Quiet,
    Broken(PeerError),
}

impl CallLine {
    pub(super) fn new(dial: DialTo, from: mpsc::Receiver<CallAsk>) -> Self {
        Self { dial, from }
    }

    /// Connects whenever there is something to ask and no connection, until nobody asks any more.
    pub(super) async fn run(mut self) {
        while let Some((dialled, first)) = self.dial.for_next(&mut self.from).await {
            let mut conversation = Conversation::new(dialled);
            match conversation.hold(first, &mut self.from).await {
                Ended::Quiet => return,
                Ended::Broken(error) => conversation.fail(&error),
            }
        }
    }
}

struct Conversation {
    line: Dialled,
    next_id: u64,
    unanswered: BTreeMap<u64, oneshot::Sender<CallResult>>,
}

impl Conversation {
    fn new(line: Dialled) -> Self {
        Self { line, next_id: 0, unanswered: BTreeMap::new() }
    }

    async fn hold(&mut self, first: CallAsk, from: &mut mpsc::Receiver<CallAsk>) -> Ended {
        let broken = |error: &dyn std::fmt::Display| {
            Ended::Broken(PeerError::Broken { reason: error.to_string() })
        };
        if let Err(error) = self.say(first) {
            return Ended::Broken(error);
        }
        loop {
            let is_flushed = self.line.writer.is_flushed();
            tokio::select! {
                biased;
                frame = self.line.reader.next() => match frame {
                    Ok(Some(frame)) => {
                        if let Err(error) = self.hear(&frame) {
                            return Ended::Broken(error);
                        }
                    }
                    Ok(None) => return broken(&"the peer ended the stream"),
                    Err(error) => return broken(&error),
                },
                flushed = self.line.writer.flush(), if !is_flushed => {
                    if let Err(error) = flushed {
                        return broken(&error);
                    }
                }
                ask = from.recv(), if is_flushed => match ask {
                    Some(ask) => {
                        if let Err(error) = self.say(ask) {
                            return Ended::Broken(error);
                        }
                    }
                    None => return Ended::Quiet,
                },
            }
        }
    }

    fn say(&mut self, ask: CallAsk) -> Result<(), PeerError> {
        let Asked { wanted: (call, blob), reply } = ask;
        if self.unanswered.len() >= UNANSWERED_MAX {
            self.unanswered.retain(|_, reply| !reply.is_closed());
            if self.unanswered.len() >= UNANSWERED_MAX {
                let reason = "the peer answers no calls".to_owned();
                return Err(PeerError::Broken { reason });
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        let frame = Frame::with_blob(&v1::PeerCall { id, call: Some(call) }, vec![blob]);
        match self.line.writer.queue_all([frame]) {
            Ok(()) => {
                self.unanswered.insert(id, reply);
            }
            Err(too_large) => {
                let reason = too_large.to_string();
                reply.send(Err(PeerError::Refused { reason })).ok();
            }
        }
        Ok(())
    }

    fn hear(&mut self, frame: &Frame) -> Result<(), PeerError> {
        let broken =
            |error: &dyn std::fmt::Display| PeerError::Broken { reason: error.to_string() };
        let reply: v1::PeerReply = frame.decode().map_err(|error| broken(&error))?;
        // Unknown: of nobody.
        let Some(waiting) = self.unanswered.remove(&reply.id) else { return Ok(()) };
        let result = match reply.answer {
            Some(v1::peer_reply::Answer::Error(error)) => Err(refused(error)),
            Some(answer) => Ok((answer, frame.blob())),
            None => Err(PeerError::Refused { reason: "an answer of an unknown kind".to_owned() }),
        };
        waiting.send(result).ok();
        Ok(())
    }

    fn fail(self, error: &PeerError) {
        for reply in self.unanswered.into_values() {
            reply.send(Err(error.clone())).ok();
        }
    }
}

fn refused(error: v1::Error) -> PeerError {
    let error = WireError::from(error);
    let reason = error.to_string();
    if error.code == ErrorCode::ReplicaNotHere {
        // As if there were no node: it may come.
        return PeerError::Unreachable { reason };
    }
    PeerError::Refused { reason }
}

/// What an answer of another kind than was asked for means.
pub(crate) fn unexpected(blob: &Bytes) -> PeerError {
    let reason = format!("an answer of the wrong kind, with {} bytes", blob.len());
    PeerError::Refused { reason }
}
