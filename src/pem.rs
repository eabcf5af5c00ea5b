//! Reading certificates and keys from PEM files, with errors that name the file.

use std::path::Path;

use anyhow::{Context as _, bail};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// Every certificate in a file, in its order; at least one.
///
/// # Errors
/// If the file cannot be read or holds no certificate.
pub fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("{}: the certificates cannot be read", path.display()))?;
    if certificates.is_empty() {
        bail!(
            "{}: holds no certificate; a `-----BEGIN CERTIFICATE-----` block is needed",
            path.display()
        );
    }
    Ok(certificates)
}

/// The authorities in a file, to trust and no others.
///
/// # Errors
/// As [`certificates`], or if one of them is not a certificate authority.
pub fn authorities(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .with_context(|| format!("{}: not a certificate authority", path.display()))?;
    }
    Ok(roots)
}

/// The first private key in a file.
///
/// # Errors
/// If the file cannot be read or holds no key.
pub fn private_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path)
        .with_context(|| format!("{}: the private key cannot be read", path.display()))
}
