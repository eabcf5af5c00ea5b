//! Several gateways and one Redis, under senders that repeat themselves, an upstream that fails, and faults of everything in between.
//!
//! What is checked, for every event:
//!
//! * **Never twice.** Once a success is certain, the event does not reach the upstream again. It is certain when a sender was told that
//!   the event is a duplicate; or when a sender got the upstream's 2xx and the store was well all the while, because a gateway records
//!   the success before it answers.
//! * **Never two at once.** While one request for it is under way, no second one reaches the upstream.
//! * **Never lost.** Its sender, who repeats it until it gets a 2xx, gets one in the end; and then the upstream has accepted it.
//!
//! A gateway that is killed after the upstream's 2xx and before it recorded it forgets that success: the lease lapses and a retry passes. So
//! a success that was certain to nobody may be repeated, and a request that a killed gateway had under way, too; but only if something
//! was killed or the store was not well in between. A store that is away for longer than a lease has the same effect: the gateway that waits to
//! record a success and a retry at another one come back to it at the same time.
//!
//! The default is small enough for every run of the tests. `scripts/check-fleet` sends 100 000 events.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use crate::support::{
    client::{Client, Door, Hello, Protocol},
    cut::Line,
    delivery::Delivery,
    gateway::Gateway,
    redis_server::RedisServer,
    runtime,
    wire::Address,
};

const SECRET: &[u8] = b"fleet-secret-of-some-length";

/// Events that a sender has begun with and not ended, and requests at once.
const EVENTS_OPEN: usize = 400;
const REQUESTS_OPEN: usize = 48;

/// Refusals that a fault of the store lasts for.
const REFUSALS: u64 = 40;

/// The least that is left of a lease when the upstream accepts: what the gateway adds to the time for forwarding.
const LEASE_REST: Duration = Duration::from_secs(5);

/// No event takes so long: several leases would have lapsed.
const EVENT_TIME_MAX: Duration = Duration::from_secs(120);

