//! Keys that the operator did not pin: gets the documents that hold them, keeps them, and asks for them seldom.
//!
//! Which document holds the key of a request, and which keys are in it, [`crate::scheme`] says; whether one of them made the
//! signature, [`crate::verify`]. This module keeps what must hold between the two, however many requests are forged: one fetch
//! of a document at a time, pauses between them, few lookups of what only a request names, and nothing but public addresses.

mod address;
mod cache;
mod get;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::TrustAnchor;
use tokio::time::Instant;

use self::{
    cache::{Cache, Document, Id, Question, Step, Takeoff},
    get::{Client, FetchError},
};
use crate::{
    backoff::random,
    config::FetchConfig,
    receive::Unverified,
    reject::{Chain, Rejection, SignatureFault},
    route::Route,
    scheme::{FetchedDocument, FetchedKey, Key, KeyError, KeyRequest, Verdict},
    telemetry::KeyFetches,
};

/// How much of a key id that a request names is shown.
const KEY_ID_SHOWN: usize = 64;

/// Longest id of a key that is used as its name.
const KEY_ID_MAX: usize = 128;

/// Fetches and keeps documents, for all routes. Clones are the same one.
#[derive(Clone)]
pub struct Fetcher(Arc<Shared>);

struct Shared {
    client: Client,
    cache: Mutex<Cache>,
    fetches: KeyFetches,
}

/// Where a request's keys came from: a document, or the configuration.
pub struct Origin(Option<Arc<Document>>);

/// Why a document gives no key.
#[derive(Debug, thiserror::Error)]
enum DocumentError {
    #[error("the key document {url} cannot be had")]
    Fetch {
        url: String,
        #[source]
        source: Arc<FetchError>,
    },
    #[error("the key document {url}")]
    Key {
        url: String,
        #[source]
        source: KeyError,
    },
    #[error("the key document {url} holds no key that is called {id:?}")]
    Unknown { url: String, id: String },
}

impl Fetcher {
    /// Makes it ready; connects to nothing. Blocks on the file system.
    ///
    /// # Errors
    /// If there is no certificate authority to trust.
    pub fn new(config: &FetchConfig, fetches: KeyFetches) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Shared {
            client: Client::new(config)?,
            cache: Mutex::new(Cache::new(config.clone())),
            fetches,
        })))
    }

    /// Gets an address that a verified request named, so that its server sees somebody get it. What it holds does not matter.
    ///
    /// # Errors
    /// If it cannot be had, for whatever reason.
    pub async fn confirm(&self, url: String) -> Result<(), Rejection> {
        let wanted = KeyRequest {
            url,
            post: None,
            headers: Vec::new(),
            named: true,
            key_id: None,
        };
        // In a box: its state would else make every request's future larger.
        match Box::pin(self.0.client.get(&wanted)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Rejection::NotConfirmed(Box::new(error))),
        }
    }
}

/// Gives a request the keys of the document that it needs, if its route has no keys of its own.
///
/// Comes last before the verdict, because it costs the most: what else is wrong with the request is found first, without a fetch.
///
/// What is wrong with the signature, such as that there is no such key, is for [`crate::verify`] to say.
///
/// # Errors
/// The document cannot be had now, or the body cannot be looked into.
///
/// # Cancel safety
/// A fetch that was begun goes on, for whoever comes next.
pub async fn complete(
    request: &mut Unverified<'_>,
    fetcher: Option<&Fetcher>,
) -> Result<Origin, Rejection> {
    let route = request.route();
    let (Some(_), Some(fetcher)) = (&route.fetching, fetcher) else {
        return Ok(Origin(None));
    };
    // Such schemes look at the whole body: this is a handshake, which claims nothing.
    if request.whole().is_none() {
        return Ok(Origin(None));
    }
    // In a box: its state would else make every request's future larger.
    match Box::pin(fetcher.complete(request, route)).await {
        Ok(document) => Ok(Origin(Some(document))),
        // Not for this step to judge.
        Err(Rejection::NotVerified { fault, .. }) => {
            request.set_fault(fault);
            Ok(Origin(None))
        }
        Err(rejection) => Err(rejection),
    }
}

impl Origin {
    /// Tells that one of the keys verified: the document is worth more than what forged requests name.
    pub fn proved(&self) {
        if let Some(document) = &self.0 {
            document.proven.store(true, Ordering::Relaxed);
        }
    }
}

impl Fetcher {
    async fn complete(
        &self,
        request: &mut Unverified<'_>,
        route: &Route,
    ) -> Result<Arc<Document>, Rejection> {
        let not_verified = |fault| Rejection::NotVerified {
            fault,
            status: route.reject_status,
        };
        let of_claim = |error| not_verified(SignatureFault::Claim(error));
        let whole = request.whole().ok_or(Rejection::NoUsableSecret)?;
        request.judge().map_err(of_claim)?;
        let secret = route
            .fetching
            .as_ref()
            .and_then(|fetching| fetching.secret.as_ref());
        let wanted = route
            .scheme
            .key_request(&whole, secret)
            .map_err(of_claim)?
            .ok_or(Rejection::NoUsableSecret)?;
        let question = Question {
            id: identify(&wanted),
            route: &route.name,
            named: wanted.named,
            newer_than: None,
        };
        // What a request names and its server does not know is the request's fault; all else is not.
        let fault = |error: DocumentError| {
            let of_request = match &error {
                DocumentError::Fetch { source, .. } => {
                    wanted.named && matches!(**source, FetchError::Absent(_))
                }
                DocumentError::Key { .. } => wanted.named,
                DocumentError::Unknown { .. } => true,
            };
            match of_request {
                true => not_verified(SignatureFault::KeyUnknown(Box::new(error))),
                false => Rejection::KeyUnavailable(Box::new(error)),
            }
        };
        let unavailable = |source| {
            fault(DocumentError::Fetch {
                url: wanted.url.clone(),
                source,
            })
        };
        let mut document = self
            .document(question, &wanted, route)
            .await
            .map_err(unavailable)?;
        let roots = &self.0.client.roots().roots;
        let mut taken = take_keys(request, &wanted, &document, roots);
        if !matches!(taken, Ok(true)) {
            let newer = Question {
                newer_than: Some(&document),
                ..question
            };
            let newer = self
                .document(newer, &wanted, route)
                .await
                .map_err(unavailable)?;
            if !Arc::ptr_eq(&newer, &document) {
                document = newer;
                taken = take_keys(request, &wanted, &document, roots);
            }
        }
        taken.map_err(fault)?;
        Ok(document)
    }

