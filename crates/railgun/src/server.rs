//! Which server a command talks to, and as whom.

use std::path::{Path, PathBuf};
use std::{env, fs};

use railgun_client::{Client, ClientOptions};

use crate::config::LogFormat;
use crate::context::{Context, Contexts, is_pem};
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::interrupt::close_on_signals;

/// How to reach the cluster.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ServerArgs {
    /// Nodes of the cluster, HOST:PORT each, separated by commas; one that answers is enough
    /// [env: RAILGUN_SERVER] [default: of the context]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    server: Option<String>,
    /// Context to take address, CA and token from [default: the current one]
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// CA that signed the servers' certificates, a PEM file [env: RAILGUN_CA] [default: of the context]
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Access token [env: RAILGUN_TOKEN] [default: of the context]
    #[arg(long, global = true, value_name = "TOKEN")]
    token: Option<String>,
    /// As [`LeaderArgs`] say.
    #[arg(skip)]
    stays: bool,
}

/// How a command that publishes reaches the leader of its stream.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct LeaderArgs {
    /// Publish by way of the servers given, also where another node leads the stream
    #[arg(long)]
    no_follow_leaders: bool,
}

/// The variables that name a server, and say what is told about it.
#[derive(Clone, Debug, Default)]
struct Environment {
    server: Option<String>,
    token: Option<String>,
    ca: Option<String>,
    /// Commands log nothing unless it is set.
    log_filter: Option<String>,
}

impl Environment {
    fn of_process() -> Self {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            server: variable("RAILGUN_SERVER"),
            token: variable("RAILGUN_TOKEN"),
            ca: variable("RAILGUN_CA"),
            log_filter: variable("RAILGUN_LOG_FILTER"),
        }
    }
}

/// Where a command goes.
#[derive(Clone, PartialEq, Eq)]
struct Target {
    server: String,
    /// The context that said so, for messages.
    context: Option<String>,
    ca_pem: Option<Vec<u8>>,
    token: Option<String>,
}

impl ServerArgs {
    /// For a command that publishes.
    pub(crate) fn following(&self, leaders: &LeaderArgs) -> Self {
        Self { stays: leaders.no_follow_leaders, ..self.clone() }
    }

    /// Runs a command with a client, and closes the connection however the command ends: a session
    /// that nobody closes holds up the server's for 15 s.
    pub(crate) async fn with_client(
        &self,
        command: impl AsyncFnOnce(&Client) -> CommandResult,
    ) -> CommandResult {
        let (client, place) = self.connect_to().await?;
        let interrupted = close_on_signals(&client);
        let result = command(&client).await;
        interrupted.or_never().await;
        client.close().await;
        result.map_err(|failure| failure.or_at(&place))
    }

    /// Connects, once, to the first of the servers that answers; gives up on each address after 3 s.
    /// Tells the place that failures name.
    async fn connect_to(&self) -> Result<(Client, String), Failure> {
        let environment = Environment::of_process();
        if let Some(filter) = &environment.log_filter {
            crate::serve::init_logging(LogFormat::Pretty, filter);
        }
        let contexts = match Contexts::path() {
            Ok(path) => Contexts::load(&path)?,
            // Without a home there are no contexts, and flags may suffice.
            Err(_) => Contexts::default(),
        };
        let target = self.target(&contexts, environment)?;
        let mut options = ClientOptions::new(&target.server);
        options.ca_pem = target.ca_pem;
        options.token = target.token;
        options.follow_leaders = !self.stays;
        options.name = concat!("railgun-cli/", env!("CARGO_PKG_VERSION")).to_owned();
        let place = match &target.context {
            Some(context) => format!("{} (context '{context}')", target.server),
            None => target.server.clone(),
        };
        match Client::connect(options).await {
            Ok(client) => {
                tracing::debug!(server = client.server(), "connected");
                Ok((client, place))
            }
            Err(error) => Err(explain::connect(&error).at(place)),
        }
    }

    /// Fails where a flag was given to a command that connects to nothing: it would be ignored, and
    /// who gave it meant something.
    pub(crate) fn refuse_for(&self, command: &str) -> CommandResult {
        let given = [
            (self.server.is_some(), "--server"),
            (self.context.is_some(), "--context"),
            (self.ca.is_some(), "--ca"),
            (self.token.is_some(), "--token"),
        ];
        match given.into_iter().find(|(given, _)| *given) {
            None => Ok(()),
            Some((_, flag)) => Err(Failure::new(
                Exit::Usage,
                format!("{flag} means nothing to `railgun {command}`, which connects to no server"),
            )
            .next(format!("the same without {flag}; or railgun {command} --help"))),
        }
    }

