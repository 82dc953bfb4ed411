//! The certificates by which nodes know one another: made here, by who has the authority's key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use railgun_net::tls::{
    CA_VALID_FOR, ClusterCa, ClusterCaError, NODE_VALID_FOR, NodeRequest, ca_certificate_path,
};

use crate::exit::{CommandResult, Exit, Failure};
use crate::output::table::print;

const DAY_SECONDS: u64 = 24 * 3_600;
pub(super) const NODE_VALID_DAYS: u32 = (NODE_VALID_FOR.as_secs() / DAY_SECONDS) as u32;
const CERTIFICATE_FILE: &str = "node.pem";
const KEY_FILE: &str = "node-key.pem";
const REQUEST_FILE: &str = "node-request.pem";

pub(super) fn init_ca(dir: &Path) -> CommandResult {
    let ca = ClusterCa::create(dir).map_err(|error| explain(error, dir))?;
    print(&format!(
        "{}: made, valid for {} years, SHA-256 {}\n\
         next: railgun cluster issue-node --ca {} --out DIR --host NAME, for each node\n",
        ca_certificate_path(dir).display(),
        CA_VALID_FOR.as_secs() / DAY_SECONDS / 365,
        ca.fingerprint(),
        dir.display(),
    ))
}

pub(super) fn issue_node(ca_dir: &Path, out: &Path, hosts: &[String], days: u32) -> CommandResult {
    let ca = ClusterCa::load(ca_dir).map_err(|error| explain(error, ca_dir))?;
    let valid_for = Duration::from_secs(u64::from(days) * DAY_SECONDS);
    let node = ca.issue_node(hosts, valid_for).map_err(|error| explain(error, ca_dir))?;
    let files = NodeFiles::new_in(out)?;
    // Of the same authority, for several nodes in one place, it may be there.
    let is_same = match fs::read_to_string(&files.root) {
        Ok(there) if there == ca.pem() => true,
        Ok(_) => return Err(in_the_way(&files.root)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(unwritable(&files.root, &error)),
    };
    if !is_same {
        write_new(&files.root, 0o644, ca.pem())?;
    }
    files.write_key(&node.key_pem)?;
    write_new(&files.certificate, 0o644, &node.chain_pem)?;
    let NodeFiles { certificate, key, root, .. } = files;
    print(&format!(
        "{}: made for {}, valid for {days} days; key in {}, the cluster's CA in {}\n",
        certificate.display(),
        hosts.join(", "),
        key.display(),
        root.display(),
    ))
}

/// Where a node's certificate, its key and the cluster's CA lie.
#[derive(Debug)]
pub(super) struct NodeFiles {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) root: PathBuf,
    /// What was asked for, while nobody knows whether it was signed: it is worth nothing without the key.
    request: PathBuf,
}

impl NodeFiles {
    /// In a directory that is made if need be, and that has neither certificate nor key.
    pub(super) fn new_in(out: &Path) -> Result<Self, Failure> {
        let files = Self::in_dir(out)?;
        free(&files.key)?;
        free(&files.certificate)?;
        Ok(files)
    }

    fn in_dir(out: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(out).map_err(|error| unwritable(out, &error))?;
        Ok(Self {
            certificate: out.join(CERTIFICATE_FILE),
            key: out.join(KEY_FILE),
            root: ca_certificate_path(out),
            request: out.join(REQUEST_FILE),
        })
    }

