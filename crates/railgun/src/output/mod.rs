//! What commands print on standard output.

pub(crate) mod format;
pub(crate) mod progress;
pub(crate) mod records;
pub(crate) mod table;
