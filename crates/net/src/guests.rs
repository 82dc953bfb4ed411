//! The guests: connections that clients have made, from their first packet on. Counts them, and bounds
//! what they may send, all together, before it is read.
//!
//! A guest is a stranger until it is [admitted](Guest::admit): until it has said who it is.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::quic::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, STREAM_WINDOW_BYTES_MIN};

/// What each guest may send before it is read, besides its part of what they share.
const WINDOW_BYTES_MIN: usize = 64 << 10;
/// That part at the most.
const SHARED_BYTES_MAX: usize = CONNECTION_WINDOW_BYTES as usize - WINDOW_BYTES_MIN;
/// The part of what is left that the first guest is granted. That of each further one is smaller:
/// with a fixed part, whoever comes late would have nothing but the least.
const WINDOW_PART: usize = 32;
/// What a guest is granted at least while more than half of all is left: a stream that is not read then
/// leaves room for the others of its connection. Those who come later share the other half, however many
/// they are.
const GRANTED_BYTES_MIN: usize = STREAM_WINDOW_BYTES_MIN as usize;
/// The part of what a guest is granted that one of its streams may fill, within the bounds of that: four
/// have to be left unread to stop the others.
const STREAM_PART: usize = 4;
/// The part of the strangers' places that one host may take once they are scarce.
const HOST_PART: usize = 16;

/// All guests of an endpoint.
#[derive(Debug)]
pub(crate) struct Guests {
    connections: AtomicUsize,
    strangers: AtomicUsize,
    strangers_max: usize,
    refused: AtomicUsize,
    /// Bytes of windows that guests share.
    windows_bytes: usize,
    /// Bytes of windows that they share and none was granted. Never below 0.
    windows_left: AtomicUsize,
}

impl Guests {
    /// Nobody is there. `windows_bytes`: what all may send before it is read, but for 64 KiB of each.
    pub(crate) fn new(strangers_max: usize, windows_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            connections: AtomicUsize::new(0),
            strangers: AtomicUsize::new(0),
            strangers_max,
            refused: AtomicUsize::new(0),
            windows_bytes,
            windows_left: AtomicUsize::new(windows_bytes),
        })
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn strangers(&self) -> usize {
        self.strangers.load(Ordering::Relaxed)
    }

    /// Whether there is no place for a further stranger.
    pub(crate) fn is_full(&self) -> bool {
        self.strangers() >= self.strangers_max
    }

    /// Whether half of the strangers' places are taken.
    pub(crate) fn is_scarce(&self) -> bool {
        self.strangers() >= self.strangers_max.div_ceil(2)
    }

    pub(crate) fn refused_total(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// What one stream of a guest who comes now may send before it is read.
    pub(crate) fn stream_window(&self) -> u32 {
        let known = self.connections().saturating_sub(self.strangers());
        let part = self.granted(self.windows_left.load(Ordering::Relaxed), known) / STREAM_PART;
        let part = u32::try_from(part).unwrap_or(u32::MAX);
        part.clamp(STREAM_WINDOW_BYTES_MIN, STREAM_WINDOW_BYTES)
    }

    /// Takes what a guest who has so much of the windows would be granted if it came now, if that is
    /// at least twice as much: how much more it has. The sum is never above what there was.
    fn add(&self, has: usize) -> usize {
        let others = self.connections().saturating_sub(self.strangers() + 1);
        let more = |left: usize| {
            let granted = self.granted(left + has, others);
            if granted >= 2 * has { granted - has } else { 0 }
        };
        let take = |left| Some(left - more(left));
        let (Ok(left) | Err(left)) =
            self.windows_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        more(left)
    }

    /// What a guest beside so many others is granted of what is free.
    fn granted(&self, free: usize, others: usize) -> usize {
        let least = if free > self.windows_bytes / 2 { GRANTED_BYTES_MIN } else { 0 };
        (free / (WINDOW_PART + others)).max(least).min(SHARED_BYTES_MAX).min(free)
    }
}

/// The strangers of each host. Owned by who lets guests in.
#[derive(Debug)]
pub(crate) struct Hosts {
    guests: Arc<Guests>,
    strangers: BTreeMap<IpAddr, Arc<AtomicUsize>>,
}