    /// In a directory that has no certificate; with the request for these hosts that was made there before
    /// and may have been signed, if any.
    pub(super) fn joining_in(
        out: &Path,
        hosts: &[String],
    ) -> Result<(Self, Option<NodeRequest>), Failure> {
        let files = Self::in_dir(out)?;
        free(&files.certificate)?;
        let Some(text) = read(&files.request)? else {
            free(&files.key)?;
            free(&files.root)?;
            return Ok((files, None));
        };
        let Some(key_pem) = read(&files.key)? else {
            // Nobody was asked: that comes after the key.
            free(&files.root)?;
            return Ok((files, None));
        };
        let (for_hosts, csr_pem) = text.split_at(text.find("-----BEGIN").unwrap_or(0));
        if !for_hosts.lines().eq(hosts) {
            let begun: Vec<_> = for_hosts.lines().collect();
            let what = format!(
                "{} is there already, for {}, and may have been signed",
                files.request.display(),
                begun.join(", ")
            );
            let hosts: Vec<_> = begun.iter().map(|host| format!("--host {host}")).collect();
            return Err(Failure::new(Exit::Failed, what).next(format!(
                "the same with {}, or with another directory after --out",
                hosts.join(" ")
            )));
        }
        match NodeRequest::kept(csr_pem.to_owned(), key_pem) {
            Ok(request) => Ok((files, Some(request))),
            Err(error) => {
                let what = format!("{} with its key: {error}", files.request.display());
                let next = "the same with another directory after --out";
                Err(Failure::new(Exit::Failed, what).next(next))
            }
        }
    }

    /// Keeps a request and its key, before anybody is asked to sign it.
    pub(super) fn begin(&self, request: &NodeRequest, hosts: &[String]) -> CommandResult {
        if let Err(error) = fs::remove_file(&self.request)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(unwritable(&self.request, &error));
        }
        let hosts: String = hosts.iter().map(|host| format!("{host}\n")).collect();
        write_new(&self.request, 0o644, &(hosts + &request.csr_pem))?;
        self.write_key(&request.key_pem)
    }

    /// Nobody has signed the request, nor ever will.
    pub(super) fn give_up(&self) {
        for path in [&self.key, &self.request] {
            fs::remove_file(path).ok();
        }
    }

    /// Only its owner can read it.
    pub(super) fn write_key(&self, pem: &str) -> CommandResult {
        write_new(&self.key, 0o600, pem)
    }

    /// What goes beside the key; the CA may be there from an earlier attempt.
    pub(super) fn write_signed(&self, chain_pem: &str, ca_pem: &str) -> CommandResult {
        match read(&self.root)? {
            Some(there) if there == ca_pem => {}
            _ => write_new(&self.root, 0o644, ca_pem)?,
        }
        write_new(&self.certificate, 0o644, chain_pem)?;
        fs::remove_file(&self.request).ok();
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unwritable(path, &error)),
    }
}

fn free(path: &Path) -> CommandResult {
    match path.try_exists().map_err(|error| unwritable(path, &error))? {
        true => Err(in_the_way(path)),
        false => Ok(()),
    }
}

/// Overwrites nothing, and is there as a whole or not at all; readable by whom `mode` says from its first
/// byte on.
fn write_new(path: &Path, mode: u32, text: &str) -> CommandResult {
    free(path)?;
    let temporary = path.with_extension("new");
    let write = || {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| unwritable(path, &error))
}

fn in_the_way(path: &Path) -> Failure {
    let what = format!("{} is there already, and is not overwritten", path.display());
    Failure::new(Exit::Failed, what).next("the same with another directory after --out")
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::of_io(error), format!("cannot write {}: {error}", path.display()))
        .next("the same with a directory after --out that you may write to")
}

pub(super) fn explain(error: ClusterCaError, dir: &Path) -> Failure {
    let what = error.to_string();
    explain_authority(&error, dir, what)
}

