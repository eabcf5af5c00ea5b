//! The store in Redis or Valkey, which several instances share.
//!
//! One key per delivery, so a cluster can hold it: its value says who has the delivery under a lease, or that it succeeded, and the key
//! expires when the lease lapses or the window is over. Each question is one script on that key, so it is one round trip and nothing comes
//! between reading and writing.
//!
//! The token of a lease is 64 random bits, made here and not by a counter in the store: a question whose answer was lost can then be
//! asked again, and finds its own lease instead of somebody else's. It also survives a store that forgot its counter.
//!
//! One connection carries all questions at once. A task of its own opens it, looks after it and opens it anew: [`Link`]. While there is
//! none to be had, questions fail at once, and that task alone tries: after a pause that grows and is never the same on two instances.
//! Where Sentinels choose the master, it asks them before it connects, and every few seconds whether it is still the same.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo as _, RedisConnectionInfo, RedisError, RedisResult, ServerErrorKind,
    TlsCertificates, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
};
use sha1::{Digest as _, Sha1};
use tokio::{
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::{
    sentinel::{Address, Sentinels},
    store::{Admission, Id, Settlement, Token},
};
use crate::{
    backoff::Pauses,
    config::{OnStoreFailure, RedisConfig, RedisServers, RedisTls},
    reject::Chain,
    secret::Secret,
    telemetry::ReplayMetrics,
};

/// For one attempt to connect: name, TCP, TLS, login and a first answer.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// So many questions in a row without an answer, and the connection is given up.
const UNANSWERED_MAX: u32 = 5;

/// Pauses between attempts to connect: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// A connection that lived so long was a good one: the next pause is the first again.
const STEADY: Duration = Duration::from_secs(10);

/// An idle connection is tried so often, so that its loss shows before a delivery has to find out.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// A settlement that got no answer is tried again for so long.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(60);

/// So many settlements and releases wait for the store at most; the leases of others lapse.
const WAITING_MAX: usize = 10_000;

/// Questions that wait to be written to one connection.
const QUEUE: usize = 1024;

/// Reserves: 0. Somebody has it: minus the milliseconds until the lease lapses. It succeeded: the status. Nothing of ours: nil.
///
/// ARGV: what the lease looks like, its milliseconds.
const ADMIT: &str = "\
local held = redis.call('GET', KEYS[1])
if not held or held == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 0
end
local status = string.match(held, '^succeeded (%d%d%d)$')
if status then return tonumber(status) end
if string.sub(held, 1, 7) ~= 'leased ' then return false end
return -math.max(1, redis.call('PTTL', KEYS[1]))
";

/// Records a success, unless somebody else has the delivery under a lease, or one is recorded.
///
/// ARGV: what the lease looks like, what the outcome looks like, the milliseconds of the window.
const SUCCEED: &str = "\
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
";

/// Gives a lease back, if it is still there.
///
/// ARGV: what the lease looks like.
const FAIL: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
";

/// Why the store gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// It may have done what it was asked.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// It was not asked: there is no connection, for this reason, and a task is trying to get one.
    #[error("it is not asked until it can be reached again")]
    Unreachable(#[source] Option<Box<Fault>>),
    /// The connection could not be made, or broke.
    #[error("the connection failed")]
    Connection(#[source] RedisError),
    /// User or password are wrong, or one is wanted.
    #[error("the login was refused; see `user` and `password` under `[replay]`")]
    Login(#[source] RedisError),
    /// The same at the Sentinels.
    #[error("the login was refused; see `sentinel_user` and `sentinel_password` under `[replay]`")]
    SentinelLogin(#[source] RedisError),
    /// None of them said which server is master; the last one for this reason.
    #[error("no Sentinel tells which server is master")]
    Sentinel(#[source] Box<Fault>),
    /// They answer, and do not know the name.
    #[error("Sentinel knows no master `{0}`; see the name behind `/` in `store`")]
    NoMaster(String),
    /// The server that they name is none by its own account.
    #[error("Sentinel names {0} as the master, which is a replica; a fail-over may be under way")]
    Replica(String),
    /// They name another server than the one that is connected.
    #[error("Sentinel names another master, {0}")]
    Moved(String),
    /// It answered with an error: out of memory, a command that the user may not use.
    #[error("it refused")]
    Refused(#[source] RedisError),
    /// The key holds what no gateway wrote.
    #[error(
        "it holds something else under a key of ours; give the gateways a `prefix` of their own"
    )]
    Foreign,
    /// No randomness for a token.
    #[error("there is no randomness for a token")]
    Random,
}

impl Fault {
    /// Stable word, a metric label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Connection(_) => "connection",
            Self::Login(_) | Self::SentinelLogin(_) => "login",
            Self::Sentinel(why) => why.kind(),
            Self::NoMaster(_) | Self::Replica(_) => "no_master",
            Self::Moved(_) => "moved",
            Self::Refused(_) => "refused",
            Self::Foreign => "foreign_value",
            Self::Random => "random",
        }
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let kind = error.kind();
        let is_login = kind == ErrorKind::AuthenticationFailed
            || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
        let is_connection = error.is_io_error()
            || [ErrorKind::ClusterConnectionNotFound, ErrorKind::Parse].contains(&kind);
        match (is_login, is_connection) {
            (true, _) => Self::Login(error),
            (false, true) => Self::Connection(error),
            (false, false) => Self::Refused(error),
        }
    }
}

/// The store.
pub struct Store {
    shared: Arc<Shared>,
    /// Ends with the store. Begins with the first use, because only then there is a runtime for sure.
    tender: OnceLock<AbortHandle>,
}

/// What the task that tends the connection has in common with those who ask.
struct Shared {
    endpoint: Endpoint,
    prefix: Vec<u8>,
    timeout: Duration,
    admit: Script,
    succeed: Script,
    fail: Script,
    link: watch::Sender<Link>,
    /// Questions in a row that got no answer.
    unanswered: AtomicU32,
    /// Places for what waits for the store to come back.
    waiting: Arc<Semaphore>,
    /// Successes that wait for it.
    later: TaskTracker,
    /// What a fault means for deliveries, for the log.
    on_failure: OnStoreFailure,
    metrics: ReplayMetrics,
}

/// The way to the store.
enum Link {
    /// Being made: worth waiting for.
    Opening,
    /// There.
    Open {
        /// Counts connections, so that a fault of an earlier one does not close this one.
        number: u64,
        connection: Connection,
    },
    /// Not to be had at the moment, for this reason: no question is asked.
    Shut(Fault),
}

/// A connection that carries many questions at once; its clones are the same one.
#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Where and how to connect.
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Endpoint {
    One(Client),
    Cluster(ClusterClient),
    /// To the server that the Sentinels name.
    Master(Sentinels, Manner),
}

/// How to speak to a server, wherever it is.
struct Manner {
    login: RedisConnectionInfo,
    tls: Option<TlsCertificates>,
}

/// Passwords of a store.
#[derive(Debug, Default)]
pub struct Passwords {
    /// For the servers.
    pub servers: Option<Secret>,
    /// For the Sentinels that choose among them.
    pub sentinels: Option<Secret>,
}

impl Store {
    /// A store as configured. Connects on first use.
    ///
    /// # Errors
    /// If the files of certificates cannot be used.
    pub fn new(
        config: &RedisConfig,
        passwords: &Passwords,
        on_failure: OnStoreFailure,
        metrics: ReplayMetrics,
    ) -> anyhow::Result<Self> {
        let later = TaskTracker::new();
        // It can be waited for at any time; what comes later is tracked all the same.
        later.close();
        Ok(Self {
            shared: Arc::new(Shared {
                endpoint: Endpoint::new(config, passwords)?,
                prefix: config.prefix.clone().into_bytes(),
                timeout: config.timeout,
                admit: Script::new(ADMIT),
                succeed: Script::new(SUCCEED),
                fail: Script::new(FAIL),
                link: watch::Sender::new(Link::Opening),
                unanswered: AtomicU32::new(0),
                waiting: Arc::new(Semaphore::new(WAITING_MAX)),
                later,
                on_failure,
                metrics,
            }),
            tender: OnceLock::new(),
        })
    }

    /// Begins to connect, if nobody has yet. Call it within the runtime.
    pub fn connect(&self) {
        self.tender
            .get_or_init(|| tokio::spawn(tend(self.shared.clone())).abort_handle());
    }

    /// Why it cannot be asked; `None`: it can, as far as is known.
    pub fn trouble(&self) -> Option<Fault> {
        self.connect();
        match &*self.shared.link.borrow() {
            Link::Open { .. } => None,
            Link::Opening => Some(Fault::Unreachable(None)),
            Link::Shut(why) => Some(why.clone()),
        }
    }

    /// See [`super::Store::admit`].
    ///
    /// If no answer comes in time, the reservation is given back when the store can be asked again: the retry of this delivery should
    /// find none.
    pub async fn admit(&self, id: Id, lease: Duration) -> Result<Admission, Fault> {
        self.connect();
        let token = token()?;
        let held = held(token);
        let answer = self
            .shared
            .ask(&self.shared.admit, id, &[&held, &millis(lease)])
            .await;
        match answer {
            Ok(Value::Int(0)) => Ok(Admission::Granted(token)),
            Ok(Value::Int(status @ 100..=999)) => Ok(Admission::Succeeded {
                status: status as u16,
            }),
            Ok(Value::Int(left @ ..0)) => Ok(Admission::InFlight {
                lapses_in: Duration::from_millis(left.unsigned_abs()),
            }),
            Ok(_) => Err(self.shared.fault(Fault::Foreign)),
            Err(fault @ (Fault::Timeout(_) | Fault::Connection(_))) => {
                let patience = lease.min(SETTLE_TIME_MAX);
                self.shared.clone().settle_later(id, token, None, patience);
                Err(fault)
            }
            Err(fault) => Err(fault),
        }
    }

    /// See [`super::Store::settle`].
    ///
    /// Tried again for a while if no answer comes, behind the back of whoever called: see [`Self::settled`].
    ///
    /// # Errors
    /// The fault of the first attempt.
    pub async fn settle(&self, id: Id, token: Token, settlement: Settlement) -> Result<(), Fault> {
        self.connect();
        let outcome = match settlement {
            Settlement::Succeeded { status, window } => Some((status, window)),
            Settlement::Failed => None,
        };
        let settled = self.shared.settle(id, token, outcome).await;
        if settled.is_err() {
            let shared = self.shared.clone();
            shared.settle_later(id, token, outcome, SETTLE_TIME_MAX);
        }
        settled
    }

    /// Waits until nothing is left to be tried again. What the process still has to settle when it ends is lost: such leases lapse, and
    /// a retry passes.
    pub async fn settled(&self) {
        self.shared.later.wait().await;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(tender) = self.tender.get() {
            tender.abort();
        }
    }
}

impl Shared {
    /// Settles a lease: with status and window if the upstream took the delivery.
    async fn settle(
        &self,
        id: Id,
        token: Token,
        outcome: Option<(u16, Duration)>,
    ) -> Result<(), Fault> {
        let held = held(token);
        match outcome {
            Some((status, window)) => {
                let outcome = format!("succeeded {status:03}").into_bytes();
                let arguments: [&[u8]; 3] = [&held, &outcome, &millis(window)];
                self.ask(&self.succeed, id, &arguments).await?;
            }
            None => drop(self.ask(&self.fail, id, &[&held]).await?),
        }
        Ok(())
    }

    /// Settles as soon as the store can be asked again, if that is soon enough.
    fn settle_later(
        self: Arc<Self>,
        id: Id,
        token: Token,
        outcome: Option<(u16, Duration)>,
        patience: Duration,
    ) {
        // A success that is forgotten costs more than a reservation that stands until it lapses.
        if outcome.is_none() && self.waiting.available_permits() < WAITING_MAX / 2 {
            return;
        }
        let Ok(place) = self.waiting.clone().try_acquire_owned() else {
            return;
        };
        let later = self.later.clone();
        let settling = async move {
            let _place = place;
            let end = Instant::now() + patience;
            let mut pauses = Pauses::new(PAUSE_MIN, PAUSE_MAX);
            let mut link = self.link.subscribe();
            while Instant::now() < end {
                let open = link.wait_for(|link| matches!(link, Link::Open { .. }));
                if !matches!(timeout_at(end, open).await, Ok(Ok(_))) {
                    return;
                }
                if self.settle(id, token, outcome).await.is_ok() {
                    return;
                }
                // It may be full, or a replica, or still loading its data: that passes too.
                sleep(pauses.next_pause()).await;
            }
        };
        // A reservation that nobody uses is no reason for a stopping process to wait.
        match outcome {
            Some(_) => drop(later.spawn(settling)),
            None => drop(tokio::spawn(settling)),
        }
    }

    /// Asks the store, once. On a connection that breaks meanwhile it asks again on the next one, if there is one in time: every script
    /// finds what it did itself.
    async fn ask(&self, script: &Script, id: Id, arguments: &[&[u8]]) -> Result<Value, Fault> {
        let deadline = Instant::now() + self.timeout;
        let mut broke = None;
        loop {
            let (number, mut connection) = match self.connection(deadline).await {
                Ok(open) => open,
                Err(fault) => return Err(self.fault(broke.unwrap_or(fault))),
            };
            let key = self.key(id);
            let answer = script.run(&mut connection, &key, arguments);
            match timeout_at(deadline, answer).await {
                Ok(Ok(value)) => {
                    // Read first: all who ask share the line, and it hardly ever changes.
                    if self.unanswered.load(Ordering::Relaxed) > 0 {
                        self.unanswered.store(0, Ordering::Relaxed);
                    }
                    return Ok(value);
                }
                Ok(Err(error)) if connection.is_broken_by(&error) => {
                    let fault = Fault::from(error);
                    self.lost(number, &fault, Link::Opening);
                    broke = Some(fault);
                }
                Ok(Err(error)) => {
                    let fault = Fault::from(error);
                    if matches!(fault, Fault::Connection(_)) {
                        self.no_answer(number, &fault);
                    }
                    return Err(self.fault(fault));
                }
                Err(_) => {
                    let fault = Fault::Timeout(self.timeout);
                    self.no_answer(number, &fault);
                    return Err(self.fault(fault));
                }
            }
        }
    }

    /// The connection, or the one that is being made if it is there in time.
    async fn connection(&self, deadline: Instant) -> Result<(u64, Connection), Fault> {
        let open = |link: &Link| match link {
            Link::Open { number, connection } => Ok((*number, connection.clone())),
            Link::Opening => Err(None),
            Link::Shut(why) => Err(Some(Box::new(why.clone()))),
        };
        if let Ok(open) = open(&self.link.borrow()) {
            return Ok(open);
        }
        let mut link = self.link.subscribe();
        let known = link.wait_for(|link| !matches!(link, Link::Opening));
        match timeout_at(deadline, known).await {
            Ok(Ok(link)) => open(&link).map_err(Fault::Unreachable),
            // Nothing was asked, so there is nothing to take back.
            Ok(Err(_)) | Err(_) => Err(Fault::Unreachable(None)),
        }
    }

    /// Counts a question without an answer; too many in a row, and the connection is given up.
    fn no_answer(&self, number: u64, fault: &Fault) {
        if self.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= UNANSWERED_MAX {
            self.lost(number, fault, Link::Shut(fault.clone()));
        }
    }

    /// Gives up the connection of that number, and wakes the task that makes the next.
    fn lost(&self, number: u64, fault: &Fault, next: Link) {
        let changed = self.link.send_if_modified(|link| {
            let same = matches!(link, Link::Open { number: open, .. } if *open == number);
            if same {
                *link = next;
            }
            same
        });
        if changed {
            self.metrics.set_up(false);
            self.tell(fault, "the replay store is lost");
        }
    }

    fn tell(&self, fault: &Fault, message: &'static str) {
        error!(error = %Chain(fault), "{message}: {}", self.on_failure.consequence());
    }

    fn fault(&self, fault: Fault) -> Fault {
        self.metrics.failed(fault.kind());
        fault
    }

    fn key(&self, Id(id): Id) -> Vec<u8> {
        [&self.prefix[..], HEXLOWER.encode(&id).as_bytes()].concat()
    }
}

/// Opens the connection, waits until it is lost, opens the next.
async fn tend(shared: Arc<Shared>) {
    let mut pauses = Pauses::new(PAUSE_MIN, PAUSE_MAX);
    let mut told = "";
    for number in 0.. {
        let attempt = timeout(CONNECT_TIME_MAX, shared.endpoint.connect()).await;
        let fault = match attempt {
            Ok(Ok((connection, master))) => {
                shared.unanswered.store(0, Ordering::Relaxed);
                let mut link = shared.link.subscribe();
                let probe = connection.clone();
                shared.link.send_replace(Link::Open { number, connection });
                shared.metrics.set_up(true);
                info!(
                    master = master.as_ref().map(text),
                    "the replay store answers"
                );
                told = "";
                let opened = Instant::now();
                loop {
                    let lost = link.wait_for(|link| !matches!(link, Link::Open { .. }));
                    if timeout(PROBE_EVERY, lost).await.is_ok() {
                        break;
                    }
                    let probed = shared.endpoint.probe(probe.clone(), master.as_ref());
                    if let Err(fault) = probed.await {
                        shared.fault(fault.clone());
                        shared.lost(number, &fault, Link::Opening);
                    }
                }
                if opened.elapsed() < STEADY {
                    sleep(pauses.next_pause()).await;
                } else {
                    pauses.reset();
                }
                continue;
            }
            Ok(Err(fault)) => fault,
            Err(_) => Fault::Timeout(CONNECT_TIME_MAX),
        };
        let fault = shared.fault(fault);
        shared.link.send_replace(Link::Shut(fault.clone()));
        // One line per state, and another if the cause becomes another.
        if told != fault.kind() {
            told = fault.kind();
            shared.tell(&fault, "the replay store is not reached");
        }
        sleep(pauses.next_pause()).await;
    }
}

async fn ping(mut connection: Connection) -> Result<(), Fault> {
    let ping = redis::cmd("PING");
    match timeout(CONNECT_TIME_MAX, connection.send(&ping)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Fault::Timeout(CONNECT_TIME_MAX)),
    }
}

fn token() -> Result<Token, Fault> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Fault::Random)?;
    Ok(Token(u64::from_le_bytes(random)))
}