    /// The document, from the cache or from its server.
    async fn document(
        &self,
        question: Question<'_>,
        wanted: &KeyRequest,
        route: &Route,
    ) -> Result<Arc<Document>, Arc<FetchError>> {
        let step = self.0.cache().ask(question, Instant::now());
        let mut flight = match step {
            Step::Take(document, takeoff) => {
                self.depart(takeoff, wanted, route);
                return Ok(document);
            }
            Step::Refuse(error) => {
                if matches!(*error, FetchError::Limited) {
                    self.0.fetches.count(&route.name, error.result());
                }
                return Err(error);
            }
            Step::Wait(flight, takeoff) => {
                self.depart(takeoff, wanted, route);
                flight
            }
        };
        let landed = match flight.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone(),
            Err(_) => None,
        };
        landed.unwrap_or_else(|| Err(Arc::new(FetchError::Dropped)))
    }

    /// Makes a fetch, in a task of its own: others wait for it too, and who began it may leave.
    fn depart(&self, takeoff: Option<Takeoff>, wanted: &KeyRequest, route: &Route) {
        let Some(takeoff) = takeoff else { return };
        let shared = self.0.clone();
        let (wanted, route) = (wanted.clone(), route.name.clone());
        drop(tokio::spawn(async move {
            let outcome = shared.client.get(&wanted).await;
            let result = outcome
                .as_ref()
                .map_or_else(FetchError::result, |_| "fetched");
            shared.fetches.count(&route, result);
            let landing = shared
                .cache()
                .land(&takeoff, outcome, random(), Instant::now());
            if takeoff.refresh
                && let Err(error) = &landing
            {
                // Requests go on with the old one, so none of them tells.
                tracing::warn!(
                    route,
                    url = wanted.url,
                    "a key document cannot be refreshed: {}",
                    Chain(&**error)
                );
            }
            // Nobody may wait any more.
            let _ = takeoff.tell.send(Some(landing));
        }));
    }
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the request the keys of a document. `false`: they did not make its signature, and newer ones might have.
fn take_keys(
    request: &mut Unverified<'_>,
    wanted: &KeyRequest,
    document: &Document,
    roots: &[TrustAnchor<'static>],
) -> Result<bool, DocumentError> {
    let url = || wanted.url.clone();
    let keys = request
        .route()
        .scheme
        .fetched_keys(&FetchedDocument {
            body: &document.body,
            roots,
            now: request.at(),
        })
        .map_err(|source| DocumentError::Key { url: url(), source })?;
    if let Some(id) = &wanted.key_id
        && !keys.iter().any(|key| key.is_named(id))
    {
        let id = id.chars().take(KEY_ID_SHOWN).collect();
        return Err(DocumentError::Unknown { url: url(), id });
    }
    let (names, keys) = named_keys(keys, &wanted.url);
    request.set_fetched_keys(names, &keys);
    // Where nothing says which key it was, only the signature tells whether the document is too old.
    Ok(
        wanted.named
            || wanted.key_id.is_some()
            || !matches!(request.judge(), Ok(Verdict::Mismatch)),
    )
}

/// The keys, each with its name for log and mark: its id, or the document's address if it has none that can stand there.
fn named_keys(keys: Vec<FetchedKey>, url: &str) -> (Vec<Arc<str>>, Vec<Key>) {
    // What a string of RFC 8941 can hold as it is.
    let plain = |text: &&str| {
        let fits = |byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        !text.is_empty() && text.bytes().all(fits)
    };
    let of_document = Some(url).filter(plain).unwrap_or("fetched");
    keys.into_iter()
        .map(|key| {
            let id = key.id.as_deref().filter(plain);
            let id = id.filter(|id| id.len() <= KEY_ID_MAX);
            (id.unwrap_or(of_document).into(), key.key)
        })
        .unzip()
}

/// All that is sent for a document, as one digest: it may hold a secret, which is not to be kept here.
fn identify(wanted: &KeyRequest) -> Id {
    let mut digest = Context::new(&SHA256);
    let mut add = |text: &str| {
        digest.update(&(text.len() as u64).to_be_bytes());
        digest.update(text.as_bytes());
    };
    add(&wanted.url);
    add(wanted.post.as_deref().unwrap_or_default());
    for (name, value) in &wanted.headers {
        add(name.as_str());
        add(value);
    }
    let mut id = Id::default();
    id.copy_from_slice(digest.finish().as_ref());
    id
}
