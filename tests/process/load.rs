//! Publishing without pause until told to stop, with many messages in flight, and noting what
//! became of each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use railgun_client::{AtomicTicket, Message, PublishError, Publisher, Ticket};
use railgun_testkit::sim::Random;
use tokio::sync::watch;

use crate::ledger::{Fate, Ledger};

/// Messages that wait at a time, by and large: enough for many batches in flight, few enough that a
/// stream can be read as a whole again and again.
const WINDOW: usize = 64;
/// Most messages of an atomic batch here.
const ATOMIC_MAX: u64 = 16;

/// How messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Each,
    Atomic,
}

/// What runs the load is steered and watched by.
#[derive(Clone, Debug)]
pub(crate) struct Steering {
    stop: watch::Sender<bool>,
    acked: Arc<AtomicU64>,
}

impl Steering {
    pub(crate) fn new() -> Self {
        Self { stop: watch::channel(false).0, acked: Arc::default() }
    }

    /// No new messages; those in flight are waited for.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Messages acknowledged so far.
    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }
}

/// How a load ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) ledger: Ledger,
    /// The first failure.
    pub(crate) failure: Option<String>,
}

/// Sends until stopped, or until the publisher takes no more, then waits for every ticket.
pub(crate) async fn publish(
    publisher: Publisher,
    mode: Mode,
    ledger: Ledger,
    steering: Steering,
) -> Ended {
    let mut load = Load {
        ended: Ended { ledger, failure: None },
        steering,
        waiting: VecDeque::new(),
        unanswered: 0,
    };
    let mut random = Random::new(0);
    while !*load.steering.stop.borrow() {
        let sent = match mode {
            Mode::Each => load.send_one(&publisher).await,
            Mode::Atomic => load.send_atomic(&publisher, 1 + random.below(ATOMIC_MAX)).await,
        };
        if !sent {
            break;
        }
        while load.unanswered > WINDOW {
            load.await_first().await;
        }
    }
    while !load.waiting.is_empty() {
        load.await_first().await;
    }
    load.ended
}

enum Waiting {
    One(usize, Ticket),
    Atomic(std::ops::Range<usize>, AtomicTicket),
}

struct Load {
    ended: Ended,
    steering: Steering,
    waiting: VecDeque<Waiting>,
    /// Messages of all that wait.
    unanswered: usize,
}

impl Load {
    async fn send_one(&mut self, publisher: &Publisher) -> bool {
        let (number, value) = self.ended.ledger.next_message();
        match publisher.send(Message::new(value)).await {
            Ok(ticket) => {
                self.unanswered += 1;
                self.waiting.push_back(Waiting::One(number, ticket));
            }
            Err(error) => {
                // It was not taken, so it must never be there.
                self.ended.ledger.note(number, Fate::Absent);
                self.failed(&error);
                return false;
            }
        }
        true
    }

    async fn send_atomic(&mut self, publisher: &Publisher, count: u64) -> bool {
        let (numbers, values) = self.ended.ledger.next_atomic(count as usize);
        let messages: Vec<_> =
            values.into_iter().map(|value| Message::new(Bytes::from(value))).collect();
        match publisher.send_atomic(&messages, None).await {
            Ok(ticket) => {
                self.unanswered += numbers.len();
                self.waiting.push_back(Waiting::Atomic(numbers, ticket));
            }
            Err(error) => {
                numbers.for_each(|number| self.ended.ledger.note(number, Fate::Absent));
                self.failed(&error);
                return false;
            }
        }
        true
    }

    async fn await_first(&mut self) {
        let (numbers, first) = match self.waiting.pop_front() {
            None => return,
            Some(Waiting::One(number, ticket)) => {
                (number..number + 1, ticket.await.map(|published| published.offset))
            }
            Some(Waiting::Atomic(numbers, ticket)) => {
                (numbers, ticket.await.map(|range| range.first))
            }
        };
        let fate = |at| match &first {
            Ok(base) => Fate::At(base.0 + at),
            Err(PublishError::Unknown { .. }) => Fate::Unknown,
            Err(_) => Fate::Absent,
        };
        self.unanswered -= numbers.len();
        let count = numbers.len() as u64;
        numbers.zip(0..).for_each(|(number, at)| self.ended.ledger.note(number, fate(at)));
        match &first {
            Ok(_) => drop(self.steering.acked.fetch_add(count, Ordering::Relaxed)),
            Err(error) => self.failed(error),
        }
    }

    fn failed(&mut self, error: &dyn std::fmt::Display) {
        self.ended.failure.get_or_insert_with(|| error.to_string());
    }
}
