//! What the two sides of a connection share: whether it lives.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::VarInt;
use tokio::sync::SetOnce;
use tokio::time::{Instant, sleep_until};

use super::route::{Route, Stamp};
use super::signal::Signal;
use crate::close_code;
use crate::connection::ConnectionLost;

/// Which end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialling,
    Accepting,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Dialling, Self::Accepting];

    fn other(self) -> Self {
        match self {
            Self::Dialling => Self::Accepting,
            Self::Accepting => Self::Dialling,
        }
    }
}

/// One of each side.
#[derive(Clone, Debug)]
pub(super) struct PerSide<T>([T; 2]);

impl<T> PerSide<T> {
    pub(super) fn new(dialling: T, accepting: T) -> Self {
        Self([dialling, accepting])
    }

    pub(super) fn of(&self, side: Side) -> &T {
        &self.0[side as usize]
    }

    fn of_mut(&mut self, side: Side) -> &mut T {
        &mut self.0[side as usize]
    }
}

/// How a link came to its end.
#[derive(Clone, Debug)]
enum End {
    Closed {
        by: Side,
        code: VarInt,
        reason: String,
    },
    Cut,
    /// The peer's host has started again and knows nothing of it.
    Reset,
}

/// Whether the connection lives, for each side. The first end counts. Those who wait for it learn of it in
/// the order of their waiting, which tokio's watch does not promise.
#[derive(Debug)]
pub(super) struct Link {
    /// One and the same for both sides where there is no wire.
    ends: PerSide<Arc<SetOnce<End>>>,
    /// What lies between the sides, where that can be disturbed.
    wire: Option<Wire>,
}

#[derive(Debug)]
pub(super) struct Wire {
    hosts: PerSide<IpAddr>,
    /// From each side to the other.
    routes: PerSide<Arc<Route>>,
    idle_timeout: Duration,
    hearing: Signal<Hearing>,
}

impl Wire {
    pub(super) fn new(
        hosts: PerSide<IpAddr>,
        routes: PerSide<Arc<Route>>,
        idle_timeout: Duration,
    ) -> Self {
        Self { hosts, routes, idle_timeout, hearing: Signal::new(Hearing::default()) }
    }

    pub(super) fn is_between(&self, one: IpAddr, other: IpAddr) -> bool {
        let (dialling, accepting) =
            (*self.hosts.of(Side::Dialling), *self.hosts.of(Side::Accepting));
        (dialling, accepting) == (one, other) || (dialling, accepting) == (other, one)
    }
}

/// What the sides hear of one another. The dialling side sends signs of life, which the other answers:
/// it hears something if both directions are open, the accepting side if one is.
#[derive(Debug)]
struct Hearing {
    /// Since when a side has heard nothing.
    unheard: PerSide<Option<Instant>>,
    /// The end that the other side told it, and when it gets there.
    told: PerSide<Option<(Instant, End)>>,
    changes: u64,
}

impl Default for Hearing {
    fn default() -> Self {
        let (unheard, told) = (PerSide::new(None, None), PerSide::new(None, None));
        Self { unheard, told, changes: 0 }
    }
}

impl Hearing {
    /// The end that a side will come to if nothing changes.
    fn doom(&self, side: Side, idle_timeout: Duration) -> Option<(Instant, End)> {
        let given_up = |since: Option<Instant>| since.map(|since| since + idle_timeout);
        let silence = match side {
            Side::Dialling => given_up(*self.unheard.of(side)),
            // Without the signs of life of a dialling side that has given up.
            Side::Accepting => given_up(
                self.unheard.of(side).or_else(|| given_up(*self.unheard.of(Side::Dialling))),
            ),
        };
        let told = self.told.of(side).clone();
        match (silence, told) {
            (Some(silent), Some((at, end))) if at <= silent => Some((at, end)),
            (Some(silent), _) => Some((silent, End::Cut)),
            (None, told) => told,
        }
    }
}

impl Link {
    pub(super) fn new(wire: Option<Wire>) -> Arc<Self> {
        let end = Arc::new(SetOnce::new());
        let other = match &wire {
            Some(_) => Arc::new(SetOnce::new()),
            None => Arc::clone(&end),
        };
        Arc::new(Self { ends: PerSide::new(end, other), wire })
    }

    pub(super) fn wire(&self) -> Option<&Wire> {
        self.wire.as_ref()
    }

    /// Ends the connection as if the network were gone.
    pub(super) fn cut(&self) {
        for side in Side::BOTH {
            self.ends.of(side).set(End::Cut).ok();
        }
    }

    pub(super) fn close(&self, by: Side, code: VarInt, reason: &str) {
        self.settle();
        let end = End::Closed { by, code, reason: reason.to_owned() };
        // Who has ended tells nobody.
        if self.ends.of(by).set(end.clone()).is_err() {
            return;
        }
        if let Some(wire) = &self.wire {
            // The word is said once: if it does not get through, the other side must find out.
            let route = wire.routes.of(by);
            let due = route.is_open().then(|| route.depart().due());
            wire.hearing.change(|hearing| {
                *hearing.told.of_mut(by.other()) = due.map(|due| (due, end));
            });
            self.settle();
        }
    }

