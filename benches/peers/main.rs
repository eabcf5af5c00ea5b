//! What `benches/peers/run` starts to load proxies with: senders and upstream, both ends in one process of one thread, and the bare
//! proxy that is the floor. The script says who is loaded how, takes turns and does the accounts.
//!
//! * `ends UPSTREAM`: listens there as the upstream and sends what standard input says: see [`jobs`].
//! * `bare LISTEN UPSTREAM [FOLDER]`: the floor; with the folder's certificate, over TLS.
//! * `no-pool LISTEN UPSTREAM`: what is below it: one upstream connection for each sender.
//! * `certificate FOLDER`: puts `cert.pem` and `key.pem` there, and both in `both.pem`.
//!
//! The secret of senders and floor is in `BENCH_SECRET`.

mod bare;
mod jobs;
mod sender;
mod upstream;

use std::{env, fs, path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["ends", address] => jobs::run(address.parse().expect("an address"), &secret()),
        ["bare", listen, upstream, ref folder @ ..] => {
            let tls = folder.first().map(|folder| tls(Path::new(folder)));
            bare(listen, upstream, &bare::Way::Pool, tls);
        }
        ["no-pool", listen, upstream] => bare(listen, upstream, &bare::Way::OneEach, None),
        ["certificate", folder] => certificate(Path::new(folder)),
        _ => println!("benches/peers/run starts this program"),
    }
}

fn bare(listen: &str, upstream: &str, way: &bare::Way, tls: Option<Arc<ServerConfig>>) {
    let address = |text: &str| text.parse().expect("an address");
    bare::serve(address(listen), address(upstream), way, tls, &secret());
}

#[expect(
    clippy::disallowed_methods,
    reason = "a program of its own, which the script starts"
)]
fn secret() -> Vec<u8> {
    env::var("BENCH_SECRET").expect("the script sets it").into()
}

/// What rustls does by itself.
fn tls(folder: &Path) -> Arc<ServerConfig> {
    let chain = CertificateDer::from_pem_file(folder.join("cert.pem")).expect("it was made");
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).expect("it was made");
    let config = ServerConfig::builder().with_no_client_auth();
    Arc::new(config.with_single_cert(vec![chain], key).expect("they fit"))
}

/// ECDSA with P-256, as most certificates of today.
fn certificate(folder: &Path) {
    let names = ["hooks.example.org".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (name, text) in [
        ("cert.pem", &cert),
        ("key.pem", &key),
        ("both.pem", &format!("{cert}{key}")),
    ] {
        fs::write(folder.join(name), text).expect("the folder is there");
    }
}
