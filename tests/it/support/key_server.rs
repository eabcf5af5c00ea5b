//! Servers of keys on this machine, each under the names of hosts that it is not.

use std::{collections::BTreeMap, fs, sync::Arc};

use rustls::ServerConfig;

use super::{
    inside::FOLDER,
    script, tls,
    upstream::{Behaviour, Response, Upstream},
    wire::{Address, Head},
};

/// What a key server has, by target.
pub(crate) type Documents = BTreeMap<String, Response>;

/// A key server for these hosts; it knows nothing but these documents.
pub(crate) fn start(hosts: &[&str], documents: Documents) -> Upstream {
    Upstream::start_tls(server_tls(hosts), serving(documents))
}

pub(crate) fn server_tls(hosts: &[&str]) -> Arc<ServerConfig> {
    let authority = tls::authority();
    authority.server(&authority.issue(hosts), &["http/1.1"], false)
}

pub(crate) fn serving(documents: Documents) -> impl Fn(&Head) -> Behaviour + Send + Sync + 'static {
    move |head| {
        let found = documents.get(head.word(1)).cloned();
        Behaviour::Respond(found.unwrap_or_else(|| Response::new(404)))
    }
}

pub(crate) fn document(target: &str, body: impl Into<Vec<u8>>) -> Documents {
    [(target.to_owned(), Response::new(200).body(body))].into()
}

/// `[fetch]` of a gateway that finds each host at its key server, and the file that it needs: it trusts the authority of this run,
/// and the one that signed the recorded certificates. `lines` are further keys.
pub(crate) fn config<'k>(
    at: impl IntoIterator<Item = (&'k str, &'k Upstream)>,
    lines: &str,
) -> (String, (String, Vec<u8>)) {
    let resolve: Vec<_> = at
        .into_iter()
        .map(|(host, keys)| {
            let Address::Tcp(address) = keys.address() else {
                panic!("a key server on TCP");
            };
            format!("\"{host}\" = \"{address}\"")
        })
        .collect();
    let ca = [
        &*tls::authority().certificate_pem,
        &maker("authority.crt.pem"),
    ]
    .concat();
    (
        format!(
            "[fetch]\nca = \"{FOLDER}/fetch-ca.pem\"\nresolve = {{ {} }}\n{lines}\n",
            resolve.join(", ")
        ),
        ("fetch-ca.pem".to_owned(), ca.into_bytes()),
    )
}

/// A key or certificate of `tests/vectors/makers/keys/`.
pub(crate) fn maker(name: &str) -> String {
    fs::read_to_string(script::tests_file("vectors/makers/keys").join(name)).unwrap()
}

/// Host and target of an address.
///
/// # Panics
/// If it is none of a web server.
pub(crate) fn parts(url: &str) -> (&str, &str) {
    let (_, rest) = url.split_once("://").unwrap();
    rest.split_at(rest.find('/').unwrap())
}