    /// The sides that are on this host end, and tell nobody; the others learn it at once, as from a host
    /// that has started again, or find out.
    pub(super) fn crash(&self, host: IpAddr, at_once: bool) {
        let Some(wire) = &self.wire else { return };
        self.settle();
        let dead = Side::BOTH.into_iter().filter(|side| *wire.hosts.of(*side) == host);
        for side in dead {
            self.ends.of(side).set(End::Cut).ok();
            if at_once && *wire.hosts.of(side.other()) != host {
                self.ends.of(side.other()).set(End::Reset).ok();
            }
        }
        self.settle();
    }

    /// Takes note of what has changed between the sides, and of who has given up meanwhile.
    pub(super) fn settle(&self) {
        let Some(wire) = &self.wire else { return };
        let now = Instant::now();
        let lives = |side| !self.ends.of(side).initialized();
        wire.hearing.change(|hearing| {
            for side in Side::BOTH {
                match hearing.doom(side, wire.idle_timeout) {
                    Some((at, end)) if at <= now && lives(side) => {
                        self.ends.of(side).set(end).ok();
                        hearing.unheard.of_mut(side.other()).get_or_insert(at);
                    }
                    _ => {}
                }
            }
            let is_open = |from| wire.routes.of(from).is_open();
            for side in Side::BOTH {
                let hears = is_open(side.other())
                    && lives(side.other())
                    && (side == Side::Accepting || is_open(side));
                let unheard = hearing.unheard.of_mut(side);
                match hears {
                    true => *unheard = None,
                    false => drop(unheard.get_or_insert(now)),
                }
            }
            hearing.changes += 1;
        });
        wire.hearing.wake();
    }

    /// Whether this side has gone without a word.
    pub(super) fn is_dead(&self, side: Side) -> bool {
        matches!(self.ends.of(side).get(), Some(End::Cut))
    }

    async fn end(&self, side: Side) -> &End {
        let end = self.ends.of(side);
        match &self.wire {
            None => end.wait().await,
            // Boxed, here and below: nobody else's futures shall be larger for it.
            Some(wire) => Box::pin(self.end_on(wire, side)).await,
        }
    }

    async fn end_on(&self, wire: &Wire, side: Side) -> &End {
        let end = self.ends.of(side);
        loop {
            if let Some(end) = end.get() {
                return end;
            }
            let (doom, changes) = wire.hearing.look(|hearing| {
                (hearing.doom(side, wire.idle_timeout).map(|(at, _)| at), hearing.changes)
            });
            if doom.is_some_and(|at| at <= Instant::now()) {
                self.settle();
                continue;
            }
            let doomed = async {
                match doom {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                end = end.wait() => return end,
                () = doomed => {}
                () = wire.hearing.until(|hearing| hearing.changes != changes) => {}
            }
        }
    }
}

/// One side's view of the link.
#[derive(Clone, Debug)]
pub(super) struct View {
    link: Arc<Link>,
    side: Side,
}

impl View {
    pub(super) fn new(link: &Arc<Link>, side: Side) -> Self {
        Self { link: Arc::clone(link), side }
    }

    pub(super) fn other(&self) -> Self {
        Self { link: Arc::clone(&self.link), side: self.side.other() }
    }

    pub(super) async fn lost(&self) -> ConnectionLost {
        match self.link.end(self.side).await {
            End::Closed { by, .. } if *by == self.side => ConnectionLost::ClosedLocally,
            End::Closed { code, reason, .. } => ConnectionLost::ClosedByPeer {
                code: close_code::from_wire(*code),
                reason: reason.clone(),
            },
            End::Cut => ConnectionLost::TimedOut,
            End::Reset => ConnectionLost::Reset,
        }
    }

    pub(super) fn close(&self, code: VarInt, reason: &str) {
        self.link.close(self.side, code, reason);
    }

    fn route_from(&self, side: Side) -> Option<&Route> {
        self.link.wire().map(|wire| wire.routes.of(side).as_ref())
    }

    /// This side sends something now, behind what it sent before; `None` where all is there at once.
    pub(super) fn depart_behind(&self, before: Option<Stamp>) -> Option<Stamp> {
        Some(self.route_from(self.side)?.depart_behind(before))
    }

    /// Waits until what the other side sent is here. Cancel-safe.
    pub(super) async fn arrival(&self, stamp: Option<Stamp>) {
        if let (Some(stamp), Some(route)) = (stamp, self.route_from(self.side.other())) {
            Box::pin(route.arrival(stamp)).await;
        }
    }

    pub(super) fn has_arrived(&self, stamp: Option<Stamp>) -> bool {
        let route = self.route_from(self.side.other());
        stamp.zip(route).is_none_or(|(stamp, route)| route.has_arrived(stamp))
    }
}

/// One side's hold on the link: the connection closes when the side's last handle and stream are
/// gone. Streams that wait to be accepted hold nothing.
#[derive(Debug)]
pub(super) struct Hold(pub(super) View);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.close(VarInt::from_u32(0), "");
    }
}
