//! The wire protocol of railgun: the messages generated from `/proto/railgun/v1`, the frames that
//! carry them, and their translation into the types of `railgun-types`.
//!
//! Nothing here does I/O: [`FrameDecoder`] is fed with bytes, [`Frame`] is turned into bytes.
//! `docs/protocol.md` describes the protocol for people who write a client in another language.
#![warn(missing_docs)]

pub mod convert;
mod decoder;
mod frame;
mod kind;
mod wire_error;

/// The messages of protocol version 1, generated. Their meaning is told in the `.proto` files.
#[allow(missing_docs, reason = "generated from the .proto files, where the comments are")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/railgun.v1.rs"));
}

pub use decoder::FrameDecoder;
pub use frame::{Frame, FrameError, FrameHeader, HEADER_BYTES};
pub use kind::{FrameKind, Message};
pub use wire_error::{WireCode, WireError};

/// The protocol's name in the TLS handshake (ALPN).
pub const ALPN: &[u8] = b"railgun/1";
/// The version of the messages this build speaks, told in `Hello` and `Welcome`.
pub const VERSION: u32 = 1;
