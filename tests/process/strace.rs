//! `strace` on a node: watches its system calls, or makes them fail.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::site::Site;

/// Time to attach.
const LIMIT: Duration = Duration::from_secs(30);

/// Ended when dropped, or with the process.
pub(crate) struct Strace {
    tracer: Child,
    file: PathBuf,
}

impl Strace {
    /// Does with the process from now on what the expressions say. `None` where that is not possible:
    /// fails where `CI` is set, as the test of `what` would silently be none.
    pub(crate) fn attach(
        site: &Site,
        process: u32,
        expressions: &[&str],
        what: &str,
    ) -> Option<Self> {
        let file = site.home().join("trace");
        let mut command = Command::new("strace");
        // Every thread, its clock, what calls took, paths of descriptors, and whole small writes.
        command.args(["-f", "-ttt", "-T", "-y", "-s", "65536", "-o"]).arg(&file);
        command.args(expressions.iter().flat_map(|expression| ["-e", expression]));
        command.args(["-p", &process.to_string()]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut tracer = match command.spawn() {
            Ok(tracer) => tracer,
            Err(error) => {
                crate::not_tested(what, &format!("strace: {error}"));
                return None;
            }
        };
        // Says that it has attached, or why not; goes on reading, as a full pipe would stop it.
        let (say, said) = mpsc::sync_channel(64);
        let lines = BufReader::new(tracer.stderr.take().expect("piped")).lines();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| drop(say.try_send(line)));
        });
        let first = said.recv_timeout(LIMIT);
        let trace = Self { tracer, file };
        match first {
            Ok(line) if line.contains("attached") => Some(trace),
            refused => {
                crate::not_tested(what, &format!("strace does not attach: {refused:?}"));
                None
            }
        }
    }

    /// Everything that was called, once the tracer has gone.
    pub(crate) fn lines(mut self) -> Vec<String> {
        self.tracer.wait().expect("a child of this process");
        let file = File::open(&self.file).expect("a trace");
        BufReader::new(file).lines().map_while(Result::ok).collect()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // Fails where it has ended by itself.
        self.tracer.kill().ok();
        self.tracer.wait().ok();
    }
}
