//! `railgun config …`

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
};

use railgun_net::tls::{ServerTls, TlsError};

use super::{
    args::SettingsArgs,
    load::{load, misspelt_variables},
    settings::SettingsError,
    show,
    token::{self, TokenTooShort},
};
use crate::exit::{CommandResult, Exit, Failure};

/// Check and show the settings of a node, and hash its access tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun config check /etc/railgun/railgun.toml
  railgun config show --dev
  openssl rand -hex 32 | tee token | railgun config hash-token")]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Say whether `serve --config FILE` would accept the file in this environment
    Check {
        /// Configuration file (TOML)
        file: PathBuf,
    },
    /// Print the effective settings and where each comes from; secrets are hidden
    Show(SettingsArgs),
    /// Read an access token from standard input and print what goes into `auth.tokens`
    ///
    /// That of an operator goes into `auth.admin_tokens`: where that is set, nobody else makes, drains or
    /// removes nodes, or moves leads.
    HashToken,
}

/// A `config` command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("cannot use a configured certificate: {0}")]
    Certificate(#[from] TlsError),
    #[error(transparent)]
    Token(#[from] TokenTooShort),
    #[error("cannot read the token from standard input: {source}")]
    Input { source: io::Error },
    #[error("cannot write to standard output: {source}")]
    Output { source: io::Error },
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Settings(error) => error.into(),
            ConfigError::Token(_) => Self::new(Exit::Usage, error.to_string())
                .next("openssl rand -hex 32 | tee token | railgun config hash-token"),
            ConfigError::Certificate(TlsError::Read { ref source, .. }) => {
                Self::new(Exit::of_io(source), error.to_string()).next(
                    "correct `tls.ca`, `tls.cert` and `tls.key`: railgun config show --config FILE",
                )
            }
            ConfigError::Certificate(_) => Self::new(Exit::Usage, error.to_string()).next(
                "correct `tls.ca`, `tls.cert` and `tls.key`: railgun config show --config FILE",
            ),
            ConfigError::Input { .. } => Self::new(Exit::Failed, error.to_string())
                .next("openssl rand -hex 32 | tee token | railgun config hash-token"),
            ConfigError::Output { .. } => Self::new(Exit::Failed, error.to_string())
                .next("the same with another place for the output"),
        }
    }
}

/// Runs the command; results go to standard output.
///
/// # Errors
///
/// A [`Failure`] made of a [`ConfigError`]; a closed pipe is none.
pub(crate) fn run(args: ConfigArgs) -> CommandResult {
    Ok(answer(args.command).and_then(print)?)
}

fn answer(command: ConfigCommand) -> Result<String, ConfigError> {
    match command {
        ConfigCommand::Check { file } => check(file),
        ConfigCommand::Show(args) => Ok(show::render(&load(&args)?)),
        ConfigCommand::HashToken => hash_token(),
    }
}

fn print(answer: String) -> Result<(), ConfigError> {
    match io::stdout().lock().write_all(answer.as_bytes()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(ConfigError::Output { source })
        }
        _ => Ok(()),
    }
}

fn check(file: PathBuf) -> Result<String, ConfigError> {
    let answer = format!("{}: ok\n", file.display());
    let settings = load(&SettingsArgs { config: Some(file), ..SettingsArgs::default() })?;
    if let Some((cert, key)) = settings.certificate() {
        ServerTls::from_pem_files(cert, key)?;
    }
    let mut warnings = misspelt_variables();
    if let Some(cluster) = settings.cluster()? {
        let path = &cluster.ca;
        let unreadable = |source| TlsError::Read { path: path.clone(), source };
        fs::File::open(path).map_err(unreadable)?;
        warnings.extend(cluster.warnings());
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    Ok(answer)
}

fn hash_token() -> Result<String, ConfigError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        eprintln!("Token (shown as you type; `openssl rand -hex 32` makes a good one):");
    }
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(|source| ConfigError::Input { source })?;
    Ok(format!("{}\n", token::hash(line.trim_end_matches(['\r', '\n']))?))
}
