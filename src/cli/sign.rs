//! `countersign sign`: the headers with which a sender signs a body.

use std::{collections::BTreeMap, path::PathBuf};

use http::{HeaderName, HeaderValue, Method, header::HOST};
use serde::Serialize;

use super::{
    Outcome,
    draft::{Draft, Url, header, url},
    print, print_bytes, read,
    signer::SignerArgs,
};
use crate::{
    clock::{Clock as _, SystemClock, UnixTime},
    scheme::{Place, SignatureHeaders},
};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    signer: SignerArgs,
    /// File that holds the body, `-` for stdin
    #[arg(long, value_name = "FILE", default_value = "-")]
    body: PathBuf,
    /// The public URL, for schemes that sign it or its path or query, and where the signature stands in the query
    #[arg(long, value_name = "URL", value_parser = url)]
    url: Option<Url>,
    /// Method, for schemes that sign it
    #[arg(long, value_name = "METHOD", default_value = "POST")]
    method: Method,
    /// Header that the request has, as `NAME: VALUE`; may be repeated
    #[arg(long = "header", short = 'H', value_name = "HEADER", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Delivery id, for schemes that have it in a header; left out: one that the time makes
    #[arg(long, value_name = "ID")]
    id: Option<HeaderValue>,
    /// What a JWT or JWS names its key by
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
    /// Time to sign at, such as 2026-11-23T12:00:00Z; left out: now
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<UnixTime>,
    /// Print the whole request as `verify --request` reads it, as always where the signature stands in no header
    #[arg(long, conflicts_with = "json")]
    request: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What signing makes: `target` and `body` where the signature stands in them.
#[derive(Serialize)]
struct Made<'a> {
    headers: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// A body that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
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
    let secret = signer.secret()?;
    let mut draft = Draft::of(&read(&args.body)?)
        .with_url(args.url.as_ref())
        .with_id(&signer.scheme, args.id.as_ref())?;
    draft.method = args.method.clone();
    draft.key_id = args.key_id.clone();
    draft.headers.extend(args.headers.iter().cloned());
    let mut signed = draft.sign(&signer.scheme, secret, at)?;
    if let (Some(id), Some(Place::Header(name))) = (&args.id, signer.scheme.id_place()) {
        // Given, but by a flag: the sender has yet to put it on.
        signed.headers.push((name.clone(), id.clone()));
    }
    if args.json {
        let (body, body_base64) = match signed.body.as_deref().map(std::str::from_utf8) {
            None => (None, None),
            Some(Ok(text)) => (Some(text), None),
            Some(Err(_)) => {
                let bytes = signed.body.as_deref().unwrap_or_default();
                (None, Some(data_encoding::BASE64.encode(bytes)))
            }
        };
        let made = Made {
            headers: texts(&signed.headers).collect(),
            target: signed.target.as_deref(),
            body,
            body_base64,
        };
        return print(format_args!("{}\n", serde_json::to_string(&made)?));
    }
    if args.request || signed.target.is_some() || signed.body.is_some() {
        if let Some(host) = args.url.as_ref().and_then(|url| url.uri.authority())
            && let Ok(host) = HeaderValue::from_str(host.as_str())
        {
            draft.headers.entry(HOST).or_insert(host);
        }
        draft.with(signed);
        return print_bytes(&draft.to_bytes());
    }
    print(
        texts(&signed.headers)
            .map(|(name, value)| format!("{name}: {value}\n"))
            .collect::<String>(),
    )
}

fn texts(headers: &SignatureHeaders) -> impl Iterator<Item = (&str, String)> {
    headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        (name.as_str(), value.into_owned())
    })
}
