//! The one place where settings meet the real environment and machine.

use std::{env, fs, path::Path, thread};

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
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let machine = Machine { cores, disk_bytes, memory_bytes: memory_bytes() };
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

/// The machine's memory, or what the control group of this process may take of it.
fn memory_bytes() -> Option<u64> {
    let machine = installed_bytes();
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|limit| limit.trim().parse().ok());
    machine.into_iter().chain(limit).min()
}

#[cfg(target_os = "linux")]
fn installed_bytes() -> Option<u64> {
    let info = rustix::system::sysinfo();
    u64::checked_mul(info.totalram as _, info.mem_unit.into())
}

#[cfg(not(target_os = "linux"))]
fn installed_bytes() -> Option<u64> {
    None
}