impl Hosts {
    pub(crate) fn new(guests: Arc<Guests>) -> Self {
        Self { guests, strangers: BTreeMap::new() }
    }

    /// Whether this host has as many strangers as one may have where places are scarce.
    pub(crate) fn is_greedy(&self, addr: IpAddr) -> bool {
        let strangers = self.strangers.get(&host(addr));
        let count = strangers.map_or(0, |strangers| strangers.load(Ordering::Relaxed));
        count >= self.guests.strangers_max.div_ceil(HOST_PART)
    }

    /// A guest who came from there, and is a stranger.
    pub(crate) fn welcome(&mut self, addr: IpAddr) -> Guest {
        if self.strangers.len() >= self.guests.strangers_max.saturating_mul(2) {
            self.strangers.retain(|_, strangers| strangers.load(Ordering::Relaxed) > 0);
        }
        let of_host = Arc::clone(self.strangers.entry(host(addr)).or_default());
        self.guests.connections.fetch_add(1, Ordering::Relaxed);
        self.guests.strangers.fetch_add(1, Ordering::Relaxed);
        of_host.fetch_add(1, Ordering::Relaxed);
        Guest {
            guests: Arc::clone(&self.guests),
            of_host,
            is_stranger: AtomicBool::new(true),
            granted: AtomicUsize::new(0),
        }
    }
}

/// Who comes from one of these is the same to us: an address of IPv4, a network of 64 bits of IPv6,
/// which is what one machine is given.
fn host(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(addr) => IpAddr::V4(addr),
        IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() & !u128::from(u64::MAX))),
    }
}

/// One of the guests, until it is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Arc<Guests>,
    /// The strangers of its host.
    of_host: Arc<AtomicUsize>,
    is_stranger: AtomicBool,
    /// What it was granted of the windows, beyond what each has.
    granted: AtomicUsize,
}

impl Guest {
    /// It has said who it is. The first time: what it may send before it is read. It keeps that for as
    /// long as it is there, for QUIC cannot take back what it granted.
    pub(crate) fn admit(&self) -> Option<u32> {
        self.become_known().then(|| WINDOW_BYTES_MIN as u32 + self.grant())
    }

    /// What it may send from now on, if that has grown by what others gave back.
    pub(crate) fn grow(&self) -> Option<u32> {
        let is_known = !self.is_stranger.load(Ordering::Relaxed);
        let before = self.granted.load(Ordering::Relaxed);
        let granted = if is_known { self.grant() } else { 0 };
        (granted as usize > before).then(|| WINDOW_BYTES_MIN as u32 + granted)
    }

    /// All that it is granted, with what it finds now.
    fn grant(&self) -> u32 {
        let more = self.guests.add(self.granted.load(Ordering::Relaxed));
        let before = self.granted.fetch_add(more, Ordering::Relaxed);
        u32::try_from(before + more).unwrap_or(u32::MAX - WINDOW_BYTES_MIN as u32)
    }

