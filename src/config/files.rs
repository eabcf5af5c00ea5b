//! Which files a configuration names, for whoever looks whether they change.

use std::path::PathBuf;

use super::{CertificateFiles, Config, Tls, TracesConfig, UpstreamConfig};

impl Config {
    /// Every file that is read when the configuration takes effect, itself left out.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        if let Some(tls) = &self.server.tls {
            files.extend(tls.files());
        }
        files.extend(self.fetch.ca.clone());
        files.extend(self.traces.iter().flat_map(TracesConfig::files));
        for route in &self.routes {
            let secrets = route.secrets.iter().map(|secret| &secret.source);
            let secrets = secrets.chain(&route.fetch_secret);
            files.extend(secrets.filter_map(|source| source.path()));
            files.extend(route.upstream.files());
        }
        files
    }
}

impl CertificateFiles {
    fn add(&self, files: &mut Vec<PathBuf>) {
        files.extend([self.certificate.clone(), self.private_key.clone()]);
    }
}

impl TracesConfig {
    /// The files with its authorities and the values of its headers.
    pub fn files(&self) -> Vec<PathBuf> {
        let headers = self.headers.iter().filter_map(|(_, value)| value.path());
        headers.chain(self.ca.clone()).collect()
    }
}

impl Tls {
    /// The files with its certificates, keys and authorities.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        self.certificates.iter().for_each(|one| one.add(&mut files));
        files.extend(self.client_ca.clone());
        if let Some(acme) = &self.acme {
            files.extend(acme.ca.clone());
            files.extend(
                acme.external_account
                    .iter()
                    .filter_map(|own| own.key.path()),
            );
        }
        files
    }
}

impl UpstreamConfig {
    /// The files with its authorities, certificate and key.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        files.extend(self.ca.clone());
        if let Some(own) = &self.client_certificate {
            own.add(&mut files);
        }
        files
    }
}
