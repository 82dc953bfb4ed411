//! A bucket that misbehaves on demand, for tests and the simulation.

mod faulty;

pub use faulty::{Conditions, Fault, FaultyStore, Operation, Request};