/// The value of a lease.
fn held(Token(token): Token) -> Vec<u8> {
    format!("leased {token:016x}").into_bytes()
}

/// As Redis wants it: at least one.
fn millis(duration: Duration) -> Vec<u8> {
    duration.as_millis().max(1).to_string().into_bytes()
}

/// A script, and the name under which the store knows it once it has seen it.
struct Script {
    code: &'static str,
    sha1: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        Self {
            code,
            sha1: HEXLOWER.encode(&Sha1::digest(code)),
        }
    }

    /// One round trip; two where the store has never seen the script, or forgot it in a restart.
    async fn run(
        &self,
        connection: &mut Connection,
        key: &[u8],
        arguments: &[&[u8]],
    ) -> RedisResult<Value> {
        let command = |name: &str, script: &str| {
            let mut command = Cmd::with_capacity(4 + arguments.len(), 256);
            command.arg(name).arg(script).arg(1).arg(key);
            for &argument in arguments {
                command.arg(argument);
            }
            command
        };
        match connection.send(&command("EVALSHA", &self.sha1)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                connection.send(&command("EVAL", self.code)).await
            }
            answer => answer,
        }
    }
}

impl Connection {
    async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let value = match self {
            Self::One(connection) => connection.req_packed_command(command).await,
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        };
        value?.extract_error()
    }

    /// Whether nothing good can come over this connection any more. A cluster's looks after its nodes itself.
    fn is_broken_by(&self, error: &RedisError) -> bool {
        match self {
            Self::One(_) => {
                error.is_unrecoverable_error()
                    || error.is_io_error()
                    // It became a replica, or is not there yet: its address may lead elsewhere by now.
                    || matches!(
                        error.kind(),
                        ErrorKind::Server(
                            ServerErrorKind::ReadOnly
                                | ServerErrorKind::MasterDown
                                | ServerErrorKind::BusyLoading
                        )
                    )
            }
            Self::Cluster(_) => false,
        }
    }
}

