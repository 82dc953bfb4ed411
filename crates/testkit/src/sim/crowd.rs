//! Clients that take nearly all memory that a node has for readers, and give it back for moments: what
//! others read comes piece by piece.

use std::time::Duration;

use railgun_net::ClientMemory;
use railgun_net::memory::MemoryNetwork;
use tokio::task::JoinSet;

use super::random::Random;

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
    /// Comes, and returns the memory that it is in.
    pub(super) async fn gather(mut random: Random) -> (Self, ClientMemory) {
        let memory = ClientMemory::new(0, CONNECTIONS);
        let bytes = memory.figures().records.bytes_max / MEMBERS;
        let network = MemoryNetwork::new();
        let endpoint = network.listen_within(([127, 0, 0, 1], 0).into(), memory.clone());
        let endpoint = endpoint.expect("nobody else is in this network");
        let mut members = JoinSet::new();
        for _ in 0..MEMBERS {
            network.connect(endpoint.local_addr()).await.expect("it listens");
            let connection = endpoint.accept().await.expect("somebody connects");
            let member = connection.record_memory().expect("nobody here is trusted");
            let mut random = random.fork();
            members.spawn(async move {
                let mut pause = async |ms: u64| {
                    let us = random.within(1..ms * 1000);
                    tokio::time::sleep(Duration::from_micros(us)).await;
                };
                loop {
                    // In the queue with everybody else: who waits has it first.
                    let held = member.take(bytes).await;
                    pause(1_000).await;
                    drop(held);
                    pause(50).await;
                }
            });
        }
        (Self { _members: members }, memory)
    }
}
