//! Routes: which requests go together with which scheme, secrets and limits.

use std::{
    collections::HashMap,
    io::Write as _,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use smallvec::SmallVec;

use crate::{
    clock::UnixTime,
    config::{
        GuardConfig, PairingConfig, PathPattern, PublicUrl, RouteConfig, SecretConfig,
        ThrottleConfig,
    },
    limit::{Bucket, Excess, Place, Rate, Throttle},
    scheme::{HandshakeMode, Key, RequestHead, Scheme},
    secret::Secret,
};

/// One route, ready to serve.
pub struct Route {
    /// Its place in the [`RouteTable`]: what other tables are indexed by.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// How its sender signs.
    pub scheme: Scheme,
    /// Its usable secrets, made into keys. Empty while none could be loaded.
    pub keys: Vec<RouteKey>,
    /// How its keys are fetched; `None`: they are not, or what that takes could not be loaded.
    pub fetching: Option<Fetching>,
    /// What cannot be used of its secrets, for people: which, why, and how to mend it.
    pub unusable: Vec<String>,
    /// Largest body in bytes.
    pub body_bytes_max: u64,
    /// Status for every signature failure.
    pub reject_status: StatusCode,
    /// The address that the sender has, if the operator says it.
    pub public_url: Option<PublicUrl>,
    /// Where a secret goes that arrives in a handshake, and until when.
    pub pairing: Option<PairingConfig>,
    /// How duplicates are recognised; `None`: they are not.
    pub guard: Option<GuardConfig>,
    /// How often challenges are signed, and addresses got that requests name.
    pub challenges: Arc<ChallengeRate>,
    /// What of its limits is used up.
    pub throttle: Arc<Throttle>,
    limits: ThrottleConfig,
    observe_until: Option<UnixTime>,
    methods: Vec<Method>,
    allow: HeaderValue,
}

/// What fetching a route's keys takes.
pub struct Fetching {
    /// What the key server wants to see.
    pub secret: Option<Secret>,
}

/// Which key a signature was made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRef {
    /// The one at this place of [`Route::keys`].
    Pinned(usize),
    /// One that was fetched, by its name: the id in its document, or the document's address. Printable ASCII without `"` and `\`.
    Fetched(Arc<str>),
}

/// Places in [`Route::keys`]: two as a rule at most, while an old secret goes out.
pub type KeyPlaces = SmallVec<[usize; 2]>;

/// The keys that a check has, in its order.
pub enum CheckedKeys {
    /// Those at these places of [`Route::keys`].
    Pinned(KeyPlaces),
    /// Fetched ones, by their names.
    Fetched(Vec<Arc<str>>),
}

impl CheckedKeys {
    /// The key at this place.
    pub fn get(&self, place: usize) -> Option<KeyRef> {
        match self {
            Self::Pinned(places) => places.get(place).copied().map(KeyRef::Pinned),
            Self::Fetched(names) => names.get(place).cloned().map(KeyRef::Fetched),
        }
    }
}

/// A secret of a route, made into a key.
pub struct RouteKey {
    /// The key id.
    pub id: String,
    /// The key.
    pub key: Key,
    /// The mark's value up to the time: scheme, route and key id.
    pub mark_prefix: String,
    not_before: Option<UnixTime>,
    not_after: Option<UnixTime>,
}

impl Route {
    /// Puts a checked configuration and its loaded keys together.
    pub fn new(index: usize, config: &RouteConfig, keys: Vec<RouteKey>) -> Self {
        let mut allow: Vec<_> = config.methods.iter().map(Method::as_str).collect();
        for method in config.scheme.handshake_methods().map(Method::as_str) {
            if !allow.contains(&method) {
                allow.push(method);
            }
        }
        Self {
            index,
            name: config.name.clone(),
            keys,
            fetching: None,
            unusable: Vec::new(),
            body_bytes_max: config.body_bytes_max,
            reject_status: config.reject_status,
            public_url: config.public_url.clone(),
            scheme: config.scheme.clone(),
            allow: HeaderValue::from_str(&allow.join(", "))
                .unwrap_or(HeaderValue::from_static("POST")),
            methods: config.methods.clone(),
            pairing: config.pairing.clone(),
            guard: config.guard.clone(),
            challenges: Arc::default(),
            throttle: Arc::default(),
            limits: config.throttle.clone(),
            observe_until: config.observe_until,
        }
    }

    /// Whether the route takes the method, for deliveries or handshakes; if not, what `Allow` says.
    ///
    /// # Errors
    /// The value for `Allow`.
    pub fn check_method(&self, method: &Method) -> Result<(), HeaderValue> {
        let handshakes = || self.scheme.handshake_methods().any(|own| own == method);
        if self.takes(method) || handshakes() {
            Ok(())
        } else {
            Err(self.allow.clone())
        }
    }

    /// Whether deliveries may come by the method.
    pub fn takes(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }

    /// Whether requests may come from this address; an unknown one is on no list.
    pub fn allows(&self, sender: Option<IpAddr>) -> bool {
        let listed = |sender| self.limits.allow.iter().any(|net| net.contains(&sender));
        self.limits.allow.is_empty() || sender.is_some_and(listed)
    }

