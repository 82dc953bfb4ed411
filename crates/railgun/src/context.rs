//! Contexts: named ways to reach a cluster, kept in a file, one of them current. And the `context`
//! commands.
//!
//! The file is `$XDG_CONFIG_HOME/railgun/contexts.toml`, or `~/.config/railgun/contexts.toml`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use railgun_broker::TokenHash;
use railgun_client::ClientOptions;
use serde::{Deserialize, Serialize};

use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::output::table::{Fields, Listing, Table};
use crate::server::ServerArgs;

/// The name of the context that `serve --dev` writes.
const DEV: &str = "dev";

/// All contexts of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Contexts {
    /// The one that is used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    contexts: BTreeMap<String, Context>,
}

/// How to reach a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Nodes of the cluster, `host:port` each, separated by commas.
    pub(crate) server: String,
    /// The authority that signed its certificate: PEM, or the path of a PEM file. Absent: those
    /// this machine trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// The access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

/// The file of contexts cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    #[error("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for contexts")]
    NoHome,
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not a file of contexts: {message}", path.display())]
    Invalid { path: PathBuf, message: String },
    #[error("cannot write {}: {source}", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("there is no context '{name}' in {}", path.display())]
    Unknown { path: PathBuf, name: String },
}

impl From<ContextError> for Failure {
    fn from(error: ContextError) -> Self {
        let exit = match &error {
            ContextError::Unknown { .. } => Exit::NotFound,
            ContextError::Invalid { .. } | ContextError::NoHome => Exit::Usage,
            ContextError::Unreadable { .. } | ContextError::Unwritable { .. } => Exit::Failed,
        };
        let failure = Self::new(exit, error.to_string());
        match error {
            ContextError::Unknown { .. } => failure.next("railgun context ls"),
            ContextError::NoHome => failure.next("pass --server and --ca, or set HOME"),
            ContextError::Invalid { path, .. } => failure
                .next(format!("mend the file, or begin anew: mv {0} {0}.old", path.display())),
            ContextError::Unreadable { path, .. } | ContextError::Unwritable { path, .. } => {
                failure.next(format!("ls -ld {}", path.display()))
            }
        }
    }
}

impl Contexts {
    /// Where the file of this user is.
    pub(crate) fn path() -> Result<PathBuf, ContextError> {
        let dir = |name| env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let base = dir("XDG_CONFIG_HOME").or_else(|| Some(dir("HOME")?.join(".config")));
        Ok(base.ok_or(ContextError::NoHome)?.join("railgun").join("contexts.toml"))
    }

    /// Reads the file; one that does not exist has no contexts.
    pub(crate) fn load(path: &Path) -> Result<Self, ContextError> {
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| ContextError::Invalid {
                path: path.to_owned(),
                message: error.message().to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ContextError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// Replaces the file at once, readable by its owner only: it may hold tokens.
    fn save(&self, path: &Path) -> Result<(), ContextError> {
        let write = || {
            let dir = path.parent().unwrap_or(Path::new("."));
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            let text = toml::to_string(self).map_err(io::Error::other)?;
            let new = dir.join(format!(".contexts.toml.{}", std::process::id()));
            let mut options = fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&new, path)
        };
        write().map_err(|source| ContextError::Unwritable { path: path.to_owned(), source })
    }

    /// The context of this name, or the current one.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<(&str, &Context)> {
        let name = name.or(self.current.as_deref())?;
        self.contexts.get_key_value(name).map(|(name, context)| (name.as_str(), context))
    }

    /// Writes or replaces a context, and selects it if none is. Whether it is the current one then.
    fn put(&mut self, name: &str, context: Context) -> bool {
        self.contexts.insert(name.to_owned(), context);
        if self.find(None).is_none() {
            self.current = Some(name.to_owned());
        }
        self.current.as_deref() == Some(name)
    }
}

/// What `serve --dev` made of the context `dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DevContext {
    /// Whether it is the current one.
    pub(crate) selected: bool,
    /// Whether it holds a token that the node takes, or the node takes any.
    pub(crate) authorised: bool,
}

/// Writes the context `dev` for a node that was started with `serve --dev`, and selects it if no
/// context is selected. A token in it stays where it is one of `tokens` or `admin_tokens`, those of the
/// node.
///
/// # Errors
/// [`ContextError`] when the file cannot be read or written.
pub(crate) fn write_dev_context(
    server: SocketAddr,
    ca_pem: &str,
    tokens: &[TokenHash],
    admin_tokens: &[TokenHash],
) -> Result<DevContext, ContextError> {
    write_dev_context_at(&Contexts::path()?, server, ca_pem, tokens, admin_tokens)
}