impl Endpoint {
    fn new(config: &RedisConfig, passwords: &Passwords) -> anyhow::Result<Self> {
        let tls = config.tls.as_ref().map(certificates).transpose()?;
        let servers = Manner {
            login: login(config.user.as_deref(), passwords.servers.as_ref())
                .context("the password of the replay store")?
                .set_db(i64::from(config.database)),
            tls: tls.clone(),
        };
        match &config.servers {
            RedisServers::One { host, port } => servers.client(host, *port).map(Self::One),
            RedisServers::Unix(path) => servers
                .client_of(ConnectionAddr::Unix(path.clone()))
                .map(Self::One),
            RedisServers::Cluster(nodes) => {
                let nodes = nodes
                    .iter()
                    .map(|(host, port)| servers.info(servers.address(host, *port)));
                let mut builder = ClusterClient::builder(nodes.collect::<RedisResult<Vec<_>>>()?)
                    .tcp_settings(TcpSettings::default().set_nodelay(true))
                    .connection_timeout(CONNECT_TIME_MAX)
                    .response_timeout(config.timeout)
                    .retries(3)
                    .min_retry_wait(10)
                    .max_retry_wait(100);
                if let Some(tls) = tls {
                    builder = builder.certs(tls);
                }
                builder.build().map(Self::Cluster)
            }
            RedisServers::Sentinel(sentinels) => {
                let manner = Manner {
                    login: login(sentinels.user.as_deref(), passwords.sentinels.as_ref())
                        .context("the password of the Sentinels")?,
                    tls,
                };
                let clients = sentinels
                    .nodes
                    .iter()
                    .map(|(host, port)| manner.client(host, *port))
                    .collect::<RedisResult<_>>();
                clients.map(|clients| {
                    Self::Master(Sentinels::new(clients, sentinels.master.clone()), servers)
                })
            }
        }
        .context("the connection to the replay store cannot be prepared")
    }