    /// Counts a request of a sender, whatever becomes of it.
    ///
    /// # Errors
    /// [`Excess::OfSender`]
    pub fn count_sender(&self, sender: Option<IpAddr>, now: Instant) -> Result<(), Excess> {
        let rate = self.limits.sender_rate;
        rate.map_or(Ok(()), |rate| self.throttle.count_sender(sender, rate, now))
    }

    /// Counts a request that is to be taken in, and gives it a place if those are limited.
    ///
    /// # Errors
    /// [`Excess::AtOnce`] or [`Excess::OfAll`]
    pub fn count(&self, now: Instant) -> Result<Option<Place>, Excess> {
        let (concurrency, rate) = (self.limits.concurrency, self.limits.rate);
        // The place first: who finds none has used up nothing of the rate.
        let place = concurrency.map(|most| self.throttle.place(most));
        let place = place.transpose()?;
        rate.map_or(Ok(()), |rate| self.throttle.count(rate, now))?;
        Ok(place)
    }

    /// Whether what does not verify is forwarded all the same, without the mark.
    pub fn observes(&self, now: UnixTime) -> bool {
        self.observe_until.is_some_and(|until| now < until)
    }

    /// Until when [`Self::observes`] holds, if ever.
    pub fn observe_until(&self) -> Option<UnixTime> {
        self.observe_until
    }

    /// Whether a request of this head, without a body, goes to the upstream although it is not signed.
    pub fn forwards_handshake(&self, head: RequestHead<'_>) -> bool {
        self.scheme.handshake_mode() == HandshakeMode::Forward
            && self
                .scheme
                .handshake_of_head(head)
                .is_some_and(|handshake| handshake.check().is_ok())
    }

    /// Whether there can be no key to verify with, so that the route is out of service.
    pub fn is_closed(&self) -> bool {
        self.scheme.needs_secret() && self.keys.is_empty() && self.fetching.is_none()
    }

    /// What a key is called.
    pub fn key_id<'k>(&'k self, key: &'k KeyRef) -> &'k str {
        match key {
            KeyRef::Pinned(place) => self.keys.get(*place).map_or("", |key| &key.id),
            KeyRef::Fetched(name) => name,
        }
    }

    /// The mark's value, for a request that came at that time.
    pub fn mark(&self, key: &KeyRef, at: UnixTime) -> Vec<u8> {
        let fetched;
        let prefix = match key {
            KeyRef::Pinned(place) => &self.keys[*place].mark_prefix,
            KeyRef::Fetched(name) => {
                fetched = mark_prefix(self.scheme.name(), &self.name, name);
                &fetched
            }
        };
        let mut mark = Vec::with_capacity(prefix.len() + 20);
        mark.extend_from_slice(prefix.as_bytes());
        // Nothing can fail: it is written to memory.
        let _ = write!(mark, "{}", at.secs());
        mark
    }

    /// Places in [`Self::keys`] of those valid at `now`.
    pub fn usable_keys(&self, now: UnixTime) -> KeyPlaces {
        let usable = |key: &RouteKey| {
            key.not_before.is_none_or(|from| from <= now)
                && key.not_after.is_none_or(|until| now < until)
        };
        (0..self.keys.len())
            .filter(|place| usable(&self.keys[*place]))
            .collect()
    }
}

impl RouteKey {
    /// Puts a configured secret's description and the key made of it together.
    pub fn new(route: &RouteConfig, secret: &SecretConfig, key: Key) -> Self {
        Self {
            mark_prefix: mark_prefix(route.scheme.name(), &route.name, &secret.id),
            id: secret.id.clone(),
            key,
            not_before: secret.not_before,
            not_after: secret.not_after,
        }
    }
}

/// How often a route signs the challenges of strangers, or gets an address to confirm it.
const CHALLENGE_RATE: Rate = Rate::new(Duration::from_secs(1), 20);

/// What is left of the rate of challenges: twenty at once, and one a second.
#[derive(Debug, Default)]
pub struct ChallengeRate(Bucket);

impl ChallengeRate {
    /// Takes one, if there is one left.
    pub fn admit(&self, now: UnixTime) -> bool {
        let now = Duration::from_millis(u64::try_from(now.millis()).unwrap_or(0));
        self.0.take(CHALLENGE_RATE, now).is_ok()
    }
}

fn mark_prefix(scheme: &str, route: &str, key: &str) -> String {
    format!("{scheme};route=\"{route}\";key=\"{key}\";t=")
}

/// A header's name as CGI, WSGI, Rack and PHP see it: lower case, and `_` for all but letters and digits.
pub fn fold(name: &HeaderName) -> String {
    name.as_str()
        .bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                byte.to_ascii_lowercase() as char
            } else {
                '_'
            }
        })
        .collect()
}

/// All routes, found in a few look-ups whatever their number.
#[derive(Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    by_host: HashMap<String, Paths>,
    any_host: Paths,
}

