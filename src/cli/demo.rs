//! `countersign demo`: the whole product on one screen, with throw-away certificate and secret.

use std::{
    convert::Infallible,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Failure, Outcome, client,
    draft::Draft,
    print,
    send::{Fault, deliver_with},
};
use crate::{
    assemble,
    clock::{Clock as _, SystemClock},
    config::{self, Flags, Source},
    pipeline::Gateway,
    scheme::catalogue,
    secret::Secret,
    server::{Server, stop_on_signals},
    telemetry::LogSink,
};

/// An invented patient case, as CareValidate sends one.
const DELIVERY: &[u8] = include_bytes!("demo-delivery.json");

/// What answers to duplicates bear.
const DUPLICATE: &str = "countersign-duplicate";

const PATH: &str = "/webhooks/carevalidate";

#[derive(clap::Args)]
pub(super) struct Args {
    /// End after the table; the exit code says whether everything was as it should be
    #[arg(long)]
    once: bool,
}

/// What the upstream saw of one request.
struct Seen {
    body: Bytes,
    mark: Option<String>,
}

type Inbox = Arc<Mutex<Vec<Seen>>>;

/// What should become of a delivery.
#[derive(Clone, Copy)]
enum Expected {
    Forwarded,
    Refused,
    Duplicate,
}

pub(super) fn run(args: &Args) -> Outcome {
    let folder = tempfile::Builder::new()
        .prefix("countersign-demo-")
        .tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(demo(folder.path(), args.once));
    runtime.shutdown_background();
    outcome
}

async fn demo(folder: &Path, once: bool) -> Outcome {
    let secret = random_secret()?;
    let inbox = Inbox::default();
    let upstream = start_upstream(inbox.clone()).await?;
    let config = write_files(folder, &secret, upstream)?;
    let loaded =
        config::load(&Source::File(config), &[], &Flags::default()).map_err(Failure::Config)?;
    let (gateway, _) = assemble::gateway(&loaded.config, LogSink::to(io::sink())?)?;
    let gateway: Arc<Gateway> = Arc::new(gateway);
    let server = Server::bind(&loaded.config, gateway)?;
    let (stopping, hurry) = (server.stopping(), CancellationToken::new());
    let address = server
        .addresses()
        .into_iter()
        .next()
        .context("the gateway listens nowhere")?;
    let url: Uri = format!("https://{address}{PATH}").parse()?;
    stop_on_signals(stopping.clone(), hurry.clone())?;
    let serving = tokio::spawn(server.run(hurry));

    print(format_args!(
        "\n  sender --TLS--> countersign https://{address} --> upstream http://{upstream} (echoes)\n\n  {:<28} {:<18} {}\n",
        "delivery", "sender got", "upstream saw"
    ))?;
    let secret = Secret::new(secret.into_bytes())?;
    let mut as_it_should_be = true;
    for (title, fault, expected) in [
        ("genuine", Fault::None, Expected::Forwarded),
        (
            "tampered, one bit changed",
            Fault::Tampered,
            Expected::Refused,
        ),
        ("unsigned", Fault::Unsigned, Expected::Refused),
        (
            "signed with another secret",
            Fault::OtherSecret,
            Expected::Refused,
        ),
        ("the genuine one again", Fault::None, Expected::Duplicate),
    ] {
        let (answer, seen) = deliver(&url, folder, &secret, &inbox, fault).await?;
        let status = answer.status;
        let is_duplicate = answer.headers.contains_key(DUPLICATE);
        let right = match expected {
            Expected::Forwarded => {
                status == StatusCode::OK
                    && !is_duplicate
                    && matches!(&seen[..], [Seen { body, mark: Some(_) }] if body == DELIVERY)
            }
            Expected::Refused => status == StatusCode::UNAUTHORIZED && seen.is_empty(),
            Expected::Duplicate => status == StatusCode::OK && is_duplicate && seen.is_empty(),
        };
        as_it_should_be &= right;
        let saw = match &seen[..] {
            [] => "nothing".to_owned(),
            [Seen { body, mark }] => format!(
                "{} bytes, {}, {}",
                body.len(),
                if body == DELIVERY {
                    "unchanged"
                } else {
                    "CHANGED"
                },
                mark.as_ref().map_or_else(
                    || "no mark".to_owned(),
                    |mark| format!("Countersign-Verified: {mark}")
                )
            ),
            more => format!("{} requests", more.len()),
        };
        print(format_args!(
            "  {title:<28} {:<18} {saw}{}\n",
            if is_duplicate {
                format!("{status}, duplicate")
            } else {
                status.to_string()
            },
            if right { "" } else { "   <-- WRONG" }
        ))?;
    }
    let verdict = if as_it_should_be {
        "Everything is as it should be."
    } else {
        "This is NOT as it should be."
    };
    print(format_args!("\n  {verdict}\n"))?;
    if !once {
        by_hand(&url, folder)?;
        stopping.cancelled().await;
    }
    stopping.cancel();
    serving.await?;
    if as_it_should_be {
        Ok(())
    } else {
        Err(Failure::Negative)
    }
}