    /// Whether it was a stranger until now.
    fn become_known(&self) -> bool {
        let was = self.is_stranger.swap(false, Ordering::Relaxed);
        if was {
            self.guests.strangers.fetch_sub(1, Ordering::Relaxed);
            self.of_host.fetch_sub(1, Ordering::Relaxed);
        }
        was
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.become_known();
        self.guests.windows_left.fetch_add(*self.granted.get_mut(), Ordering::Relaxed);
        self.guests.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MIB: usize = 1 << 20;

    fn left(guests: &Guests) -> usize {
        guests.windows_left.load(Ordering::Relaxed)
    }

    #[test]
    fn windows_are_never_more_than_there_is_for_them() {
        let guests = Guests::new(1 << 20, 512 * MIB);
        let mut hosts = Hosts::new(Arc::clone(&guests));
        let mut come = || {
            let stream = guests.stream_window() as usize;
            let guest = hosts.welcome(Ipv4Addr::LOCALHOST.into());
            let window = guest.admit().expect("the first time") as usize;
            assert_eq!(guest.admit(), None);
            assert!(stream == MIB || stream <= window / 4, "{stream} of {window}");
            assert!(
                stream <= 4 * MIB && (stream > MIB || window < 5 * MIB),
                "{stream} of {window}"
            );
            (guest, window)
        };
        let mut crowd: Vec<_> = (0..2_000).map(|_| come()).collect();
        assert_eq!(crowd[0].1, 16 * MIB + (64 << 10));
        assert!(crowd[50].1 > 2 * MIB && crowd[50].1 < crowd[49].1);
        // Nobody takes the last of it: whoever comes has a part.
        for (guest, least_kib) in [(199, 256), (499, 48), (1_999, 2)] {
            assert!(crowd[guest].1 > (64 + least_kib) << 10, "{guest}: {}", crowd[guest].1);
        }
        let sum: usize = crowd.iter().map(|(_, window)| window).sum();
        assert!(sum <= 512 * MIB + crowd.len() * (64 << 10), "{sum}");
        // Who stays keeps what he has, and there is never more, however others come and go.
        let (first, window) = crowd.swap_remove(0);
        for _ in 0..100 {
            crowd.clear();
            assert_eq!(left(&guests), 512 * MIB + (64 << 10) - window);
            crowd.extend((0..500).map(|_| come()));
        }
        drop((crowd, first));
        assert_eq!((left(&guests), guests.connections(), guests.strangers()), (512 * MIB, 0, 0));
    }

    #[test]
    fn who_came_late_has_more_when_others_have_left() {
        let guests = Guests::new(1 << 20, 64 * MIB);
        let mut hosts = Hosts::new(Arc::clone(&guests));
        let mut come = || hosts.welcome(Ipv4Addr::LOCALHOST.into());
        let crowd: Vec<_> = (0..100).map(|_| come()).collect();
        let last = come();
        assert_eq!(last.grow(), None, "it is a stranger");
        assert_eq!(crowd[0].admit(), Some((2 << 20) + (64 << 10)));
        let least = crowd[1..].iter().map_while(|guest| guest.admit().filter(|it| *it > 1 << 20));
        assert_eq!(least.last(), Some((1 << 20) + (64 << 10)), "while half is left");
        for guest in &crowd {
            guest.admit();
        }
        let little = last.admit().expect("the first time");
        assert!(little > 64 << 10 && little < 256 << 10, "{little}");
        assert_eq!(last.grow(), None);
        assert_eq!(crowd[0].grow(), None);
        drop(crowd);
        assert_eq!((last.grow(), last.grow()), (Some((2 << 20) + (64 << 10)), None));
        assert_eq!(left(&guests), 62 * MIB);
        drop(last);
        assert_eq!(left(&guests), 64 * MIB);
    }

    #[test]
    fn strangers_are_counted_by_their_hosts() {
        let guests = Guests::new(32, 0);
        let mut hosts = Hosts::new(Arc::clone(&guests));
        let [host, same, other, v4, mapped] = [
            "2001:db8::1",
            "2001:db8::2:0:0:9",
            "2001:db8:0:1::1",
            "192.0.2.1",
            "::ffff:192.0.2.1",
        ]
        .map(|addr| addr.parse::<IpAddr>().unwrap());
        let first = hosts.welcome(host);
        assert!(!hosts.is_greedy(host));
        let second = hosts.welcome(same);
        assert!(hosts.is_greedy(host) && hosts.is_greedy(same) && !hosts.is_greedy(other));
        first.admit();
        assert!(!hosts.is_greedy(host));
        drop((first, second));
        let pair = [hosts.welcome(v4), hosts.welcome(mapped)];
        assert!(hosts.is_greedy(v4));
        // Hosts without strangers are forgotten.
        for i in 0..1_000 {
            hosts.welcome(Ipv4Addr::from_bits(i).into());
        }
        assert!(hosts.strangers.len() <= 64);
        assert!(hosts.is_greedy(v4) && !guests.is_scarce());
        drop(pair);
        let all: Vec<_> = (0..32).map(|_| hosts.welcome(other)).collect();
        assert!(guests.is_scarce() && guests.is_full());
        drop(all);
        assert!(!guests.is_scarce());
    }
}
