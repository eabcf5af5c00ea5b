//! `countersign sign`: the headers with which a sender signs a body.

use std::{collections::BTreeMap, path::PathBuf};

use super::{Failure, Outcome, print, read, signer::SignerArgs};
use crate::clock::{Clock as _, SystemClock, UnixTime};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    signer: SignerArgs,
    /// File that holds the body, `-` for stdin
    #[arg(long, value_name = "FILE", default_value = "-")]
    body: PathBuf,
    /// Time to sign at, such as 2026-11-23T12:00:00Z; left out: now
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<UnixTime>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn time(text: &str) -> Result<UnixTime, String> {
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| "write it like 2026-11-23T12:00:00Z")?;
    Ok(UnixTime::from_millis(time.as_millisecond()))
}

pub(super) fn run(args: &Args) -> Outcome {
    let at = args.at.unwrap_or_else(|| SystemClock.now());
    let signer = args.signer.signer(at, &args.body)?;
    let body = read(&args.body)?;
    let Some((_, secret)) = signer.secrets.first() else {
        return Err(Failure::Usage(
            "the route has no secret that is valid now, so nothing can be signed".into(),
        ));
    };
    let headers = signer
        .scheme
        .sign(secret, &body, at)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let headers = headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())));
    if args.json {
        let headers: BTreeMap<_, _> = headers.collect();
        return print(format_args!("{}\n", serde_json::to_string(&headers)?));
    }
    print(
        headers
            .map(|(name, value)| format!("{name}: {value}\n"))
            .collect::<String>(),
    )
}
