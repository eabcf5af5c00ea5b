//! Which server is master, as Sentinels tell it.
//!
//! All of them are asked at once, and the address that most of them name counts: one that was cut off from the others may name a server
//! that is master no more. Nothing is kept between two questions, so there is no connection to look after.

use redis::{AsyncConnectionConfig, Client, RedisResult};
use tokio::{
    task::JoinSet,
    time::{Duration, timeout},
};

use super::redis::Fault;

/// For the answer of one: name, TCP, TLS and login included. Leaves time to reach the master within one attempt to connect.
const ASK_TIME_MAX: Duration = Duration::from_secs(1);

/// Host and port of a server.
pub(super) type Address = (String, u16);

/// Those who know the master.
pub(super) struct Sentinels {
    clients: Vec<Client>,
    /// What they call it.
    name: String,
}

impl Sentinels {
    pub(super) fn new(clients: Vec<Client>, name: String) -> Self {
        Self { clients, name }
    }

    /// The master's address, as most of those who answer name it.
    pub(super) async fn master(&self) -> Result<Address, Fault> {
        let mut asked = JoinSet::new();
        for client in &self.clients {
            asked.spawn(ask(client.clone(), self.name.clone()));
        }
        let mut named: Vec<(Address, usize)> = Vec::new();
        let mut unknown = false;
        let mut failed = None;
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok(Some(address))) => {
                    let known = named.iter().position(|(other, _)| *other == address);
                    let place = known.unwrap_or_else(|| {
                        named.push((address, 0));
                        named.len() - 1
                    });
                    named[place].1 += 1;
                    if named[place].1 * 2 > self.clients.len() {
                        break;
                    }
                }
                Ok(Ok(None)) => unknown = true,
                Ok(Err(fault)) => failed = Some(fault),
                // Only a panic ends it so.
                Err(_) => {}
            }
        }
        match (
            named.into_iter().max_by_key(|(_, count)| *count),
            unknown,
            failed,
        ) {
            (Some((address, _)), _, _) => Ok(address),
            (None, false, Some(why)) => Err(Fault::Sentinel(Box::new(why))),
            (None, _, _) => Err(Fault::NoMaster(self.name.clone())),
        }
    }
}

/// Asks one of them. `None`: it knows no master of that name.
async fn ask(client: Client, name: String) -> Result<Option<Address>, Fault> {
    let question = async {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        command.query_async(&mut connection).await
    };
    let answer: RedisResult<Option<Address>> = timeout(ASK_TIME_MAX, question)
        .await
        .map_err(|_| Fault::Timeout(ASK_TIME_MAX))?;
    answer.map_err(|error| {
        let fault = Fault::from(error);
        if let Fault::Login(error) = fault {
            return Fault::SentinelLogin(error);
        }
        fault
    })
}
