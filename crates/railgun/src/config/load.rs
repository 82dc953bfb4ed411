//! The one place where settings meet the real environment and machine.

use std::{env, path::Path, thread};

use super::{
    args::SettingsArgs,
    environment,
    settings::{Machine, Settings, SettingsError},
};

/// The settings of this process on this machine.
///
/// # Errors
///
/// As [`Settings::resolve`].
pub(crate) fn load(args: &SettingsArgs) -> Result<Settings, SettingsError> {
    let machine =
        Machine { cores: thread::available_parallelism().map_or(1, usize::from), disk_bytes };
    Settings::resolve(args, |name| env::var_os(name), machine)
}

/// What to tell about variables of this process that set nothing but look as if they should.
pub(crate) fn misspelt_variables() -> Vec<String> {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let warning = |(written, meant)| {
        format!("the environment variable {written} sets nothing, did you mean {meant}?")
    };
    environment::near_misses(names).into_iter().map(warning).collect()
}

/// The size of the file system under the nearest existing ancestor of `path`.
fn disk_bytes(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let stats = path.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok())?;
    stats.f_blocks.checked_mul(stats.f_frsize)
}
