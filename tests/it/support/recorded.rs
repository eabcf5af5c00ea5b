//! Recorded requests as routes and deliveries.

use super::{
    delivery::Delivery,
    inside::FOLDER,
    vectors::{Sent, Vector},
};

/// `secrets` of a route, and the files that they are in.
pub(crate) fn secrets(route: &str, secrets: &[Vec<u8>]) -> (String, Vec<(String, Vec<u8>)>) {
    let files: Vec<_> = (0..secrets.len())
        .map(|n| (format!("secrets/{route}-{n}"), secrets[n].clone()))
        .collect();
    let entries: Vec<_> = (0..files.len())
        .map(|n| format!("{{ id = \"key-{n}\", file = \"{FOLDER}/{}\" }}", files[n].0))
        .collect();
    (format!("secrets = [{}]\n", entries.join(", ")), files)
}

/// `params` of a route, if its scheme has any.
pub(crate) fn params(vector: &Vector) -> String {
    let params: Vec<_> = vector
        .params
        .iter()
        .map(|(name, value)| format!("{name:?} = {value:?}"))
        .collect();
    match &params[..] {
        [] => String::new(),
        params => format!("params = {{ {} }}\n", params.join(", ")),
    }
}

/// The request as its sender would make it. HTTP's own framing is left to the client.
pub(crate) fn delivery(sent: &Sent, host: &str) -> Delivery {
    let mut delivery = Delivery::post(&sent.target, sent.body.clone())
        .method(&sent.method)
        .host(host);
    for (name, value) in &sent.headers {
        if !name.eq_ignore_ascii_case("content-length") {
            delivery = delivery.header(name, value);
        }
    }
    delivery
}
