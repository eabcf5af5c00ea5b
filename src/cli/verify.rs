//! `countersign verify`: the check of the gateway, on a saved request.

use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use super::{Failure, Outcome, print, read, sign::time, signer::SignerArgs};
use crate::{
    clock::{Clock as _, SystemClock, UnixTime},
    scheme::Verdict,
};

/// Header fields that a saved request may have.
const HEADERS_MAX: usize = 256;

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
    /// Judge the signed time as if it were now, such as 2026-11-23T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<UnixTime>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write `NAME: VALUE`")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes())
        .map_err(|_| format!("`{name}` is not a header name"))?;
    let value =
        HeaderValue::from_str(value.trim()).map_err(|_| "the value cannot stand in a header")?;
    Ok((name, value))
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
    let signer = args.signer.signer()?;
    let (headers, body) = match (&args.request, &args.body) {
        (Some(path), _) => parse(read(path)?)?,
        (None, Some(path)) => (args.headers.iter().cloned().collect(), read(path)?),
        (None, None) => {
            return Err(Failure::Usage(
                "give `--request`, or `--body` with `--header`".into(),
            ));
        }
    };
    let now = args.at.unwrap_or_else(|| SystemClock.now());
    let refused = |reason, detail| Answer {
        verified: false,
        key: None,
        reason,
        detail,
    };
    let claim = signer.scheme.claim(&headers, now);
    let answer = match claim {
        Err(error) => refused(error.reason(), error.to_string()),
        Ok(claim) => {
            let keys: Vec<_> = signer
                .secrets
                .iter()
                .map(|(_, secret)| signer.scheme.key(secret))
                .collect();
            let mut check = signer.scheme.start(claim, &keys);
            check.update(&body);
            match check.finish() {
                Verdict::Match(place) => Answer {
                    verified: true,
                    key: Some(&signer.secrets[place].0),
                    reason: "",
                    detail: String::new(),
                },
                Verdict::Mismatch => refused(
                    "signature_mismatch",
                    format!(
                        "none of the secrets made this signature over these {} bytes",
                        body.len()
                    ),
                ),
                Verdict::Unsigned => refused("unsigned", "the scheme `none` checks nothing".into()),
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

/// Splits a saved request. The request line may be missing; line ends may be those of a text editor.
fn parse(request: Vec<u8>) -> Result<(HeaderMap, Vec<u8>), Failure> {
    let bad = |what: &str| Failure::Usage(format!("the saved request cannot be read: {what}"));
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let first_line = request
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default()
        .trim_ascii_end();
    let has_request_line = first_line.split(|byte| *byte == b' ').count() == 3
        && !first_line
            .split(|byte| *byte == b' ')
            .next()
            .unwrap_or_default()
            .ends_with(b":");
    let head_at = if has_request_line {
        request
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(request.len(), |end| end + 1)
    } else {
        0
    };
    let (end, fields) = match httparse::parse_headers(&request[head_at..], &mut fields) {
        Ok(httparse::Status::Complete(found)) => found,
        Ok(httparse::Status::Partial) => {
            return Err(bad("there is no empty line between head and body"));
        }
        Err(error) => return Err(bad(&error.to_string())),
    };
    let mut headers = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| bad("a header name is not one"))?;
        headers.append(
            name,
            HeaderValue::from_bytes(field.value).map_err(|_| bad("a header value is not one"))?,
        );
    }
    let body = request[head_at + end..].to_vec();
    Ok((headers, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_requests_with_and_without_request_line() {
        for head in [
            "POST /hooks HTTP/1.1\r\nHost: a\r\nX-Sig: 1\r\n\r\n",
            "POST /hooks HTTP/1.1\nhost: a\nx-sig: 1\n\n",
            "X-Sig: 1\nHost: a\n\n",
        ] {
            let request = [head.as_bytes(), b"\r\nbody\n"].concat();
            let Ok((headers, body)) = parse(request) else {
                panic!("{head:?}")
            };
            assert_eq!(headers["x-sig"], "1", "{head:?}");
            assert_eq!(body, b"\r\nbody\n", "{head:?}");
        }
        assert!(parse(b"X-Sig: 1\nno end".to_vec()).is_err());
    }
}