/// SplitMix64: the same seed gives the same choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    /// Whether something that happens so often, of 100, happens.
    fn percent(&mut self, often: u64) -> bool {
        self.below(100) < often
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// What is known of one event.
#[derive(Default)]
struct Event {
    /// Requests that reached the upstream.
    arrivals: u32,
    /// Requests that the upstream works on.
    under_way: u32,
    /// Requests that it answered with 2xx.
    accepted: u32,
    /// [`World::turns`] when the last arrived.
    arrived_at: u64,
    /// The same when it accepted the last, and when that was.
    accepted_at: u64,
    accepted_when: Option<Instant>,
    /// Its success is known to be recorded.
    is_certain: bool,
    /// What happened when, for whoever has to find out why something is wrong.
    history: Vec<(Duration, String)>,
}

/// What all sides share.
struct World {
    seed: u64,
    began: Instant,
    events: Vec<Mutex<Event>>,
    gateways: Vec<Mutex<(u64, SocketAddr)>>,
    /// Goes up with every kill, and with every beginning and end of a fault of the store.
    turns: AtomicU64,
    /// Goes up when a fault of the store begins and when it is over: odd during a fault.
    store_turns: AtomicU64,
    progress: Mutex<Progress>,
    changed: Condvar,
    wrong: Mutex<Vec<String>>,
    begun: Semaphore,
    requests: Semaphore,
    requests_made: AtomicUsize,
    repeated: AtomicUsize,
}

#[derive(Default)]
struct Progress {
    done: usize,
    refusals: u64,
}

impl World {
    fn event(&self, number: usize) -> MutexGuard<'_, Event> {
        self.events[number].lock().unwrap()
    }

    fn note(&self, event: &mut Event, what: String) {
        event.history.push((self.began.elapsed(), what));
    }

    fn dice(&self, of: u64) -> Dice {
        Dice(self.seed ^ of.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
        self.changed.notify_all();
    }

    fn advance(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap());
        self.changed.notify_all();
    }

    /// Waits until it has come so far; `false` if something is wrong.
    fn wait(&self, far: impl Fn(&Progress) -> bool) -> bool {
        let end = Instant::now() + EVENT_TIME_MAX;
        let mut progress = self.progress.lock().unwrap();
        while !far(&progress) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.wrong.lock().unwrap().is_empty() {
                return false;
            }
            progress = self.changed.wait_timeout(progress, left).unwrap().0;
        }
        true
    }

    /// The upstream's side of one request.
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Option<StatusCode> {
        let body = request.into_body().collect().await.ok()?.to_bytes();
        let text = std::str::from_utf8(&body).ok()?;
        let number: usize = text.strip_prefix("event ")?.parse().ok()?;
        let turns = self.turns.load(SeqCst);
        let arrival = {
            let mut event = self.event(number);
            self.note(&mut event, format!("reached the upstream in turn {turns}"));
            if event.is_certain {
                self.wrong(format!(
                    "event {number} came again after its success: {:#?}",
                    event.history
                ));
            }
            let is_second = event.under_way > 0 && event.arrived_at == turns;
            let is_away = !self.store_turns.load(SeqCst).is_multiple_of(2);
            let lapsed = event
                .accepted_when
                .is_some_and(|when| is_away && when.elapsed() > LEASE_REST);
            if is_second || event.accepted_at == turns && !lapsed {
                self.wrong(format!(
                    "event {number} came again although nothing had happened: {} under way, {} accepted, {:#?}",
                    event.under_way, event.accepted, event.history
                ));
            }
            event.arrivals += 1;
            event.under_way += 1;
            event.arrived_at = turns;
            event.arrivals
        };
        let working = Working {
            world: &self,
            number,
        };
        let mut dice = self.dice((number as u64) << 20 | u64::from(arrival));
        match dice.below(20) {
            0 | 1 => return Some(StatusCode::INTERNAL_SERVER_ERROR),
            // Neither an answer nor an end: the gateway's time runs out.
            2 if dice.percent(10) => {
                drop(working);
                std::future::pending().await
            }
            2 => return None,
            3 => tokio::time::sleep(dice.millis(20, 300)).await,
            _ => {}
        }
        let mut event = self.event(number);
        self.note(&mut event, "accepted".into());
        event.accepted += 1;
        event.accepted_at = self.turns.load(SeqCst);
        event.accepted_when = Some(Instant::now());
        if event.accepted > 1 {
            self.repeated.fetch_add(1, SeqCst);
        }
        Some(StatusCode::OK)
    }

    /// One request of a sender. `None`: no answer, whatever became of it.
    async fn request(
        &self,
        number: usize,
        dice: &mut Dice,
        connections: &mut Connections,
    ) -> Option<(u16, bool)> {
        let _place = self.requests.acquire().await.unwrap();
        self.requests_made.fetch_add(1, SeqCst);
        let place = dice.below(self.gateways.len() as u64) as usize;
        let (generation, address) = *self.gateways[place].lock().unwrap();
        let delivery = Delivery::post("/hooks", format!("event {number}")).signed(SECRET);
        let patience = match dice.percent(3) {
            // This one does not wait for the answer.
            true => dice.millis(1, 20),
            false => Duration::from_secs(20),
        };
        let known = connections.0[place].take();
        let mut client = match known {
            Some((of, client)) if of == generation => client,
            _ => {
                let door = Door {
                    address: Address::Tcp(address),
                    tls: false,
                };
                let hello = Hello::default();
                let connecting = Client::connect_with(&door, Protocol::Http1, &hello);
                timeout(patience, connecting).await.ok()?.ok()?
            }
        };
        let answer = timeout(patience, client.deliver(&delivery))
            .await
            .ok()?
            .ok()?;
        connections.0[place] = Some((generation, client));
        Some((answer.status, answer.fields.has("countersign-duplicate")))
    }

    /// A sender: repeats an event until it gets a 2xx.
    async fn send(self: Arc<Self>, number: usize, sender: u64) {
        let mut dice = self.dice(u64::MAX - ((number as u64) << 8 | sender));
        let mut connections = Connections::new(self.gateways.len());
        let end = Instant::now() + EVENT_TIME_MAX;
        loop {
            let store_turns = self.store_turns.load(SeqCst);
            let asked = self.began.elapsed();
            let answer = self.request(number, &mut dice, &mut connections).await;
            self.note(
                &mut self.event(number),
                format!("sender {sender} asked at {asked:?} and got {answer:?}"),
            );
            match answer {
                Some((200, is_duplicate)) => {
                    let was_well = store_turns.is_multiple_of(2)
                        && store_turns == self.store_turns.load(SeqCst);
                    let mut event = self.event(number);
                    event.is_certain |= is_duplicate || was_well;
                    if event.accepted == 0 {
                        self.wrong(format!("event {number} was never accepted, but got 200"));
                    }
                    return;
                }
                Some((409 | 500 | 502 | 503 | 504, false)) => {
                    if answer == Some((503, false)) {
                        self.advance(|progress| progress.refusals += 1);
                    }
                    tokio::time::sleep(dice.millis(50, 300)).await;
                }
                Some(other) => return self.wrong(format!("event {number} got {other:?}")),
                None => tokio::time::sleep(dice.millis(10, 60)).await,
            }
            if Instant::now() > end {
                return self.wrong(format!("event {number} is lost: last {answer:?}"));
            }
        }
    }

    /// All that happens with one event.
    async fn live(self: Arc<Self>, number: usize) {
        let mut dice = self.dice(!(number as u64));
        let twin = dice
            .percent(20)
            .then(|| tokio::spawn(self.clone().send(number, 1)));
        self.clone().send(number, 0).await;
        if let Some(twin) = twin {
            twin.await.unwrap();
        }
        for sender in 2..2 + dice.below(3) {
            self.clone().send(number, sender).await;
        }
        self.advance(|progress| progress.done += 1);
    }
}