fn write_dev_context_at(
    path: &Path,
    server: SocketAddr,
    ca_pem: &str,
    tokens: &[TokenHash],
    admin_tokens: &[TokenHash],
) -> Result<DevContext, ContextError> {
    let mut contexts = Contexts::load(path)?;
    let token = contexts.contexts.get(DEV).and_then(|context| context.token.clone());
    let token = token.filter(|token| {
        let hash = TokenHash::of(token);
        tokens.contains(&hash) || admin_tokens.contains(&hash)
    });
    let authorised = tokens.is_empty() || token.is_some();
    let context = Context { server: server.to_string(), ca: Some(ca_pem.to_owned()), token };
    let selected = contexts.put(DEV, context);
    contexts.save(path)?;
    Ok(DevContext { selected, authorised })
}

/// Make, list, select and show contexts: named ways to reach a cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun context set prod --server a.example:7410,b.example:7410 --token TOKEN
  railgun context ls
  railgun context use dev
  railgun context show")]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ContextCommand {
    /// Make a context from --server, --ca and --token, or change those of one
    ///
    /// What is not named stays. The first context is selected.
    #[command(after_help = "Examples:
  railgun context set prod --server logs.example:7410 --ca ca.pem --token TOKEN
  railgun context set dev --token TOKEN")]
    Set {
        /// Its name
        name: String,
    },
    /// List all contexts; the current one is marked
    #[command(after_help = "Examples:
  railgun context ls
  railgun context ls -o json")]
    Ls {
        #[command(flatten)]
        listing: Listing,
    },
    /// Select the context that is used when none is named
    #[command(after_help = "Examples:
  railgun context use dev")]
    Use {
        /// Its name
        name: String,
    },
    /// Show one context; its token is hidden
    #[command(after_help = "Examples:
  railgun context show
  railgun context show dev -o json")]
    Show {
        /// Its name [default: the current one]
        name: Option<String>,
        #[command(flatten)]
        listing: Listing,
    },
}

/// Runs `railgun context …`.
pub(crate) fn run(args: &ContextArgs, server: &ServerArgs) -> CommandResult {
    if !matches!(args.command, ContextCommand::Set { .. }) {
        server.refuse_for("context")?;
    }
    let path = Contexts::path()?;
    let mut contexts = Contexts::load(&path)?;
    match &args.command {
        ContextCommand::Set { name } => {
            let context = contexts.contexts.get(name);
            contexts.put(name, changed(name, context, server)?);
            Ok(contexts.save(&path)?)
        }
        ContextCommand::Ls { listing } => {
            let mut table = Table::new(&["current", "name", "server", "ca", "token"]);
            for (name, context) in &contexts.contexts {
                let current = contexts.current.as_ref() == Some(name);
                let ca = context.ca.as_deref().map_or("of the system", ca_summary);
                let token = if context.token.is_some() { "yes" } else { "no" };
                table.row([if current { "*" } else { "" }, name, &context.server, ca, token]);
            }
            listing.print(&table)
        }
        ContextCommand::Use { name } => {
            if contexts.find(Some(name)).is_none() {
                return Err(ContextError::Unknown { path, name: name.clone() }.into());
            }
            contexts.current = Some(name.clone());
            Ok(contexts.save(&path)?)
        }
        ContextCommand::Show { name, listing } => {
            let Some((name, context)) = contexts.find(name.as_deref()) else {
                return Err(match name {
                    Some(name) => ContextError::Unknown { path, name: name.clone() }.into(),
                    None => Failure::new(Exit::NotFound, "no context is selected")
                        .at(path.display().to_string())
                        .next("railgun context ls, and railgun context use NAME"),
                });
            };
            let fields = Fields::default()
                .field("name", name)
                .field("server", context.server.as_str())
                .field("ca", context.ca.as_deref().unwrap_or("of the system"))
                .field("token", if context.token.is_some() { "(hidden)" } else { "none" });
            listing.print_one(&fields)
        }
    }
}

