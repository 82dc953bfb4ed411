//! Connections inside one process, for tests and simulations. The same types and the same meaning
//! as over QUIC: bounded buffers, reset, stop, close; but no packets, no real time and no
//! randomness, so that a simulation is repeatable.
//!
//! On a plain network all is there at once. On a [disturbed](MemoryNetwork::disturbed) one, what goes
//! from one host to another takes its time, and can be stopped.

mod connection;
mod disturbance;
mod link;
mod network;
mod pipe;
mod route;
mod signal;

pub(crate) use connection::MemoryConnection;
pub use disturbance::{Crash, Disturbance};
pub use network::{AddrInUse, MemoryNetwork};
pub(crate) use network::{MemoryListener, MemoryPeer};
pub(crate) use pipe::{PipeReader, PipeWriter};
