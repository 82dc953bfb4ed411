//! Replicas in one process, with what can happen between them: delays, links that break, links that
//! swallow everything, streams that are half dead, bytes that change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, pending};
use openraft::AsyncRuntime;
use railgun_types::ReplicaId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::peers::{
    Destination, PeerError, PeerMessage, PeerNetwork, PeerReceiver, PeerSender, PeerStream,
    StreamUse,
};
use crate::runtime::Runtime;
use crate::shard::RaftShard;
use crate::watch::{self, Receiver, Sender};

/// What a link does, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    #[default]
    Open,
    /// Nothing arrives and nobody notices.
    Swallows,
    /// Streams break, and none can be opened.
    Broken,
}

#[derive(Clone)]
pub(super) struct Net {
    state: Sender<State>,
}

struct State {
    shards: BTreeMap<ReplicaId, RaftShard>,
    links: BTreeMap<(ReplicaId, ReplicaId), Link>,
    /// Streams from one to another opened before this time are half dead.
    half_dead: BTreeMap<(ReplicaId, ReplicaId), Instant>,
    /// Snapshots' pieces that still arrive damaged.
    damage: u32,
    /// Snapshot streams opened so far.
    snapshots: u32,
    delay_max: Duration,
    random: u64,
}

/// The network as one replica sees it.
pub(super) struct Port {
    net: Net,
    own: ReplicaId,
}

pub(super) fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

impl Net {
    pub(super) fn new(seed: u64, delay_max: Duration) -> Self {
        let state = State {
            shards: BTreeMap::new(),
            links: BTreeMap::new(),
            half_dead: BTreeMap::new(),
            damage: 0,
            snapshots: 0,
            delay_max,
            random: seed,
        };
        Self { state: watch::channel(state).0 }
    }

    /// Changes what is under way, too.
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.change(true, change)
    }

    fn change<T>(&self, told: bool, change: impl FnOnce(&mut State) -> T) -> T {
        let mut result = None;
        self.state.send_if_modified(|state| {
            result = Some(change(state));
            told
        });
        result.expect("was called")
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.subscribe().borrow())
    }

    pub(super) fn port(&self, own: ReplicaId) -> Arc<Port> {
        Arc::new(Port { net: self.clone(), own })
    }

    pub(super) fn join(&self, id: ReplicaId, shard: RaftShard) {
        self.with(|state| state.shards.insert(id, shard));
    }

    /// Whoever has a stream to it sees it break.
    pub(super) fn leave(&self, id: ReplicaId) -> Option<RaftShard> {
        self.with(|state| state.shards.remove(&id))
    }

    pub(super) fn set(&self, from: ReplicaId, to: ReplicaId, link: Link) {
        self.with(|state| state.links.insert((from, to), link));
    }

    pub(super) fn isolate(&self, id: ReplicaId, others: &[ReplicaId], link: Link) {
        for other in others.iter().filter(|other| **other != id) {
            self.set(id, *other, link);
            self.set(*other, id, link);
        }
    }

    pub(super) fn heal(&self) {
        self.with(|state| state.links.clear());
    }

    /// What is open between the two carries nothing any more; what is opened from now on does.
    pub(super) fn half_kill(&self, from: ReplicaId, to: ReplicaId) {
        let now = Instant::now();
        self.with(|state| {
            state.half_dead.insert((from, to), now);
            state.half_dead.insert((to, from), now);
        });
    }

    pub(super) fn damage_pieces(&self, count: u32) {
        self.with(|state| state.damage = count);
    }

    pub(super) fn snapshots(&self) -> u32 {
        self.read(|state| state.snapshots)
    }

    fn link(&self, from: ReplicaId, to: ReplicaId) -> Link {
        self.read(|state| state.link(from, to))
    }

    fn delay(&self) -> Duration {
        self.change(false, |state| {
            let max = u64::try_from(state.delay_max.as_micros()).expect("short").max(1);
            Duration::from_micros(draw(&mut state.random) % max)
        })
    }

    fn shard(&self, id: ReplicaId) -> Option<RaftShard> {
        self.read(|state| state.shards.get(&id).cloned())
    }

    /// Returns when something on the way can arrive.
    async fn pass(&self, from: ReplicaId, to: ReplicaId) -> Result<(), PeerError> {
        sleep(self.delay()).await;
        match self.link(from, to) {
            Link::Open => Ok(()),
            Link::Swallows => pending().await,
            Link::Broken => Err(unreachable()),
        }
    }
}

impl State {
    fn link(&self, from: ReplicaId, to: ReplicaId) -> Link {
        // Whoever has left is not there to swallow anything.
        let is_there = |id| self.shards.contains_key(id);
        match self.links.get(&(from, to)).copied().unwrap_or_default() {
            Link::Open if !is_there(&from) || !is_there(&to) => Link::Broken,
            link => link,
        }
    }
}

fn unreachable() -> PeerError {
    PeerError::Unreachable { reason: "the link is broken".to_owned() }
}

fn broken() -> PeerError {
    PeerError::Broken { reason: "the link broke".to_owned() }
}