/// Sends one delivery; answers what the sender and the upstream saw of it.
async fn deliver(
    url: &Uri,
    folder: &Path,
    secret: &Secret,
    inbox: &Inbox,
    fault: Fault,
) -> Result<(client::Answer, Vec<Seen>), Failure> {
    let scheme = catalogue::compile("carevalidate", &Default::default())
        .map_err(|_| anyhow::anyhow!("the catalogue lacks carevalidate"))?;
    let mut draft = Draft::of(DELIVERY).with_target(url);
    draft.headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    deliver_with(fault, &mut draft, &scheme, secret, SystemClock.now())?;
    let answer = client::request(url, Some(folder.join("certificate.pem")), draft).await?;
    let seen = std::mem::take(&mut *inbox.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((answer, seen))
}

/// An application that knows nothing of signatures: it echoes the body and notes what came.
async fn start_upstream(inbox: Inbox) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    drop(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let inbox = inbox.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let inbox = inbox.clone();
                async move {
                    let mark = request
                        .headers()
                        .get("countersign-verified")
                        .and_then(|mark| mark.to_str().ok())
                        .map(str::to_owned);
                    let body = request
                        .into_body()
                        .collect()
                        .await
                        .map(|body| body.to_bytes())
                        .unwrap_or_default();
                    let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
                    // While people try it by hand nobody empties it.
                    inbox.clear();
                    inbox.push(Seen {
                        body: body.clone(),
                        mark: mark.clone(),
                    });
                    let mut response = Response::new(Full::new(body));
                    if let Some(mark) = mark.and_then(|mark| HeaderValue::try_from(mark).ok()) {
                        response.headers_mut().insert("upstream-saw-mark", mark);
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            drop(tokio::spawn(
                http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            ));
        }
    }));
    Ok(address)
}

/// Writes what an operator would have: certificate, key, secret, configuration. Answers the configuration's path.
fn write_files(folder: &Path, secret: &str, upstream: SocketAddr) -> anyhow::Result<PathBuf> {
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    fs::write(folder.join("certificate.pem"), certified.cert.pem())?;
    fs::write(
        folder.join("key.pem"),
        certified.signing_key.serialize_pem(),
    )?;
    fs::write(folder.join("secret"), secret)?;
    // Another case than the one that was delivered: the replay guard knows that one.
    let by_hand = String::from_utf8_lossy(DELIVERY).replace("TST-99DF7", "TST-99DF8");
    fs::write(folder.join("delivery.json"), by_hand)?;
    let config = folder.join("countersign.toml");
    fs::write(
        &config,
        format!(
            r#"[server]
listen = ["127.0.0.1:0"]
admin  = "off"

[server.tls]
certificate = "certificate.pem"
private_key = "key.pem"

[[route]]
name     = "cases"
path     = "{PATH}"
scheme   = "carevalidate"
secrets  = [{{ id = "demo", file = "secret" }}]
upstream = "http://{upstream}"
replay   = "24h"
"#
        ),
    )?;
    Ok(config)
}

/// Commands to go on with.
fn by_hand(url: &Uri, folder: &Path) -> Outcome {
    let folder = folder.display();
    print(format_args!(
        r#"
  Now by hand, in a second terminal. The files are in {folder}:
  countersign.toml, the certificate and its key, the secret, and delivery.json.

  cd '{folder}'
  signature=$(openssl dgst -sha256 -hmac "$(cat secret)" delivery.json | sed 's/.* //')

  # accepted: the echo comes back, with the mark that the upstream saw
  curl -i --cacert certificate.pem -H "x-cv-signature: $signature" --data-binary @delivery.json {url}; echo

  # the same again: a duplicate, of which the upstream sees nothing
  curl -i --cacert certificate.pem -H "x-cv-signature: $signature" --data-binary @delivery.json {url}; echo

  # refused: one more byte
  (cat delivery.json; echo) | curl -i --cacert certificate.pem -H "x-cv-signature: $signature" --data-binary @- {url}

  # a forged mark does not help
  curl -i --cacert certificate.pem -H "Countersign-Verified: yes" --data-binary @delivery.json {url}

  Ctrl-C ends the demo and removes the files.
"#
    ))
}

/// 32 random bytes as text.
fn random_secret() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}
