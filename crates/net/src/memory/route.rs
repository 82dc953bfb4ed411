//! The way from one host to another, in a network that can be disturbed.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::signal::Signal;

/// When something was sent, and how long it is under way if nothing stops it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    sent: Instant,
    delay: Duration,
}

/// One direction between two hosts. What was sent before it was blocked and has not arrived, and what is
/// sent while it is, goes on its way when it is open again.
#[derive(Debug)]
pub(super) struct Route(Signal<State>);

#[derive(Debug)]
struct State {
    blocked_at: Option<Instant>,
    opened_at: Option<Instant>,
    /// Counts changes of the two.
    changes: u64,
    delay: RangeInclusive<Duration>,
    random: u64,
}

/// When something is there.
enum Arrival {
    Now,
    At(Instant),
    Never,
}

impl State {
    fn arrival(&self, stamp: Stamp, now: Instant) -> Arrival {
        let gone = self.opened_at.map_or(stamp.sent, |opened_at| opened_at.max(stamp.sent));
        let due = gone + stamp.delay;
        match self.blocked_at {
            // Whoever looks late finds what came before.
            Some(blocked_at) if due > blocked_at => Arrival::Never,
            None if due > now => Arrival::At(due),
            _ => Arrival::Now,
        }
    }
}

impl Route {
    pub(super) fn new(
        seed: u64,
        from: IpAddr,
        to: IpAddr,
        delay: RangeInclusive<Duration>,
    ) -> Self {
        let random = [from, to].into_iter().fold(seed, |seed, host| {
            let bits = match host {
                IpAddr::V4(host) => host.to_bits().into(),
                IpAddr::V6(host) => host.to_bits(),
            };
            mix(mix(seed ^ bits as u64) ^ (bits >> 64) as u64)
        });
        let state = State { blocked_at: None, opened_at: None, changes: 0, delay, random };
        Self(Signal::new(state))
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.look(|state| state.blocked_at.is_none())
    }

    pub(super) fn block(&self) {
        self.set(|state| {
            state.blocked_at.get_or_insert_with(Instant::now);
        });
    }

    pub(super) fn unblock(&self) {
        self.set(|state| {
            if state.blocked_at.take().is_some() {
                state.opened_at = Some(Instant::now());
            }
        });
    }

    fn set(&self, set: impl FnOnce(&mut State)) {
        self.0.change(|state| {
            set(state);
            state.changes += 1;
        });
        self.0.wake();
    }

    /// Of what is sent from now on.
    pub(super) fn set_delay(&self, delay: RangeInclusive<Duration>) {
        self.0.change(|state| state.delay = delay);
    }

    /// Something is sent now.
    pub(super) fn depart(&self) -> Stamp {
        self.0.change(|state| {
            state.random = state.random.wrapping_add(GOLDEN);
            let (least, most) = (*state.delay.start(), *state.delay.end());
            let span = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(u64::MAX);
            let more = mix(state.random) % span.saturating_add(1);
            Stamp { sent: Instant::now(), delay: least + Duration::from_nanos(more) }
        })
    }

    /// Something is sent now that does not overtake what was sent before.
    pub(super) fn depart_behind(&self, before: Option<Stamp>) -> Stamp {
        let stamp = self.depart();
        match before {
            Some(before) => {
                let left = (before.sent + before.delay).saturating_duration_since(stamp.sent);
                Stamp { delay: stamp.delay.max(left), ..stamp }
            }
            None => stamp,
        }
    }

    pub(super) fn has_arrived(&self, stamp: Stamp) -> bool {
        self.0.look(|state| matches!(state.arrival(stamp, Instant::now()), Arrival::Now))
    }

    /// Waits until what was sent is there. Cancel-safe.
    pub(super) async fn arrival(&self, stamp: Stamp) {
        loop {
            let (arrival, changes) =
                self.0.look(|state| (state.arrival(stamp, Instant::now()), state.changes));
            let changed = self.0.until(|state| state.changes != changes);
            match arrival {
                Arrival::Now => return,
                Arrival::At(due) => tokio::select! {
                    biased;
                    () = sleep_until(due) => return,
                    () = changed => {}
                },
                Arrival::Never => changed.await,
            }
        }
    }
}

impl Stamp {
    /// When it is there, if nothing stops it.
    pub(super) fn due(&self) -> Instant {
        self.sent + self.delay
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Numbers that follow one another become numbers that have nothing in common (the finalizer of
/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
