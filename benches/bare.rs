//! The bare proxy as a program of its own, so that it can be built by a profile as the gateway is: `scripts/build-release --bare`.
//!
//! `bare --bare UPSTREAM SECRET`, or `--no-pool` for one upstream connection a sender. Ends when its standard input does, so that the counts are written.

#[path = "peers/bare.rs"]
mod floor;

use std::{env, io, net::Ipv4Addr, process, thread};

fn main() {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    let mut args = env::args().skip(1);
    let way = match args.next().as_deref() {
        Some("--no-pool") => floor::Way::OneEach,
        _ => floor::Way::Pool,
    };
    let upstream = args.next().and_then(|upstream| upstream.parse().ok());
    let upstream = upstream.expect("the upstream's address follows");
    let secret = args.next().expect("and the secret");
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    floor::serve(listen, upstream, &way, None, secret.as_bytes());
}
