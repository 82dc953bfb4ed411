//! What it means that QUIC made no connection, for whoever dialled and whoever accepted.

use quinn::{ConnectionError, TransportErrorCode};

use crate::connection::ConnectionLost;

/// QUIC's error codes for failures of TLS: this plus the number of the alert (RFC 9001 §4.8).
const CRYPTO_ERRORS: u64 = 0x100;
/// The certificate alerts of TLS, from `bad_certificate` to `certificate_unknown` (RFC 8446 §6.2).
const CERTIFICATE_ALERTS: std::ops::RangeInclusive<u64> = BAD_CERTIFICATE..=46;
pub(crate) const BAD_CERTIFICATE: u64 = 42;
/// A certificate that is not for this use.
pub(crate) const UNSUPPORTED_CERTIFICATE: u64 = 43;
/// Also of one that is not valid yet.
pub(crate) const CERTIFICATE_EXPIRED: u64 = 45;
pub(crate) const UNKNOWN_CA: u64 = 48;
/// A signature that does not hold: another authority of the same name.
pub(crate) const DECRYPT_ERROR: u64 = 51;
pub(crate) const CERTIFICATE_REQUIRED: u64 = 116;
const NO_APPLICATION_PROTOCOL: u64 = 120;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NotMade {
    /// No answer.
    TimedOut,
    /// The accepting side wants no further one.
    Refused,
    /// The accepting side does not speak our protocol, or the dialling side none of its.
    WrongProtocol,
    /// A certificate was not believed.
    Certificate {
        /// Of TLS.
        alert: u64,
        /// What the verifier says.
        reason: String,
        /// This side did not believe the peer's; else the peer did not believe ours.
        by_us: bool,
    },
    Lost(ConnectionLost),
}

impl From<ConnectionError> for NotMade {
    fn from(error: ConnectionError) -> Self {
        let (code, reason, by_us) = match &error {
            ConnectionError::TransportError(error) => (error.code, error.reason.clone(), true),
            ConnectionError::ConnectionClosed(close) => {
                (close.error_code, close.to_string(), false)
            }
            ConnectionError::TimedOut => return Self::TimedOut,
            _ => return Self::Lost(error.into()),
        };
        if code == TransportErrorCode::CONNECTION_REFUSED {
            return Self::Refused;
        }
        match u64::from(code).checked_sub(CRYPTO_ERRORS) {
            Some(NO_APPLICATION_PROTOCOL) => Self::WrongProtocol,
            Some(alert)
                if CERTIFICATE_ALERTS.contains(&alert)
                    || matches!(alert, UNKNOWN_CA | DECRYPT_ERROR | CERTIFICATE_REQUIRED) =>
            {
                Self::Certificate { alert, reason, by_us }
            }
            _ => Self::Lost(error.into()),
        }
    }
}
