//! Connections inside one process, for tests and simulations. The same types and the same meaning
//! as over QUIC: bounded buffers, reset, stop, close; but no packets, no real time and no
//! randomness, so that a simulation is repeatable.

mod connection;
mod network;
mod pipe;

pub(crate) use connection::MemoryConnection;
pub(crate) use network::MemoryListener;
pub use network::{AddrInUse, MemoryNetwork};
pub(crate) use pipe::{PipeReader, PipeWriter};
