//! What becomes of the messages that fail, as groups and streams are told on the command line.

use railgun_client::DlqPatch;

use crate::span::{Span, SpanError};

/// When a message that fails is given up, and what becomes of it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DlqPatchArgs {
    /// Failures after which a message is a dead letter; 0: any number [default at first: 5]
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// How far a group may be ahead of a message that fails; or off [default at first: 10000]
    #[arg(long, value_name = "N|off", value_parser = number_or_off)]
    max_distance: Option<u64>,
    /// How long after its first failure a message that fails is a dead letter; or off [default at first: off]
    #[arg(long, value_name = "SPAN|off", value_parser = ms_or_off)]
    max_age: Option<u64>,
    /// Failures without which no message is a dead letter by its distance [default at first: 2]
    #[arg(long, value_name = "N")]
    min_attempts: Option<u32>,
    /// Keep what is given up in its place, until an operator acts, instead of making it a dead letter
    #[arg(long, conflicts_with = "dlq")]
    no_dlq: bool,
    /// Make dead letters of what is given up, as is so at first
    #[arg(long)]
    dlq: bool,
}

impl From<&DlqPatchArgs> for DlqPatch {
    fn from(args: &DlqPatchArgs) -> Self {
        Self {
            enabled: (args.dlq || args.no_dlq).then_some(args.dlq),
            max_attempts: args.max_attempts,
            max_distance: args.max_distance,
            max_age_ms: args.max_age,
            min_attempts: args.min_attempts,
        }
    }
}

fn number_or_off(text: &str) -> Result<u64, String> {
    match text {
        "off" => Ok(0),
        number => number.parse().map_err(|_| "write a number or off".to_owned()),
    }
}

fn ms_or_off(text: &str) -> Result<u64, String> {
    match text {
        "off" => Ok(0),
        span => span.parse().map(Span::ms).map_err(|error: SpanError| error.to_string()),
    }
}
