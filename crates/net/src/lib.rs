//! Connections that carry frames: QUIC between processes, and an in-process transport for tests and
//! simulations behind the same types.
//!
//! Clients dial an [`Endpoint`] with [`connect`]; nodes speak with one another through
//! [`peer::PeerEndpoint`], on a port of its own.
//!
//! A [`Connection`] is dialled by one side and accepted by the other; the dialling side opens
//! streams, the accepting side accepts them. Each stream is a [`FrameWriter`] and a [`FrameReader`].
//! A stream that is not read stops its sender: flow control is the back-pressure, and nothing here
//! queues without bound.
//!
//! This crate knows frames and their limits, and no meaning of any of them.
#![warn(missing_docs)]

mod client_memory;
mod close_code;
mod connect;
mod connection;
mod endpoint;
mod guests;
pub mod memory;
mod not_made;
pub mod peer;
mod quic;
mod reader;
mod runtime;
#[cfg(test)]
mod tests;
pub mod tls;
mod writer;

pub use client_memory::{
    CROWD_CHECK, ClientMemory, Held, Member, MemoryFigures, PoolFigures, crowded_time,
};
pub use connect::{CONNECT_TIMEOUT, ConnectError, ConnectSpec, Roots, connect};
pub use connection::{Connection, ConnectionLost, ConnectionStats};
pub use endpoint::{BindError, CONNECTIONS_DEFAULT, ClientFigures, Endpoint, ListenSpec};
pub use quic::{IDLE_TIMEOUT, KEEP_ALIVE, QUIC_STREAMS_MAX};
pub use reader::{FrameReader, ReadError};
pub use writer::{FrameWriter, WriteError};
