//! A node's configuration: typed settings from flags, environment, file and defaults, and the
//! `config` commands that show and check them.
//!
//! `args` and `environment` and `file` each read one source into a `Layer`; `settings` merges the
//! layers, remembers where each value came from, and refuses what is not safe to run; `cluster` does so
//! for what makes a node one of several.

mod args;
mod byte_size;
mod cluster;
mod command;
mod environment;
mod file;
mod layer;
mod load;
mod settings;
mod show;
mod token;

pub(crate) use args::SettingsArgs;
pub(crate) use byte_size::ByteSize;
pub(crate) use cluster::ClusterConfig;
pub(crate) use command::{ConfigArgs, run};
pub(crate) use layer::LogFormat;
pub(crate) use load::{load, misspelt_variables};
pub(crate) use settings::{Settings, SettingsError};
