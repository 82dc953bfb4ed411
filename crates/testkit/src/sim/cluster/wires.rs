//! What is blocked between hosts, and by how many faults at a time.

use std::collections::BTreeMap;
use std::net::IpAddr;

use railgun_net::memory::Disturbance;

/// From one host to another.
pub(super) type Way = (IpAddr, IpAddr);

/// See the module.
#[derive(Debug)]
pub(super) struct Wires {
    disturbance: Disturbance,
    blocked: BTreeMap<Way, u32>,
}

impl Wires {
    pub(super) fn new(disturbance: Disturbance) -> Self {
        Self { disturbance, blocked: BTreeMap::new() }
    }

    pub(super) fn block(&mut self, ways: &[Way]) {
        for &(from, to) in ways {
            let times = self.blocked.entry((from, to)).or_default();
            *times += 1;
            if *times == 1 {
                self.disturbance.block(from, to);
            }
        }
    }

    /// Undoes one [`block`](Self::block).
    pub(super) fn unblock(&mut self, ways: &[Way]) {
        for &(from, to) in ways {
            let Some(times) = self.blocked.get_mut(&(from, to)) else { continue };
            *times -= 1;
            if *times == 0 {
                self.blocked.remove(&(from, to));
                self.disturbance.unblock(from, to);
            }
        }
    }
}

/// Both ways.
pub(super) fn both(ways: &[Way]) -> Vec<Way> {
    ways.iter().flat_map(|&(from, to)| [(from, to), (to, from)]).collect()
}
