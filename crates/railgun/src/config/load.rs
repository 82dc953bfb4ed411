//! The one place where settings meet the real environment and machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
};

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

/// The machine's memory, or what the control groups of this process may take of it.
fn memory_bytes() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    installed_bytes().into_iter().chain(group_memory_bytes(read)).min()
}

/// Where Linux shows its control groups.
const GROUPS: &str = "/sys/fs/cgroup";

/// The least memory that the control group of this process, or one around it, may take. A container
/// sees its own group as the root; a unit of systemd is a group within it.
fn group_memory_bytes(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own: PathBuf = Path::new(GROUPS).join(own);
    let around = own.ancestors().take_while(|group| group.starts_with(GROUPS));
    // "max", where a group has no limit, is no number.
    let limit = |group: &Path| read(&group.join("memory.max"))?.trim().parse().ok();
    around.filter_map(limit).min()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_the_groups_around_the_process_counts() {
        let limit = |own: &str, limits: &[(&str, &str)]| {
            group_memory_bytes(|path| match path.to_str()? {
                "/proc/self/cgroup" => Some(own.to_owned()),
                path => {
                    let (_, limit) = limits.iter().find(|(group, _)| *group == path)?;
                    Some(format!("{limit}\n"))
                }
            })
        };
        let root = "/sys/fs/cgroup/memory.max";
        let slice = "/sys/fs/cgroup/system.slice/memory.max";
        let unit = "/sys/fs/cgroup/system.slice/railgun.service/memory.max";
        let own = "1:name=systemd:/old\n0::/system.slice/railgun.service\n";
        assert_eq!(limit("0::/\n", &[(root, "4096")]), Some(4096), "a container");
        assert_eq!(limit(own, &[(slice, "max"), (unit, "512")]), Some(512));
        assert_eq!(limit(own, &[(slice, "256"), (unit, "512")]), Some(256));
        assert_eq!(limit(own, &[(slice, "max"), (unit, "max")]), None);
        assert_eq!(limit("", &[(root, "4096")]), None, "no groups of version 2");
    }
}