/// The context `name` with what the flags say.
fn changed(name: &str, old: Option<&Context>, flags: &ServerArgs) -> Result<Context, Failure> {
    let (server, ca, token) = flags.parts();
    if (server, ca, token) == (None, None, None) {
        return Err(Failure::new(Exit::Usage, "nothing is to be set")
            .next(format!("railgun context set {name} --server HOST:PORT")));
    }
    let server = server.or(old.map(|old| old.server.as_str())).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("there is no context '{name}' yet, so it needs a server"))
            .next("the same with --server HOST:PORT")
    })?;
    // Noticed now, and not when it is used.
    if let Err(error) = ClientOptions::new(server).check_servers() {
        return Err(explain::connect(&error));
    }
    let ca = match ca {
        // The text, not the path: it means the same wherever commands are run, and a file that
        // cannot be read is noticed now.
        Some(path) => {
            let unusable = |error: io::Error| {
                Failure::new(Exit::of_io(&error), format!("cannot read the CA: {error}"))
                    .at(path.display().to_string())
                    .next("pass --ca with the CA's PEM file")
            };
            let pem = fs::read_to_string(path).map_err(unusable)?;
            if !is_pem(&pem) {
                return Err(Failure::new(Exit::Usage, "the file holds no certificate in PEM")
                    .at(path.display().to_string())
                    .next("pass --ca with the CA's PEM file"));
            }
            Some(pem)
        }
        None => old.and_then(|old| old.ca.clone()),
    };
    let token = token.map(str::to_owned).or_else(|| old?.token.clone());
    Ok(Context { server: server.to_owned(), ca, token })
}

fn ca_summary(ca: &str) -> &str {
    if is_pem(ca) { "inline" } else { ca }
}

/// Whether a `ca` entry is PEM itself, and not the path of a file.
pub(crate) fn is_pem(ca: &str) -> bool {
    ca.contains("-----BEGIN")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> SocketAddr {
        "127.0.0.1:7410".parse().unwrap()
    }

    #[test]
    fn the_dev_context_is_written_each_time_and_selected_when_none_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/railgun/contexts.toml");
        let made = write_dev_context_at(&path, server(), "-----BEGIN A", &[], &[]).unwrap();
        assert_eq!(made, DevContext { selected: true, authorised: true });
        // Another one is selected: it stays selected, dev is replaced.
        let mut contexts = Contexts::load(&path).unwrap();
        let other = Context { server: "b:1".into(), ca: None, token: Some("secret".into()) };
        contexts.put("prod", other.clone());
        contexts.current = Some("prod".into());
        contexts.save(&path).unwrap();
        let server = "127.0.0.1:9".parse().unwrap();
        assert!(!write_dev_context_at(&path, server, "PEM\n2", &[], &[]).unwrap().selected);
        let contexts = Contexts::load(&path).unwrap();
        assert_eq!(contexts.find(None), Some(("prod", &other)));
        let (_, dev) = contexts.find(Some("dev")).unwrap();
        assert_eq!((dev.server.as_str(), dev.ca.as_deref()), ("127.0.0.1:9", Some("PEM\n2")));
    }

    #[test]
    fn the_token_of_the_dev_context_stays_while_the_node_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contexts.toml");
        let ours = [TokenHash::of("sixteen bytes or more")];
        let write = |tokens: &[TokenHash]| {
            write_dev_context_at(&path, server(), "-----BEGIN", tokens, &[]).unwrap().authorised
        };
        assert!(!write(&ours), "no token is known");
        let mut contexts = Contexts::load(&path).unwrap();
        let dev = contexts.contexts.get_mut(DEV).unwrap();
        dev.token = Some("sixteen bytes or more".into());
        contexts.save(&path).unwrap();
        assert!(write(&ours));
        assert!(write(&ours), "it was kept");
        let others = [TokenHash::of("another one, likewise long")];
        let dev = write_dev_context_at(&path, server(), "-----BEGIN", &others, &ours).unwrap();
        assert!(dev.authorised, "it is an operator's");
        assert!(!write(&others), "it opens nothing any more");
    }

    #[test]
    fn a_selected_context_that_is_gone_counts_as_none() {
        let mut contexts = Contexts { current: Some("gone".into()), ..Contexts::default() };
        assert!(contexts.put("dev", Context { server: "a:1".into(), ca: None, token: None }));
    }

    #[test]
    fn the_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contexts.toml");
        write_dev_context_at(&path, server(), "", &[], &[]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_file_with_unknown_keys_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contexts.toml");
        fs::write(&path, "curent = 'dev'\n").unwrap();
        let error = Contexts::load(&path).unwrap_err().to_string();
        assert!(error.contains("curent"), "{error}");
    }
}
