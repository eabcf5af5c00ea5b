//! `countersign send`: one delivery, genuine or wrong on purpose.

use std::path::PathBuf;

use bytes::Bytes;
use clap::ValueEnum;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::{Failure, Outcome, block_on, client, print, read, signer::SignerArgs, verify::header};
use crate::{
    clock::{Clock as _, SystemClock, UnixTime},
    scheme::Scheme,
    secret::Secret,
};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to, such as `https://hooks.example.org/webhooks/carevalidate`
    #[arg(value_parser = url)]
    url: Uri,
    #[command(flatten)]
    signer: SignerArgs,
    /// File that holds the body, `-` for stdin
    #[arg(long, value_name = "FILE", default_value = "-")]
    body: PathBuf,
    /// What to do wrong
    #[arg(long, value_enum, default_value_t)]
    fault: Fault,
    /// Further header, as `NAME: VALUE`, `Host` too; may be repeated
    #[arg(long = "header", short = 'H', value_name = "HEADER", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// PEM file of the authorities to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Content type of the body
    #[arg(long, value_name = "TYPE", default_value = "application/json")]
    content_type: HeaderValue,
}

fn url(text: &str) -> Result<Uri, &'static str> {
    text.parse()
        .map_err(|_| "write it like https://hooks.example.org/path")
}

/// Ways to get a delivery wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Fault {
    /// Nothing: it should be accepted
    #[default]
    None,
    /// One bit of the body is changed after signing
    Tampered,
    /// No signature at all
    Unsigned,
    /// Signed with another secret
    OtherSecret,
    /// Signed a day ago, for schemes that sign a time
    Old,
}

/// Makes the headers and the body of a delivery with this fault.
pub(super) fn delivery(
    scheme: &Scheme,
    secret: &Secret,
    body: &[u8],
    now: UnixTime,
    fault: Fault,
) -> Result<(HeaderMap, Bytes), Failure> {
    let mut body = body.to_vec();
    let other;
    let secret = if fault == Fault::OtherSecret {
        other = Secret::new([secret.expose(), b" but not this one"].concat())?;
        &other
    } else {
        secret
    };
    let at = if fault == Fault::Old {
        UnixTime::from_secs(now.secs() - 86_400)
    } else {
        now
    };
    let mut headers = HeaderMap::new();
    if fault != Fault::Unsigned {
        headers.extend(
            scheme
                .sign(secret, &body, at)
                .map_err(|error| Failure::Usage(error.to_string()))?,
        );
    }
    if fault == Fault::Tampered {
        match body.last_mut() {
            Some(last) => *last ^= 1,
            None => body.push(b' '),
        }
    }
    Ok((headers, Bytes::from(body)))
}

pub(super) fn run(args: &Args) -> Outcome {
    let now = SystemClock.now();
    let signer = args.signer.signer(now, &args.body)?;
    let body = read(&args.body)?;
    let Some((_, secret)) = signer.secrets.first() else {
        return Err(Failure::Usage(
            "the route has no secret that is valid now, so nothing can be signed".into(),
        ));
    };
    let (mut headers, body) = delivery(&signer.scheme, secret, &body, now, args.fault)?;
    headers.extend(args.headers.iter().cloned());
    headers
        .entry(header::CONTENT_TYPE)
        .or_insert(args.content_type.clone());
    let answer = block_on(client::request(
        Method::POST,
        &args.url,
        args.ca.clone(),
        headers,
        body,
    ))??;
    let mut text = format!("{}\n", answer.status);
    for (name, value) in &answer.headers {
        text.push_str(&format!(
            "{name}: {}\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    text.push('\n');
    text.push_str(&String::from_utf8_lossy(&answer.body));
    print(text)?;
    if answer.status.is_success() {
        Ok(())
    } else {
        Err(Failure::Negative)
    }
}
