//! `countersign send`: one delivery, genuine or wrong on purpose.

use std::path::PathBuf;

use clap::ValueEnum;
use http::{HeaderName, HeaderValue, Method, header};

use super::{
    Failure, Outcome, block_on, client,
    draft::{Draft, Url, header, url},
    print, read,
    signer::SignerArgs,
};
use crate::{
    clock::{Clock as _, SystemClock, UnixTime},
    scheme::Scheme,
    secret::Secret,
};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Where to, such as `https://hooks.example.org/webhooks/carevalidate`
    #[arg(value_parser = url)]
    url: Url,
    #[command(flatten)]
    signer: SignerArgs,
    /// File that holds the body, `-` for stdin
    #[arg(long, value_name = "FILE", default_value = "-")]
    body: PathBuf,
    /// The URL that the sender knows, where it is another; for schemes that sign it
    #[arg(long, value_name = "URL", value_parser = url)]
    public_url: Option<Url>,
    /// Method
    #[arg(long, value_name = "METHOD", default_value = "POST")]
    method: Method,
    /// Delivery id, for schemes that have it in a header; left out: one that the time makes
    #[arg(long, value_name = "ID")]
    id: Option<HeaderValue>,
    /// What a JWT or JWS names its key by
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
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

/// Signs a request with this fault.
pub(super) fn deliver_with(
    fault: Fault,
    draft: &mut Draft,
    scheme: &Scheme,
    secret: &Secret,
    now: UnixTime,
) -> Outcome {
    let other;
    let secret = if fault == Fault::OtherSecret {
        other = another(secret)?;
        &other
    } else {
        secret
    };
    let at = if fault == Fault::Old {
        UnixTime::from_secs(now.secs() - 86_400)
    } else {
        now
    };
    if fault != Fault::Unsigned {
        let signed = draft.sign(scheme, secret, at)?;
        draft.with(signed);
    }
    if fault == Fault::Tampered {
        match draft.body.last_mut() {
            Some(last) => *last ^= 1,
            None => draft.body.push(b' '),
        }
    }
    Ok(())
}

/// A secret of the same form: one letter is another, which hex, base64 and text all bear.
fn another(secret: &Secret) -> Result<Secret, Failure> {
    let mut bytes = secret.expose().to_vec();
    if bytes.starts_with(b"-----BEGIN") {
        return Err(Failure::Usage(
            "another private key is not made up: name one with `--secret-file`".into(),
        ));
    }
    // Behind any prefix, before any padding.
    let place = bytes.len() * 3 / 4;
    if let Some(letter) = bytes.get_mut(place) {
        *letter = if letter.eq_ignore_ascii_case(&b'a') {
            b'B'
        } else {
            b'A'
        };
    }
    Ok(Secret::new(bytes)?)
}

pub(super) fn run(args: &Args) -> Outcome {
    let now = SystemClock.now();
    let signer = args.signer.signer(now, &args.body)?;
    let secret = signer.secret()?;
    let public = args.public_url.as_ref().unwrap_or(&args.url);
    let mut draft = Draft::of(&read(&args.body)?)
        .with_url(Some(public))
        .with_id(&signer.scheme, args.id.as_ref())?
        // What is signed is what is sent.
        .with_target(&args.url.uri);
    draft.method = args.method.clone();
    draft.key_id = args.key_id.clone();
    draft.headers.extend(args.headers.iter().cloned());
    draft
        .headers
        .entry(header::CONTENT_TYPE)
        .or_insert(args.content_type.clone());
    deliver_with(args.fault, &mut draft, &signer.scheme, secret, now)?;
    let answer = block_on(client::request(&args.url.uri, args.ca.clone(), draft))??;
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
