//! `countersign verify`: the check of the gateway, on a saved request.

use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Method, header::HOST};
use serde::Serialize;

use super::{
    Failure, Outcome,
    draft::{Url, header, url},
    print, read, saved,
    sign::time,
    signer::SignerArgs,
};
use crate::{
    clock::{Clock as _, SystemClock, UnixTime},
    scheme::{Request, RequestHead, Verdict},
};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    signer: SignerArgs,
    /// Saved request: its head as it came over HTTP/1.1, an empty line, its body; `-` for stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["headers", "body"], required_unless_present = "body")]
    request: Option<PathBuf>,
    /// Header of the request, as `NAME: VALUE`; may be repeated
    #[arg(long = "header", short = 'H', value_name = "HEADER", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// File that holds the body, `-` for stdin
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// The public URL, for schemes that sign it; left out: the route's `public_url`, else https and the Host header, with the request's target
    #[arg(long, value_name = "URL", value_parser = url)]
    url: Option<Url>,
    /// Method, for schemes that sign it
    #[arg(
        long,
        value_name = "METHOD",
        default_value = "POST",
        conflicts_with = "request"
    )]
    method: Method,
    /// Judge the signed time as if it were now, such as 2026-11-23T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<UnixTime>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Answer<'a> {
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

pub(super) fn run(args: &Args) -> Outcome {
    let now = args.at.unwrap_or_else(|| SystemClock.now());
    let Some(path) = args.request.as_ref().or(args.body.as_ref()) else {
        return Err(Failure::Usage(
            "give `--request`, or `--body` with `--header`".into(),
        ));
    };
    let signer = args.signer.signer(now, path)?;
    let bytes = read(path)?;
    let target = args.url.as_ref().and_then(|url| url.uri.path_and_query());
    let target = target.map_or("/", |target| target.as_str()).to_owned();
    let empty = (args.method.clone(), target);
    let ((method, target), headers, body) = if args.request.is_some() {
        let saved = saved::parse(&bytes)
            .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
        (saved.line.unwrap_or(empty), saved.headers, saved.body)
    } else {
        (empty, args.headers.iter().cloned().collect(), &bytes[..])
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let public = match args.url {
        Some(_) => None,
        None => signer.public_url.as_ref().map(|public| public.of(&target)),
    };
    let (url, target) = match (&args.url, &public, host) {
        (Some(url), _, _) => (Some(url.as_str().to_owned()), &*target),
        // A proxy may have changed the path on the way.
        (None, Some((url, path)), _) => (Some(url.clone()), &url[*path..]),
        (None, None, host) => (host.map(|host| format!("https://{host}{target}")), &*target),
    };
    let refused = |reason, detail| Answer {
        verified: false,
        key: None,
        reason,
        detail,
    };
    let head = RequestHead {
        method: &method,
        target,
        headers: &headers,
        url: url.as_deref(),
    };
    let claim = signer.scheme.claim(&head, now);
    let answer = match claim {
        Err(error) => refused(error.reason(), error.to_string()),
        Ok(_) if signer.secrets.is_empty() && signer.scheme.needs_secret() => refused(
            "no_usable_secret",
            match signer.scheme.fetches_keys() {
                true => "the route's keys are fetched, and this command fetches none; save the key, and \
                         name its file with `--scheme` and `--secret-file`"
                    .into(),
                false => "no secret of the route is valid at this time".into(),
            },
        ),
        Ok(claim) => {
            let keys: Vec<_> = signer
                .secrets
                .iter()
                .map(|(id, secret)| {
                    signer
                        .scheme
                        .key(secret)
                        .map_err(|error| Failure::Usage(format!("the secret {id} {error}")))
                })
                .collect::<Result<_, _>>()?;
            let mut check = signer.scheme.start(claim, &keys);
            check.update(body);
            match check.finish_whole(&Request { head, body }) {
                Err(error) => refused(error.reason(), error.to_string()),
                Ok((Verdict::Match(place), _)) => Answer {
                    verified: true,
                    key: Some(&signer.secrets[place].0),
                    reason: "",
                    detail: String::new(),
                },
                Ok((Verdict::Mismatch, _)) => refused(
                    "signature_mismatch",
                    format!(
                        "none of the secrets made this signature over these {} bytes",
                        body.len()
                    ),
                ),
                Ok((Verdict::Unsigned, _)) => {
                    refused("unsigned", "the scheme `none` checks nothing".into())
                }
            }
        }
    };
    if args.json {
        print(format_args!("{}\n", serde_json::to_string(&answer)?))?;
    } else if let Some(key) = answer.key {
        print(format_args!("verified with key {key}\n"))?;
    } else {
        print(format_args!(
            "not verified: {}: {}\n",
            answer.reason, answer.detail
        ))?;
    }
    if answer.verified {
        Ok(())
    } else {
        Err(Failure::Negative)
    }
}