    /// As a command line has them.
    #[cfg(test)]
    pub(crate) fn parsed<'a>(args: impl IntoIterator<Item = &'a str>) -> Self {
        use clap::{Args as _, FromArgMatches as _};
        let command = Self::augment_args(clap::Command::new("railgun"));
        Self::from_arg_matches(&command.get_matches_from(args)).unwrap()
    }

    /// What the flags say of a context, for `context set`.
    pub(crate) fn parts(&self) -> (Option<&str>, Option<&Path>, Option<&str>) {
        (self.server.as_deref(), self.ca.as_deref(), self.token.as_deref())
    }

    /// A flag counts more than the environment, which counts more than the current context. The
    /// environment overrides address, CA and token, and not address and CA of a context that was named.
    fn target(&self, contexts: &Contexts, from_env: Environment) -> Result<Target, Failure> {
        let found = contexts.find(self.context.as_deref());
        if let (Some(name), None) = (&self.context, found) {
            return Err(Failure::new(Exit::NotFound, format!("there is no context '{name}'"))
                .next("railgun context ls"));
        }
        let context = found.map(|(_, context)| context);
        let from_context = || context.map(|context| context.server.clone());
        let server = match (&self.server, &self.context) {
            (Some(server), _) => Some(server.clone()),
            (None, Some(_)) => from_context(),
            (None, None) => from_env.server.or_else(from_context),
        };
        let Some(server) = server else {
            return Err(Failure::new(
                Exit::Usage,
                "no server is named, and no context is selected",
            )
            .next("railgun serve --dev, in another terminal; or pass --server HOST:PORT"));
        };
        Ok(Target {
            server,
            context: found.map(|(name, _)| name.to_owned()),
            ca_pem: self.ca_pem(context, from_env.ca.filter(|_| self.context.is_none()))?,
            token: self.token.clone().or(from_env.token).or_else(|| context?.token.clone()),
        })
    }

    fn ca_pem(
        &self,
        context: Option<&Context>,
        from_env: Option<String>,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let given = self.ca.clone().or(from_env.map(PathBuf::from));
        let path = match (given, context.and_then(|context| context.ca.as_deref())) {
            (Some(path), _) => path,
            (None, Some(ca)) if is_pem(ca) => return Ok(Some(ca.as_bytes().to_vec())),
            (None, Some(path)) => PathBuf::from(path),
            (None, None) => return Ok(None),
        };
        fs::read(&path).map(Some).map_err(|error| {
            Failure::new(Exit::of_io(&error), format!("cannot read the CA: {error}"))
                .at(path.display().to_string())
                .next("pass --ca, or set RAILGUN_CA, with the CA's PEM file; a node without a certificate keeps its own in ca/ca.pem of its data directory")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> Contexts {
        toml::from_str(
            "current = 'dev'\n[contexts.dev]\nserver = 'dev:1'\nca = '-----BEGIN'\n\
             [contexts.prod]\nserver = 'prod:1'\ntoken = 't'\n",
        )
        .unwrap()
    }

    fn server_of(args: ServerArgs, env: Option<&str>) -> String {
        let env = Environment { server: env.map(str::to_owned), ..Environment::default() };
        let target = args.target(&contexts(), env);
        target.map_or_else(|failure| failure.to_string(), |target| target.server)
    }

    #[test]
    fn flags_count_more_than_the_environment_and_that_more_than_the_context() {
        let named = ServerArgs { context: Some("prod".into()), ..ServerArgs::default() };
        let flag = ServerArgs { server: Some("flag:1".into()), ..named.clone() };
        assert_eq!(server_of(ServerArgs::default(), None), "dev:1");
        assert_eq!(server_of(ServerArgs::default(), Some("env:1")), "env:1");
        assert_eq!(server_of(named.clone(), Some("env:1")), "prod:1");
        assert_eq!(server_of(flag, Some("env:1")), "flag:1");
        let missing = ServerArgs { context: Some("x".into()), ..ServerArgs::default() };
        assert!(server_of(missing, None).contains("no context 'x'"));
    }

    #[test]
    fn the_environment_overrides_what_it_names_only() {
        let env = Environment {
            server: Some("env:1".into()),
            token: Some("e".into()),
            ..Environment::default()
        };
        let target = ServerArgs::default().target(&contexts(), env.clone()).unwrap();
        assert_eq!(target.ca_pem.as_deref(), Some(&b"-----BEGIN"[..]));
        assert_eq!(target.token.as_deref(), Some("e"));
        let flag = ServerArgs { token: Some("f".into()), ..ServerArgs::default() };
        assert_eq!(flag.target(&contexts(), env.clone()).unwrap().token.as_deref(), Some("f"));

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "of the variable").unwrap();
        let env = Environment { ca: Some(file.path().to_str().unwrap().into()), ..env };
        let ca = |args: ServerArgs| args.target(&contexts(), env.clone()).unwrap().ca_pem;
        assert_eq!(ca(ServerArgs::default()).as_deref(), Some(&b"of the variable"[..]));
        let named = ServerArgs { context: Some("dev".into()), ..ServerArgs::default() };
        assert_eq!(ca(named).as_deref(), Some(&b"-----BEGIN"[..]));
    }

    #[test]
    fn a_flag_that_would_be_ignored_is_refused() {
        assert_eq!(ServerArgs::default().refuse_for("replay"), Ok(()));
        let args = ServerArgs { token: Some("t".into()), ..ServerArgs::default() };
        let failure = args.refuse_for("replay").unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("--token means nothing to `railgun replay`"));
    }
}
