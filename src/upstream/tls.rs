//! TLS towards upstreams.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::{
    config::{CertificateFiles, UpstreamConfig, UpstreamProtocol},
    pem,
};

/// What routes whose upstreams speak TLS alike share: the system's authorities alone take some 100 KiB and milliseconds.
#[derive(Default)]
pub struct SharedTls(HashMap<Alike, Arc<ClientConfig>>);

/// All that [`client_config`] reads of a configuration.
#[derive(PartialEq, Eq, Hash)]
struct Alike {
    ca: Option<PathBuf>,
    client_certificate: Option<CertificateFiles>,
    protocol: UpstreamProtocol,
}

impl SharedTls {
    pub(super) fn get(&mut self, config: &UpstreamConfig) -> anyhow::Result<Arc<ClientConfig>> {
        let alike = Alike {
            ca: config.ca.clone(),
            client_certificate: config.client_certificate.clone(),
            protocol: config.protocol,
        };
        Ok(match self.0.entry(alike) {
            Entry::Occupied(made) => made.get().clone(),
            Entry::Vacant(place) => place.insert(Arc::new(client_config(config)?)).clone(),
        })
    }
}

/// The system's authorities or the route's own, the route's client certificate, and ALPN as configured.
fn client_config(config: &UpstreamConfig) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder();
    let builder = match &config.ca {
        None => builder
            .with_platform_verifier()
            .context("the system's certificate authorities cannot be read")?,
        Some(path) => builder.with_root_certificates(pem::authorities(path)?),
    };
    let mut tls = match &config.client_certificate {
        None => builder.with_no_client_auth(),
        Some(files) => builder
            .with_client_auth_cert(
                pem::certificates(&files.certificate)?,
                pem::private_key(&files.private_key)?,
            )
            .with_context(|| {
                format!(
                    "{}: cannot be used as a client certificate",
                    files.certificate.display()
                )
            })?,
    };
    tls.alpn_protocols = match config.protocol {
        UpstreamProtocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        UpstreamProtocol::Http1 => vec![b"http/1.1".to_vec()],
        UpstreamProtocol::Http2 => vec![b"h2".to_vec()],
    };
    tls.resumption = rustls::client::Resumption::in_memory_sessions(256);
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Source, load};

    #[test]
    fn upstreams_share_what_they_have_alike_and_nothing_else() {
        let flags = Flags {
            scheme: Some("carevalidate".into()),
            secret_file: Some("unused".into()),
            upstream: vec!["https://127.0.0.1:1".into()],
            ..Flags::default()
        };
        let loaded = load(&Source::None, &[], &flags).unwrap();
        let one = &loaded.config.routes[0].upstream;
        let other = UpstreamConfig {
            protocol: UpstreamProtocol::Http1,
            ..one.clone()
        };
        let mut shared = SharedTls::default();
        let made = shared.get(one).unwrap();
        assert!(Arc::ptr_eq(&made, &shared.get(&one.clone()).unwrap()));
        assert!(!Arc::ptr_eq(&made, &shared.get(&other).unwrap()));
        let absent = UpstreamConfig {
            ca: Some("no/such/file".into()),
            ..one.clone()
        };
        assert!(shared.get(&absent).is_err());
    }
}