/// One connection of a sender to each gateway, and to which of its lives.
struct Connections(Vec<Option<(u64, Client)>>);

impl Connections {
    fn new(gateways: usize) -> Self {
        Self((0..gateways).map(|_| None).collect())
    }
}

/// Ends with the work on a request, also if the gateway that sent it is gone.
struct Working<'w> {
    world: &'w World,
    number: usize,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.world.event(self.number).under_way -= 1;
    }
}

/// Serves the upstream's side until the runtime ends.
async fn upstream(world: Arc<World>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let world = world.clone();
        drop(tokio::spawn(async move {
            let service = service_fn(move |request| {
                let world = world.clone();
                async move {
                    let status = world.serve(request).await.ok_or("no answer")?;
                    let mut response = http::Response::new(Full::<Bytes>::default());
                    *response.status_mut() = status;
                    Ok::<_, &str>(response)
                }
            });
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }));
    }
}

fn gateway(upstream: SocketAddr, line: &Line) -> Gateway {
    Gateway::builder()
        .file("key", "the same on all instances")
        .config(&format!(
            r#"
            [replay]
            store = "{}"
            key = {{ file = "$DIR/key" }}
            timeout = "1s"
            "#,
            line.url()
        ))
        .route(
            "hooks",
            "/hooks",
            SECRET,
            &format!("http://{upstream}"),
            "replay = \"1h\"\nconnect_timeout = \"1s\"\ntimeout = \"3s\"",
        )
        .start()
}