/// Why an authority's directory cannot be used; `what` is said to have happened.
pub(crate) fn explain_authority(error: &ClusterCaError, dir: &Path, what: String) -> Failure {
    let shown = dir.display();
    let (exit, next) = match error {
        ClusterCaError::Exists { .. } => (
            Exit::Failed,
            format!("railgun cluster issue-node --ca {shown} --out DIR --host NAME, which uses it"),
        ),
        ClusterCaError::NotFound { .. } => (
            Exit::NotFound,
            format!("railgun cluster init-ca --dir {shown}; or name the directory of another one"),
        ),
        ClusterCaError::File { source, .. } => (Exit::of_io(source), format!("ls -ld {shown}")),
        ClusterCaError::Damaged { .. } => (
            Exit::Failed,
            "restore the directory; or make another CA, and new certificates for all nodes".into(),
        ),
        ClusterCaError::NoHosts | ClusterCaError::Issue { .. } => (
            Exit::Usage,
            "--host takes a DNS name in ASCII, such as n1.example.com, or an IP address".into(),
        ),
        ClusterCaError::Request { .. } => (Exit::Usage, "make the request anew".into()),
    };
    Failure::new(exit, what).next(next)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser as _;
    use railgun_net::peer::NodeTls;

    use super::*;

    fn hosts() -> Vec<String> {
        vec!["n1.example.com".to_owned(), "10.0.0.1".to_owned()]
    }

    #[test]
    fn a_node_gets_all_that_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, out) = (dir.path().join("ca"), dir.path().join("nodes/n1"));
        init_ca(&ca).unwrap();
        issue_node(&ca, &out, &hosts(), 90).unwrap();
        let file = |name| out.join(name);
        NodeTls::from_pem_files(&file("node.pem"), &file("node-key.pem"), &file("ca.pem")).unwrap();
        let mode = fs::metadata(file("node-key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!out.join("ca-key.pem").exists(), "whoever has it can make nodes");
        let failure = issue_node(&ca, &out, &hosts(), 90).unwrap_err();
        assert_eq!(failure.exit(), Exit::Failed);
        assert!(failure.to_string().contains("node-key.pem is there already"), "{failure}");
    }

    #[test]
    fn the_commands_run_as_they_are_typed() {
        let dir = tempfile::tempdir().unwrap();
        let [ca, out] = ["ca", "n1"].map(|name| dir.path().join(name).display().to_string());
        let typed = |line: &str| {
            let line = line.replace("CA", &ca).replace("OUT", &out);
            crate::run(crate::Cli::try_parse_from(line.split(' ')).unwrap())
        };
        typed("railgun cluster init-ca --dir CA").unwrap();
        let issue = "railgun cluster issue-node --ca CA --out OUT --host a.example.com --host ::1";
        let failure = typed(&format!("{issue} --server h:1")).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("--server means nothing"), "{failure}");
        typed(&format!("{issue} --days 30")).unwrap();
        assert!(Path::new(&out).join("node.pem").exists());
        for bad in ["--days 0", "--days 36501"] {
            let line = format!("railgun cluster issue-node --ca x --out y --host z {bad}");
            assert!(crate::Cli::try_parse_from(line.split(' ')).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ca_in_the_way_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other, out] = ["one", "other", "out"].map(|name| dir.path().join(name));
        init_ca(&one).unwrap();
        init_ca(&other).unwrap();
        assert_eq!(init_ca(&one).unwrap_err().exit(), Exit::Failed);
        issue_node(&one, &out, &hosts(), 1).unwrap();
        for name in ["node.pem", "node-key.pem"] {
            fs::remove_file(out.join(name)).unwrap();
        }
        let failure = issue_node(&other, &out, &hosts(), 1).unwrap_err();
        assert!(failure.to_string().contains("ca.pem is there already"), "{failure}");
        assert!(!out.join("node-key.pem").exists());
        issue_node(&one, &out, &hosts(), 1).unwrap();
    }

    #[test]
    fn failures_say_what_to_do_next() {
        let dir = tempfile::tempdir().unwrap();
        let (none, out) = (dir.path().join("none"), dir.path().join("out"));
        let failure = issue_node(&none, &out, &hosts(), 1).unwrap_err();
        assert_eq!(failure.exit(), Exit::NotFound);
        assert!(failure.to_string().contains("next: railgun cluster init-ca --dir"), "{failure}");
        init_ca(&none).unwrap();
        let failure = issue_node(&none, &out, &["ä".to_owned()], 1).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("next: --host takes"), "{failure}");
        assert!(!out.exists());
    }
}