#[derive(Default)]
struct Paths {
    exact: HashMap<String, usize>,
    /// Keys end in `/`.
    prefix: HashMap<String, usize>,
}

impl RouteTable {
    /// Takes routes with the host and path of each. The configuration has made sure that no two are the same.
    pub fn new(routes: impl IntoIterator<Item = (Option<String>, PathPattern, Route)>) -> Self {
        let mut table = Self::default();
        for (host, path, route) in routes {
            let paths = match host {
                Some(host) => table.by_host.entry(host).or_default(),
                None => &mut table.any_host,
            };
            match path {
                PathPattern::Exact(path) => paths.exact.insert(path, table.routes.len()),
                PathPattern::Prefix(path) => paths.prefix.insert(path, table.routes.len()),
            };
            table.routes.push(route);
        }
        table
    }

    /// All routes, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// The route at a place.
    pub fn get(&self, index: usize) -> Option<&Route> {
        self.routes.get(index)
    }

    /// The route for a host (lower case, no port) and a raw path: a route for this host before one for any, the exact path
    /// before a prefix, the longer prefix before the shorter.
    pub fn find(&self, host: &str, target: &Uri) -> Option<&Route> {
        let path = target.path();
        let named = self.by_host.get(host).and_then(|paths| paths.find(path));
        named
            .or_else(|| self.any_host.find(path))
            .map(|place| &self.routes[place])
    }
}

impl Paths {
    fn find(&self, path: &str) -> Option<usize> {
        if let Some(place) = self.exact.get(path) {
            return Some(*place);
        }
        if self.prefix.is_empty() || !is_plain(path) {
            return None;
        }
        let mut end = path.len();
        while let Some(slash) = path[..end].rfind('/') {
            if let Some(place) = self.prefix.get(&path[..=slash]) {
                return Some(*place);
            }
            end = slash;
        }
        None
    }
}

/// Whether every reader sees the same path: below a prefix an upstream could otherwise walk out of it.
fn is_plain(path: &str) -> bool {
    path.as_bytes()
        .split(|byte| *byte == b'/')
        .all(|segment| !matches!(segment, b"." | b"..") && reads_one_way(segment))
}

fn reads_one_way(mut segment: &[u8]) -> bool {
    while let [byte, rest @ ..] = segment {
        match (byte, rest) {
            (b'\\' | b';' | 0, _) => return false,
            // `.`, `/`, `\`, NUL, and `%` itself, which a second decoding would open.
            (b'%', [b'2', b'e' | b'E' | b'f' | b'F' | b'5', ..])
            | (b'%', [b'5', b'c' | b'C', ..] | [b'0', b'0', ..]) => return false,
            _ => segment = rest,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> Paths {
        let mut paths = Paths::default();
        paths.exact.insert("/a".into(), 0);
        paths.prefix.insert("/a/".into(), 1);
        paths.prefix.insert("/a/b/".into(), 2);
        paths
    }

    #[test]
    fn exact_before_prefix_and_longest_prefix_first() {
        let paths = paths();
        for (path, want) in [
            ("/a", Some(0)),
            ("/a/", Some(1)),
            ("/a/x", Some(1)),
            ("/a/b", Some(1)),
            ("/a/b/", Some(2)),
            ("/a/b/c/d", Some(2)),
            ("/ab", None),
            ("/", None),
            ("/A", None),
        ] {
            assert_eq!(paths.find(path), want, "{path}");
        }
    }

    #[test]
    fn refuses_paths_below_a_prefix_that_readers_read_differently() {
        let paths = paths();
        for path in [
            "/a/../x",
            "/a/./x",
            "/a/%2e%2e/x",
            "/a/%2E./x",
            "/a/x%2fy",
            "/a/x%5Cy",
            "/a/x;y",
            "/a/x\\y",
            "/a/%00",
            "/a/%252e%252e/x",
            "/a/..",
        ] {
            assert_eq!(paths.find(path), None, "{path}");
        }
        for path in ["/a/..x", "/a/x.y", "/a/%20", "/a/%7e"] {
            assert_eq!(paths.find(path), Some(1), "{path}");
        }
    }

    #[test]
    fn challenges_are_signed_at_a_bounded_rate_whatever_the_clock_does() {
        let rate = ChallengeRate::default();
        let at = UnixTime::from_millis;
        let taken = |now| (0..100).filter(|_| rate.admit(at(now))).count();
        assert_eq!(taken(1_000_000), 20);
        assert_eq!(taken(1_000_999), 0);
        assert_eq!(taken(1_003_000), 3);
        assert_eq!(taken(9_000_000), 20);
        assert_eq!(taken(1_000_000), 20, "set back");
    }

    #[test]
    fn folds_as_cgi_does() {
        for name in [
            "Countersign-Verified",
            "countersign_verified",
            "countersign.verified",
            "COUNTERSIGN!VERIFIED",
        ] {
            assert_eq!(
                fold(&HeaderName::from_bytes(name.as_bytes()).unwrap()),
                "countersign_verified"
            );
        }
    }
}