impl PeerNetwork for Port {
    fn call<'a>(
        &'a self,
        to: &'a Destination,
        request: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        Box::pin(async move {
            self.net.pass(self.own, to.replica).await?;
            let shard = self.net.shard(to.replica).ok_or_else(unreachable)?;
            let refused =
                |error: crate::ServeError| PeerError::Refused { reason: error.to_string() };
            // As on another node: it goes on if the caller does not wait.
            let from = Some(self.own.node());
            let answer = Runtime::spawn(async move { shard.answer(from, request).await });
            let answer = answer.await.map_err(|_| broken())?.map_err(refused)?;
            self.net.pass(to.replica, self.own).await?;
            Ok(answer)
        })
    }

    fn open<'a>(
        &'a self,
        to: &'a Destination,
        what_for: StreamUse,
    ) -> BoxFuture<'a, Result<PeerStream, PeerError>> {
        Box::pin(async move {
            let (net, own, to) = (&self.net, self.own, to.replica);
            if net.link(own, to) == Link::Broken {
                return Err(unreachable());
            }
            let shard = net.shard(to).ok_or_else(unreachable)?;
            if what_for == StreamUse::Snapshot {
                net.change(false, |state| state.snapshots += 1);
            }
            let (sender, far_receiver) = half(net, own, to, what_for);
            let (far_sender, receiver) = half(net, to, own, what_for);
            let far = PeerStream { sender: far_sender, receiver: far_receiver };
            drop(Runtime::spawn(async move { shard.serve_stream(what_for, far).await }));
            Ok(PeerStream { sender, receiver })
        })
    }
}

/// One direction of a stream.
fn half(
    net: &Net,
    from: ReplicaId,
    to: ReplicaId,
    what_for: StreamUse,
) -> (Box<dyn PeerSender>, Box<dyn PeerReceiver>) {
    let (tx, rx) = mpsc::channel(4);
    let finished = Arc::new(AtomicBool::new(false));
    let way = Way { net: net.clone(), from, to, opened: Instant::now(), what_for };
    let sender = TestSender {
        way: way.clone(),
        tx: Some(tx),
        finished: Arc::clone(&finished),
        last: Instant::now(),
        dead: false,
    };
    let changes = net.state.subscribe();
    let receiver = TestReceiver { way, rx, finished, changes, next: None };
    (Box::new(sender), Box::new(receiver))
}

#[derive(Clone)]
struct Way {
    net: Net,
    from: ReplicaId,
    to: ReplicaId,
    opened: Instant,
    what_for: StreamUse,
}

impl Way {
    fn link(&self) -> Link {
        self.net.read(|state| {
            let half_dead = state.half_dead.get(&(self.from, self.to));
            match half_dead.is_some_and(|since| self.opened <= *since) {
                true => Link::Swallows,
                false => state.link(self.from, self.to),
            }
        })
    }

    fn damages(&self, message: &PeerMessage) -> bool {
        self.what_for == StreamUse::Snapshot
            && !message.body.is_empty()
            && self.net.change(false, |state| {
                let damages = state.damage > 0;
                state.damage = state.damage.saturating_sub(1);
                damages
            })
    }
}

struct TestSender {
    way: Way,
    tx: Option<mpsc::Sender<(Instant, PeerMessage)>>,
    finished: Arc<AtomicBool>,
    /// When the last message arrives: they keep their order.
    last: Instant,
    /// Something was swallowed: nothing after it can arrive.
    dead: bool,
}

impl PeerSender for TestSender {
    fn send(&mut self, message: PeerMessage) -> BoxFuture<'_, Result<(), PeerError>> {
        Box::pin(async move {
            match self.way.link() {
                Link::Broken => return Err(broken()),
                Link::Swallows => self.dead = true,
                Link::Open => {}
            }
            if self.dead {
                return Ok(());
            }
            let mut body = message.body.concat();
            if self.way.damages(&message) {
                body[0] ^= 1;
            }
            let body = if body.is_empty() { Vec::new() } else { vec![Bytes::from(body)] };
            self.last = self.last.max(Instant::now() + self.way.net.delay());
            let tx = self.tx.as_ref().ok_or_else(broken)?;
            let arrives = (self.last, PeerMessage { head: message.head, body });
            tx.send(arrives).await.map_err(|_| broken())
        })
    }

    fn finish(&mut self) {
        if !self.dead {
            self.finished.store(true, Ordering::Relaxed);
            self.tx = None;
        }
    }
}

struct TestReceiver {
    way: Way,
    rx: mpsc::Receiver<(Instant, PeerMessage)>,
    finished: Arc<AtomicBool>,
    changes: Receiver<State>,
    next: Option<(Instant, PeerMessage)>,
}

impl PeerReceiver for TestReceiver {
    fn receive(&mut self) -> BoxFuture<'_, Result<Option<PeerMessage>, PeerError>> {
        Box::pin(async move {
            loop {
                match self.way.link() {
                    Link::Broken => return Err(broken()),
                    Link::Open => {}
                    Link::Swallows => {
                        self.changes.changed().await.map_err(|_| broken())?;
                        continue;
                    }
                }
                if let Some((at, _)) = &self.next {
                    let at = *at;
                    tokio::select! {
                        biased;
                        _ = self.changes.changed() => {}
                        () = sleep_until(at) => return Ok(self.next.take().map(|next| next.1)),
                    }
                    continue;
                }
                tokio::select! {
                    biased;
                    _ = self.changes.changed() => {}
                    next = self.rx.recv() => match next {
                        Some(next) => self.next = Some(next),
                        None if self.finished.load(Ordering::Relaxed) => return Ok(None),
                        None => return Err(broken()),
                    }
                }
            }
        })
    }
}
