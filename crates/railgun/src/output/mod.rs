//! What commands print on standard output.

pub(crate) mod format;
pub(crate) mod records;
pub(crate) mod table;