fn address(gateway: &Gateway) -> SocketAddr {
    match gateway.door().address {
        Address::Tcp(address) => address,
        Address::Unix(_) => unreachable!("it listens on TCP"),
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Pause,
    Restart,
    Cut,
    Reset,
}

/// The seed and the number of events, as whoever runs the test says.
#[expect(
    clippy::disallowed_methods,
    reason = "the switches of scripts/check-fleet"
)]
fn chosen(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(gateways: usize) {
    let count = chosen("COUNTERSIGN_FLEET_EVENTS").unwrap_or(1500) as usize;
    let seed = chosen("COUNTERSIGN_FLEET_SEED")
        .unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("{gateways} gateways, {count} events, COUNTERSIGN_FLEET_SEED={seed}");
    let mut redis = RedisServer::durable();
    let line = Line::to(redis.socket());
    let listener = runtime()
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let upstream_address = listener.local_addr().unwrap();
    let mut fleet: Vec<_> = (0..gateways)
        .map(|_| gateway(upstream_address, &line))
        .collect();
    for gateway in &fleet {
        gateway.wait_for_metric("countersign_replay_store_up", |up| up == 1);
    }
    let world = Arc::new(World {
        seed,
        began: Instant::now(),
        events: (0..count).map(|_| Mutex::default()).collect(),
        gateways: fleet
            .iter()
            .map(|gateway| Mutex::new((0, address(gateway))))
            .collect(),
        turns: AtomicU64::new(1),
        store_turns: AtomicU64::new(0),
        progress: Mutex::default(),
        changed: Condvar::new(),
        wrong: Mutex::default(),
        begun: Semaphore::new(EVENTS_OPEN),
        requests: Semaphore::new(REQUESTS_OPEN),
        requests_made: AtomicUsize::new(0),
        repeated: AtomicUsize::new(0),
    });
    let serving = runtime().spawn(upstream(world.clone(), listener));
    let living = runtime().spawn({
        let world = world.clone();
        async move {
            let mut all = Vec::with_capacity(count);
            for number in 0..count {
                let begun = world.begun.acquire().await.unwrap();
                begun.forget();
                let world = world.clone();
                all.push(tokio::spawn(async move {
                    world.clone().live(number).await;
                    world.begun.add_permits(1);
                }));
            }
            for event in all {
                event.await.unwrap();
            }
        }
    });

    // One fault each time that so many more events are done.
    let step = (count / 14).clamp(1, 1500);
    let mut dice = world.dice(0xfa);
    let mut happened = [0; 5];
    let mut faults = Vec::new();
    let order = [
        Fault::Kill,
        Fault::Pause,
        Fault::Kill,
        Fault::Restart,
        Fault::Kill,
        Fault::Cut,
        Fault::Kill,
        Fault::Reset,
    ];
    for (number, fault) in order.into_iter().cycle().enumerate() {
        let milestone = (number + 1) * step;
        if milestone + step > count || !world.wait(|progress| progress.done >= milestone) {
            break;
        }
        happened[fault as usize] += 1;
        let turn = world.turns.fetch_add(1, SeqCst) + 1;
        faults.push((world.began.elapsed(), turn, format!("{fault:?} begins")));
        if let Fault::Kill = fault {
            let place = dice.below(gateways as u64) as usize;
            // Dropping kills; the next one listens elsewhere.
            drop(fleet.remove(place));
            let next = gateway(upstream_address, &line);
            *world.gateways[place].lock().unwrap() = (number as u64 + 1, address(&next));
            fleet.insert(place, next);
            let turn = world.turns.fetch_add(1, SeqCst) + 1;
            faults.push((
                world.began.elapsed(),
                turn,
                format!("gateway {place} is new"),
            ));
            continue;
        }
        world.store_turns.fetch_add(1, SeqCst);
        let refused = world.progress.lock().unwrap().refusals + REFUSALS;
        let felt = |world: &World| world.wait(|progress| progress.refusals >= refused);
        match fault {
            Fault::Kill => unreachable!("dealt with"),
            Fault::Pause => {
                redis.pause();
                felt(&world);
                redis.resume();
            }
            Fault::Restart => {
                redis.kill();
                felt(&world);
                redis.restart();
            }
            Fault::Cut => {
                line.cut();
                felt(&world);
                line.mend();
            }
            Fault::Reset => line.reset(),
        }
        for gateway in &fleet {
            gateway.wait_for_metric("countersign_replay_store_up", |up| up == 1);
        }
        world.store_turns.fetch_add(1, SeqCst);
        let turn = world.turns.fetch_add(1, SeqCst) + 1;
        faults.push((world.began.elapsed(), turn, "all is well".into()));
    }
    world.wait(|progress| progress.done == count);
    let wrong = world.wrong.lock().unwrap().join("\n");
    assert!(wrong.is_empty(), "seed {seed}: {wrong}\n{faults:#?}");
    runtime().block_on(living).unwrap();

    // Nobody is killed any more: each event is a duplicate everywhere, or becomes one.
    runtime().block_on(async {
        let auditing: Vec<_> = (0..count)
            .map(|number| tokio::spawn(world.clone().send(number, 99)))
            .collect();
        for audit in auditing {
            audit.await.unwrap();
        }
    });
    serving.abort();
    let wrong = world.wrong.lock().unwrap().join("\n");
    assert!(wrong.is_empty(), "seed {seed}: {wrong}\n{faults:#?}");
    let [kills, pauses, restarts, cuts, resets] = happened;
    let sum = |of: fn(&Event) -> u32| -> u64 {
        let all = world.events.iter();
        all.map(|event| u64::from(of(&event.lock().unwrap()))).sum()
    };
    assert_eq!(
        world
            .events
            .iter()
            .filter(|event| event.lock().unwrap().accepted == 0)
            .count(),
        0
    );
    println!(
        "{} requests in {:?}; {} reached the upstream, {} were accepted, {} of them once more after a fault; \
         {kills} kills, {pauses} pauses, {restarts} restarts, {cuts} cuts, {resets} resets; {} keys in Redis",
        world.requests_made.load(SeqCst),
        world.began.elapsed(),
        sum(|event| event.arrivals),
        sum(|event| event.accepted),
        world.repeated.load(SeqCst),
        redis.ask(&["DBSIZE"]).trim(),
    );
}

#[test]
fn two_gateways_are_one() {
    run(2);
}

#[test]
fn four_gateways_are_one() {
    run(4);
}
