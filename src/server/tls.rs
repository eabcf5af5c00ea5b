//! TLS towards senders: certificates chosen by name, client certificates if asked for.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context as _, bail};
use rustls::{
    ServerConfig,
    server::{ClientHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use crate::{
    acme::{self, Certificates, Held},
    clock::UnixTime,
    config::Tls,
    pem,
};

/// The acceptor's configuration, with what is told of its certificates.
pub struct Acceptor {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    shown: Arc<ByName>,
}

impl Acceptor {
    /// The end of the certificate that is shown for a name; empty: for senders that name no host, or an unknown one.
    pub fn expiries(&self) -> Vec<(String, UnixTime)> {
        self.shown.expiries()
    }

    /// What to say of each certificate that is over.
    pub fn faults(&self, now: UnixTime) -> Vec<String> {
        let expiries = self.expiries();
        let over = expiries.iter().filter(|(_, end)| *end <= now);
        over.map(|(name, end)| match name.as_str() {
            "" => format!("the first certificate ended at {end}; senders refuse it"),
            name => format!("the certificate for {name} ended at {end}; senders refuse it"),
        })
        .collect()
    }
}

/// Reads certificates and keys and makes the acceptor's configuration. With the tickets of an earlier one sessions that began there
/// resume here; a resumed session shows no client certificate again, so they may only come from one that asked for the same.
///
/// # Errors
/// If a file cannot be read, a key does not fit its certificate, or a certificate names no host; the text names the file.
pub fn server_config(
    tls: &Tls,
    tickets: Option<Arc<dyn ProducesTickets>>,
    obtained: &Arc<Certificates>,
) -> anyhow::Result<Acceptor> {
    let obtained = tls.acme.is_some().then(|| obtained.clone());
    let shown = Arc::new(ByName::load(tls, obtained)?);
    let builder = ServerConfig::builder();
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder(Arc::new(pem::authorities(path)?))
                .build()
                .with_context(|| format!("{}: cannot be used", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(shown.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if tls.acme.is_some() {
        config.alpn_protocols.push(acme::PROTOCOL.to_vec());
    }
    // Every suite here is strong; that one of several is chosen here, not by the sender, is what scanners look for.
    config.ignore_client_order = true;
    // Sessions resume without state here: memory does not grow with the number of senders.
    config.ticketer = match tickets {
        Some(tickets) => tickets,
        None => rustls::crypto::aws_lc_rs::Ticketer::new()
            .context("no random numbers for session tickets")?,
    };
    Ok(Acceptor {
        config: Arc::new(config),
        shown,
    })
}

/// Certificates by the names in them.
#[derive(Debug)]
struct ByName {
    names: HashMap<String, Arc<CertifiedKey>>,
    /// For senders that name no host, or one that no certificate has. Where no file holds one, what was obtained.
    first: Option<Arc<CertifiedKey>>,
    obtained: Option<Arc<Certificates>>,
}

impl ByName {
    fn load(tls: &Tls, obtained: Option<Arc<Certificates>>) -> anyhow::Result<Self> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut names = HashMap::new();
        let mut first = None;
        for files in &tls.certificates {
            let chain = pem::certificates(&files.certificate)?;
            let path = files.certificate.display();
            let own_names: Vec<String> = {
                let leaf = webpki::EndEntityCert::try_from(&chain[0])
                    .with_context(|| format!("{path}: the first certificate cannot be read"))?;
                leaf.valid_dns_names()
                    .map(str::to_ascii_lowercase)
                    .collect()
            };
            let key = pem::private_key(&files.private_key)?;
            let key = CertifiedKey::from_der(chain, key, &provider).with_context(|| {
                format!(
                    "{}: this key does not fit the certificate in {path}",
                    files.private_key.display()
                )
            })?;
            let key = Arc::new(key);
            if own_names.is_empty() && tls.certificates.len() > 1 {
                bail!("{path}: holds no DNS name, so it could never be chosen among several");
            }
            for name in own_names {
                // The file named first wins, as with routes in most servers.
                names.entry(name).or_insert_with(|| key.clone());
            }
            first.get_or_insert(key);
        }
        if first.is_none() && obtained.is_none() {
            bail!("server.tls names no certificate");
        }
        Ok(Self {
            names,
            first,
            obtained,
        })
    }

    fn expiries(&self) -> Vec<(String, UnixTime)> {
        let named = self.names.iter().map(|(name, key)| (name.clone(), key));
        let first = self.first.iter().map(|first| (String::new(), first));
        let mut expiries: Vec<_> = named
            .chain(first)
            .filter_map(|(name, key)| {
                let end = pem::not_after(key.cert.first()?)?;
                Some((name, UnixTime::from_secs(end)))
            })
            .collect();
        if let Some(held) = self.held() {
            let others = held.names.iter().cloned();
            let others = others.filter(|name| !self.names.contains_key(name));
            let first = self.first.is_none().then(String::new);
            expiries.extend(others.chain(first).map(|name| (name, held.until)));
        }
        expiries
    }

    fn held(&self) -> Option<Arc<Held>> {
        self.obtained.as_ref()?.held()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(obtained) = &self.obtained
            && let Some(mut protocols) = hello.alpn()
            && protocols.next() == Some(acme::PROTOCOL)
            && protocols.next().is_none()
        {
            return obtained.proof(hello.server_name()?);
        }
        let by_name = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            let exact = self.names.get(&name).cloned();
            let held = || {
                let held = self.held()?;
                held.names.contains(&name).then(|| held.key.clone())
            };
            let wildcard = || {
                let (_, parent) = name.split_once('.')?;
                self.names.get(&format!("*.{parent}")).cloned()
            };
            exact.or_else(held).or_else(wildcard)
        });
        let any = || Some(self.held()?.key.clone());
        by_name.or_else(|| self.first.clone()).or_else(any)
    }
}
