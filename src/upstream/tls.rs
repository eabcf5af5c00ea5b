//! TLS towards upstreams.

use anyhow::Context as _;
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::{
    config::{UpstreamConfig, UpstreamProtocol},
    pem,
};

/// The system's authorities or the route's own, the route's client certificate, and ALPN as configured.
pub(super) fn client_config(config: &UpstreamConfig) -> anyhow::Result<ClientConfig> {
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
