//! A network namespace: interfaces, addresses and routes of its own, as a machine has them.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{panic, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip` keeps the names of namespaces.
const NAMES: &str = "/var/run/netns";

/// See the module. It has no name: it goes, with all that is in it, once neither this nor a process
/// holds it, in whatever way those end.
#[derive(Debug)]
pub(crate) struct Namespace {
    handle: File,
}

impl Namespace {
    /// An empty one. Fails where this process may not make one, or there is no `ip`.
    pub(crate) fn new() -> Result<Self, String> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        // While it is made it has a name, which no other process gives.
        let name = format!("railgun-chaos-{}-{number}", std::process::id());
        ip(&format!("netns add {name}"))?;
        let handle = File::open(Path::new(NAMES).join(&name));
        ip(&format!("netns delete {name}"))?;
        Ok(Self { handle: handle.map_err(|error| format!("{name} cannot be opened: {error}"))? })
    }

    /// Does it on a thread that is in the namespace, as are the threads and processes that it starts.
    pub(crate) fn within<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let entered = || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(self.handle.as_fd(), network).expect("it was made here");
            job()
        };
        let done = thread::scope(|scope| scope.spawn(entered).join());
        done.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    }

    /// What `ip` calls it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd())
    }
}

/// The command `ip` with these arguments, in the namespace of this thread.
pub(crate) fn ip(arguments: &str) -> Result<(), String> {
    match Command::new("ip").args(arguments.split(' ')).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("ip {arguments}: {}", said.trim()))
        }
        Err(error) => Err(format!("cannot run ip: {error}")),
    }
}
