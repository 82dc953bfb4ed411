//! Which server a command talks to, and as whom.

use std::path::PathBuf;
use std::{env, fs};

use railgun_client::{Client, ClientOptions};

use crate::context::{Context, Contexts, is_pem};
use crate::exit::{Exit, Failure};
use crate::failure;

/// How to reach the cluster.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ServerArgs {
    /// Address of any node, HOST:PORT [env: RAILGUN_SERVER] [default: of the context]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    server: Option<String>,
    /// Context to take address, CA and token from [default: the current one]
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// CA that signed the server's certificate, a PEM file [default: of the context]
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Access token [default: of the context]
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "RAILGUN_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
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
    /// Connects, once, within 3 s.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let contexts = match Contexts::path() {
            Ok(path) => Contexts::load(&path)?,
            // Without a home there are no contexts, and flags may suffice.
            Err(_) => Contexts::default(),
        };
        let from_env = env::var("RAILGUN_SERVER").ok().filter(|server| !server.is_empty());
        let target = self.target(&contexts, from_env)?;
        let mut options = ClientOptions::new(&target.server);
        options.ca_pem = target.ca_pem;
        options.token = target.token;
        options.name = concat!("railgun-cli/", env!("CARGO_PKG_VERSION")).to_owned();
        let place = match &target.context {
            Some(context) => format!("{} (context '{context}')", target.server),
            None => target.server.clone(),
        };
        Client::connect(options).await.map_err(|error| failure::connect(&error).at(place))
    }

    /// A flag counts more than the environment, which counts more than the current context. The
    /// environment overrides the address only, and not that of a context that was named.
    fn target(&self, contexts: &Contexts, from_env: Option<String>) -> Result<Target, Failure> {
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
            (None, None) => from_env.or_else(from_context),
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
            ca_pem: self.ca_pem(context)?,
            token: self.token.clone().or_else(|| context?.token.clone()),
        })
    }

    fn ca_pem(&self, context: Option<&Context>) -> Result<Option<Vec<u8>>, Failure> {
        let path = match (&self.ca, context.and_then(|context| context.ca.as_deref())) {
            (Some(path), _) => path.clone(),
            (None, Some(ca)) if is_pem(ca) => return Ok(Some(ca.as_bytes().to_vec())),
            (None, Some(path)) => PathBuf::from(path),
            (None, None) => return Ok(None),
        };
        fs::read(&path).map(Some).map_err(|error| {
            Failure::new(Exit::NotFound, format!("cannot read the CA: {error}"))
                .at(path.display().to_string())
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
        let target = args.target(&contexts(), env.map(str::to_owned));
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
    fn the_environment_overrides_the_address_only() {
        let target = ServerArgs::default().target(&contexts(), Some("env:1".into())).unwrap();
        assert_eq!(target.ca_pem.as_deref(), Some(&b"-----BEGIN"[..]));
    }
}