    /// A connection that has answered once, and whose it is if Sentinels chose it.
    async fn connect(&self) -> Result<(Connection, Option<Address>), Fault> {
        let one = async |client: &Client| {
            let config = AsyncConnectionConfig::new()
                // Those who ask have a deadline of their own.
                .set_response_timeout(None)
                .set_connection_timeout(None)
                .set_pipeline_buffer_size(QUEUE);
            let connection = client.get_multiplexed_async_connection_with_config(&config);
            connection.await.map(Connection::One)
        };
        let (mut connection, master) = match self {
            Self::One(client) => (one(client).await?, None),
            Self::Cluster(client) => {
                let connection = client.get_async_connection().await?;
                (Connection::Cluster(connection), None)
            }
            Self::Master(sentinels, servers) => {
                let master = sentinels.master().await?;
                let client = servers.client(&master.0, master.1)?;
                (one(&client).await?, Some(master))
            }
        };
        // A store that is still loading its data says so here.
        connection.send(&redis::cmd("PING")).await?;
        if let Some(master) = &master {
            // They can be wrong, and for a moment all of them are. A replica may take writes, and forgets them.
            let role = connection.send(&redis::cmd("ROLE")).await?;
            let is_master = matches!(&role, Value::Array(parts)
                if matches!(parts.first(), Some(Value::BulkString(word)) if word == b"master"));
            if !is_master {
                return Err(Fault::Replica(text(master)));
            }
        }
        Ok((connection, master))
    }

