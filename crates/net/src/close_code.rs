//! The number that says why a stream or a connection was ended early. 0 means "no error"; it is
//! also what QUIC sends for a stream whose reader was dropped.

use quinn::VarInt;
use railgun_proto::WireCode;
use railgun_types::ErrorCode;

/// The number on the wire for `code`.
pub(crate) fn to_wire(code: Option<ErrorCode>) -> VarInt {
    code.map_or(VarInt::from_u32(0), |code| VarInt::from_u32(code as u32))
}

/// What a peer's number means.
pub(crate) fn from_wire(number: VarInt) -> Option<WireCode> {
    match number.into_inner() {
        0 => None,
        // QUIC allows more bits than our codes have: such a number is unknown in any case.
        number => Some(WireCode::from_u32(u32::try_from(number).unwrap_or(u32::MAX))),
    }
}

/// For messages: ` (Name)`, or nothing.
pub(crate) fn suffix(code: &Option<WireCode>) -> String {
    code.map_or_else(String::new, |code| format!(" ({code})"))
}
