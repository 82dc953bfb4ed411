//! The suites that run whole nodes: one binary each, in the folders beside this one.
