//! The step for handshakes: answers what a provider's file describes, and lets everything else go on as a delivery.
//!
//! Requests that are not signed are looked at before anything else of the route, and are answered here or, where the operator
//! wrote so, go on without a body and without the mark. Those that are signed are looked at once they are verified.
//!
//! What only a handshake needs is in a box: it would else make the future of every request larger, and each is moved and cleared.

use std::{fs, io, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use hyper::body::Body as _;

use crate::{
    body::BodyStore,
    clock::UnixTime,
    fetch::Fetcher,
    receive::{self, Pace, Received},
    reject::Rejection,
    route::{KeyRef, Route},
    scheme::{
        Claim, HANDSHAKE_BODY_MAX, Handshake, HandshakeAnswer, HandshakeFault, HandshakeKind,
        HandshakeMode, HandshakeReply,
    },
    secret::Secret,
    verify::{Standing, Verified},
};

/// What becomes of an unsigned handshake.
pub enum Unsigned {
    /// This is its answer.
    Answer(HandshakeAnswer),
    /// It goes to the upstream, with a claim of nothing.
    Forward(Claim),
}

/// Looks whether an unsigned request is a handshake by its head. `None`: it is a delivery, or its body tells.
///
/// # Errors
/// If it is one, and may not be answered or forwarded.
pub async fn of_head(
    route: &Route,
    received: &Received<'_>,
    keys: &[usize],
    kind: &mut Option<HandshakeKind>,
) -> Result<Option<Unsigned>, Rejection> {
    let Some(handshake) = route.scheme.handshake_of_head(received.head.view(None)) else {
        return Ok(None);
    };
    if route.scheme.handshake_mode() == HandshakeMode::Answer {
        *kind = Some(handshake.kind());
        let key = keys.first().copied();
        let answer = Box::pin(answer(route, handshake, key, received.at)).await?;
        return Ok(Some(Unsigned::Answer(answer)));
    }
    // A body that nobody signed is not forwarded: then it has to verify as any delivery.
    if !received.body.is_end_stream() {
        return Ok(None);
    }
    *kind = Some(handshake.kind());
    handshake.check().map_err(rejection)?;
    if keys.is_empty() && route.fetching.is_none() {
        return Err(Rejection::NoUsableSecret);
    }
    Ok(Some(Unsigned::Forward(Claim::of_nothing(received.at))))
}

/// Looks whether a request that bears no signature is a handshake by its body, which may only be short. `None`: it is not, or
/// not in a way that can be answered.
///
/// # Errors
/// If it is one, and may not be answered, or if its body does not come.
pub async fn of_body(
    route: &Route,
    received: Received<'_>,
    bodies: &BodyStore,
    pace: Pace,
    kind: &mut Option<HandshakeKind>,
) -> Result<Option<HandshakeAnswer>, Rejection> {
    let Received { head, body, at, .. } = received;
    if !route.scheme.may_be_handshake(head.view(None)) {
        return Ok(None);
    }
    // Few come so far: a request has no room for it.
    let short = Box::pin(async {
        let body = receive::collect_short(body, HANDSHAKE_BODY_MAX, bodies, pace);
        let Some(body) = body.await? else {
            return Ok(None);
        };
        let view = head.view(None);
        let Some(handshake) = route.scheme.handshake_of_body(view, body.as_ref()) else {
            return Ok(None);
        };
        *kind = Some(handshake.kind());
        let key = route.usable_keys(at).first().copied();
        answer(route, handshake, key, at).await.map(Some)
    });
    short.await
}

/// Looks whether a verified request is a handshake. `None`: it is a delivery.
///
/// # Errors
/// If it is one, and cannot be answered.
pub async fn of_verified(
    verified: &mut Verified<'_>,
    fetcher: Option<&Fetcher>,
    kind: &mut Option<HandshakeKind>,
) -> Result<Option<HandshakeAnswer>, Rejection> {
    let route = verified.route();
    let key = match verified.standing() {
        Standing::Proven(proof) => match proof.key() {
            KeyRef::Pinned(place) => Some(*place),
            KeyRef::Fetched(_) => None,
        },
        Standing::NotRequired | Standing::Handshake => return Ok(None),
        Standing::Observed(_) => return Box::pin(of_observed(verified, kind)).await,
    };
    if route.scheme.handshake_mode() == HandshakeMode::Forward
        || verified.body_bytes() > HANDSHAKE_BODY_MAX
        || !route.scheme.may_be_verified_handshake(verified.head())
    {
        return Ok(None);
    }
    Box::pin(of_verified_body(verified, key, fetcher, kind)).await
}

/// What [`of_body`] does, for a request that is here whole because its route lets it pass unsigned.
async fn of_observed(
    verified: &mut Verified<'_>,
    kind: &mut Option<HandshakeKind>,
) -> Result<Option<HandshakeAnswer>, Rejection> {
    let (route, at) = (verified.route(), verified.at());
    if verified.body_bytes() > HANDSHAKE_BODY_MAX || !route.scheme.may_be_handshake(verified.head())
    {
        return Ok(None);
    }
    let body = verified.whole_body().await.map_err(Rejection::Store)?;
    let handshake = route
        .scheme
        .handshake_of_body(verified.head(), body.as_ref());
    let Some(handshake) = handshake else {
        return Ok(None);
    };
    *kind = Some(handshake.kind());
    let key = route.usable_keys(at).first().copied();
    answer(route, handshake, key, at).await.map(Some)
}

async fn of_verified_body(
    verified: &mut Verified<'_>,
    key: Option<usize>,
    fetcher: Option<&Fetcher>,
    kind: &mut Option<HandshakeKind>,
) -> Result<Option<HandshakeAnswer>, Rejection> {
    let route = verified.route();
    let body = verified.whole_body().await.map_err(Rejection::Store)?;
    let handshake = route
        .scheme
        .verified_handshake(verified.head(), body.as_ref());
    let Some(handshake) = handshake else {
        return Ok(None);
    };
    *kind = Some(handshake.kind());
    handshake.check().map_err(rejection)?;
    if let Some(url) = handshake.confirmation().map_err(rejection)? {
        let Some(fetcher) = fetcher else {
            return Ok(None);
        };
        if !route.challenges.admit(verified.at()) {
            return Err(Rejection::TooManyChallenges);
        }
        fetcher.confirm(url).await?;
    }
    answer(route, handshake, key, verified.at()).await.map(Some)
}

async fn answer(
    route: &Route,
    handshake: Handshake<'_>,
    key: Option<usize>,
    at: UnixTime,
) -> Result<HandshakeAnswer, Rejection> {
    if handshake.needs_key() {
        if key.is_none() {
            return Err(Rejection::NoUsableSecret);
        }
        if !route.challenges.admit(at) {
            return Err(Rejection::TooManyChallenges);
        }
    }
    let key = key
        .and_then(|place| route.keys.get(place))
        .map(|key| &key.key);
    match handshake.reply(key).map_err(rejection)? {
        HandshakeReply::Answer(answer) => Ok(answer),
        HandshakeReply::Pair(secret, answer) => {
            pair(route, secret, at).await?;
            Ok(answer)
        }
    }
}

fn rejection(fault: HandshakeFault) -> Rejection {
    match fault {
        HandshakeFault::Refused(status) => Rejection::HandshakeRefused { status },
        HandshakeFault::Challenge => Rejection::HandshakeMalformed,
        HandshakeFault::Key => Rejection::NoUsableSecret,
    }
}

/// Keeps a secret that a request brought: once, while the operator has opened pairing, on a route that has none.
async fn pair(route: &Route, secret: Secret, at: UnixTime) -> Result<(), Rejection> {
    let open = |pairing: &&crate::config::PairingConfig| at < pairing.until;
    let Some(pairing) = route.pairing.as_ref().filter(open) else {
        return Err(Rejection::PairingClosed);
    };
    if !route.usable_keys(at).is_empty() {
        return Err(Rejection::PairingClosed);
    }
    let file = pairing.file.clone();
    let written = tokio::task::spawn_blocking(move || write_new(&file, &secret)).await;
    match written.map_err(io::Error::other).flatten() {
        Ok(()) => {
            tracing::warn!(
                route = route.name,
                file = %pairing.file.display(),
                "a handshake brought the secret of the route; it is used from the next reload on, by server.reload_interval or SIGHUP"
            );
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Rejection::PairingClosed),
        Err(error) => Err(Rejection::PairingFailed(error)),
    }
}

/// Writes a file that is not there yet and that only its owner may read.
fn write_new(path: &Path, secret: &Secret) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = file
        .write_all(secret.expose())
        .and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a secret would close the way for a whole one.
        let _ = fs::remove_file(path);
    }
    written
}
