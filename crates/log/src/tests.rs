//! The log as a whole, on the simulated disk.

mod basics;
mod cuts;
mod exhaustive;
mod failed_sync;
mod faults;
mod model;
mod naive;
mod real_disk;
mod rig;
mod space;
