//! The 16-byte identifiers.

use bytes::Bytes;
use railgun_types::{ClusterUid, NodeUid, ProducerId, RequestId, StreamUid};

use super::{InvalidMessage, invalid};

/// An identifier of 16 bytes, as it is written into messages.
pub trait Uid: Sized {
    /// The identifier in the bytes field `field`, which is named in the error.
    ///
    /// # Errors
    /// [`InvalidMessage::Field`] unless there are exactly 16 bytes.
    fn from_wire(field: &'static str, bytes: &[u8]) -> Result<Self, InvalidMessage>;

    /// The same of a field that may be empty: then there is none.
    ///
    /// # Errors
    /// As [`Self::from_wire`].
    fn from_wire_if_any(field: &'static str, bytes: &[u8]) -> Result<Option<Self>, InvalidMessage> {
        match bytes {
            [] => Ok(None),
            _ => Self::from_wire(field, bytes).map(Some),
        }
    }

    /// The identifier as the value of a bytes field.
    fn to_wire(&self) -> Bytes;
}

macro_rules! uid {
    ($($name:ident),*) => {
        $(impl Uid for $name {
            fn from_wire(field: &'static str, bytes: &[u8]) -> Result<Self, InvalidMessage> {
                let uid = <[u8; 16]>::try_from(bytes)
                    .map_err(|_| invalid(field, format!("has {} bytes, not 16", bytes.len())))?;
                Ok(Self(uid))
            }

            fn to_wire(&self) -> Bytes {
                Bytes::copy_from_slice(&self.0)
            }
        })*
    };
}

uid!(StreamUid, ClusterUid, NodeUid, ProducerId, RequestId);