    /// Whether an open connection answers, and still leads to where it should.
    async fn probe(&self, connection: Connection, master: Option<&Address>) -> Result<(), Fault> {
        ping(connection).await?;
        let Self::Master(sentinels, _) = self else {
            return Ok(());
        };
        match sentinels.master().await {
            // A server that was cut off goes on as if it were master, and Sentinel lets one go on for a while after a fail-over.
            Ok(named) if Some(&named) != master => Err(Fault::Moved(text(&named))),
            // The master is enough as long as it answers.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Manner {
    fn address(&self, host: &str, port: u16) -> ConnectionAddr {
        let host = host.to_owned();
        match self.tls {
            Some(_) => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
            None => ConnectionAddr::Tcp(host, port),
        }
    }

    fn info(&self, address: ConnectionAddr) -> RedisResult<ConnectionInfo> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = address.into_connection_info()?;
        Ok(info
            .set_tcp_settings(tcp)
            .set_redis_settings(self.login.clone()))
    }

    fn client(&self, host: &str, port: u16) -> RedisResult<Client> {
        self.client_of(self.address(host, port))
    }

    fn client_of(&self, address: ConnectionAddr) -> RedisResult<Client> {
        let info = self.info(address)?;
        match &self.tls {
            Some(tls) => Client::build_with_tls(info, tls.clone()),
            None => Client::open(info),
        }
    }
}

fn login(user: Option<&str>, password: Option<&Secret>) -> anyhow::Result<RedisConnectionInfo> {
    let mut login =
        RedisConnectionInfo::default().set_lib_name("countersign", env!("CARGO_PKG_VERSION"));
    if let Some(password) = password {
        let password = std::str::from_utf8(password.expose())
            .ok()
            .context("is not UTF-8")?;
        login = login.set_password(password);
    }
    if let Some(user) = user {
        login = login.set_username(user);
    }
    Ok(login)
}

fn certificates(tls: &RedisTls) -> anyhow::Result<TlsCertificates> {
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))
    };
    if let Some(path) = &tls.ca {
        // Looked at here, so that the fault names the file.
        crate::pem::authorities(path)?;
    }
    let client = tls.client_certificate.as_ref().map(|files| {
        crate::pem::certificates(&files.certificate)?;
        crate::pem::private_key(&files.private_key)?;
        anyhow::Ok(ClientTlsConfig {
            client_cert: read(&files.certificate)?,
            client_key: read(&files.private_key)?,
        })
    });
    Ok(TlsCertificates {
        client_tls: client.transpose()?,
        root_cert: tls.ca.as_deref().map(read).transpose()?,
    })
}

/// An address as text, IPv6 in brackets.
fn text((host, port): &Address) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}
