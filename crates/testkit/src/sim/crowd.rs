//! Clients that take nearly all memory that a node has for readers, and give it back for moments: what
//! others read comes piece by piece.

use std::time::Duration;

use railgun_net::ClientMemory;
use railgun_net::memory::MemoryNetwork;
use tokio::task::JoinSet;

use super::random::Random;
use super::shared::Shared;
use super::trace::Trace;

/// Of as many connections each has a part of its own, 16 KiB, which the crowd leaves to it.
const CONNECTIONS: usize = 1_000;
/// Each takes half of what is shared; one connection cannot have all.
const MEMBERS: usize = 2;

/// See the module. It leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Crowd {
    _members: JoinSet<()>,
}

impl Crowd {
    /// Comes, and returns the memory that it is in. Counts whom it keeps waiting.
    pub(super) async fn gather(mut random: Random, trace: &Trace) -> (Self, ClientMemory) {
        let memory = ClientMemory::new(0, CONNECTIONS);
        let bytes = memory.figures().records.bytes_max / MEMBERS;
        let network = MemoryNetwork::new();
        let endpoint = network.listen_within(([127, 0, 0, 1], 0).into(), memory.clone());
        let endpoint = endpoint.expect("nobody else is in this network");
        let mut members = JoinSet::new();
        let members_waiting = Shared::new(0);
        for _ in 0..MEMBERS {
            network.connect(endpoint.local_addr()).await.expect("it listens");
            let connection = endpoint.accept().await.expect("somebody connects");
            let member = connection.record_memory().expect("nobody here is trusted");
            let (mut random, trace) = (random.fork(), trace.clone());
            let (memory, members_waiting) = (memory.clone(), members_waiting.clone());
            members.spawn(async move {
                let mut pause = async |ms: u64| {
                    let us = random.within(1..ms * 1000);
                    tokio::time::sleep(Duration::from_micros(us)).await;
                };
                loop {
                    // In the queue with everybody else: who waits has it first.
                    members_waiting.with(|members| *members += 1);
                    let held = member.take(bytes).await;
                    members_waiting.with(|members| *members -= 1);
                    pause(1_000).await;
                    if memory.figures().records.waiting > members_waiting.with(|members| *members) {
                        trace.count(|counts| counts.waited += 1);
                    }
                    drop(held);
                    pause(50).await;
                }
            });
        }
        (Self { _members: members }, memory)
    }
}
