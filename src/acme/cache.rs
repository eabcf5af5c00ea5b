//! The folder with account, certificate and key: readable by this user alone, and written whole or not at all.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::Held;
use crate::{config::AcmeConfig, reject::Chain};

/// What was found there.
#[derive(Debug)]
pub struct Kept(pub(super) Option<Held>);

/// Looks into the folder, and makes it if it is not there. Blocks on the file system.
///
/// # Errors
/// If it cannot be written to, if the authorities to trust cannot be read, or the key of an external account: each would show only
/// when a certificate was obtained.
pub fn open(config: &AcmeConfig) -> anyhow::Result<Kept> {
    let folder = folder(config);
    let named = || format!("server.tls.acme.cache: {}", folder.display());
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&folder).with_context(named)?;
    tempfile::NamedTempFile::new_in(&folder).with_context(named)?;
    if let Some(path) = &config.ca {
        crate::pem::authorities(path).context("server.tls.acme.ca")?;
    }
    if let Some(account) = &config.external_account {
        account_key(account).context("server.tls.acme.eab_key")?;
    }
    let path = certificate(config);
    let held = match fs::read(&path).map(|text| Held::parse(&text)) {
        Ok(Ok(held)) => Some(held),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // Another is obtained: no reason not to serve.
        Ok(Err(error)) => {
            tracing::warn!(path = %path.display(), error = %Chain(&*error), "a kept certificate is of no use");
            None
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a kept certificate is of no use");
            None
        }
    };
    Ok(Kept(held))
}

/// The key of an external account as bytes.
pub(super) fn account_key(account: &crate::config::ExternalAccount) -> anyhow::Result<Vec<u8>> {
    let loaded = account
        .key
        .read()
        .with_context(|| account.key.to_string())?;
    let text = loaded.secret.expose().trim_ascii();
    let text = text.strip_suffix(b"=").unwrap_or(text);
    let text = text.strip_suffix(b"=").unwrap_or(text);
    data_encoding::BASE64URL_NOPAD
        .decode(text)
        .ok()
        .with_context(|| format!("{}: is not base64url, as authorities give it", account.key))
}

/// A folder for each authority: neither account nor certificate of one is of use at another.
fn folder(config: &AcmeConfig) -> PathBuf {
    let name = config.directory.trim_start_matches("https://");
    let name: String = name
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => c,
            _ => '-',
        })
        .collect();
    config.cache.join(name.trim_start_matches('.'))
}

/// Chain and key in one file, so that they always fit.
pub(super) fn certificate(config: &AcmeConfig) -> PathBuf {
    folder(config).join("certificate.pem")
}

/// Where the account is kept.
#[cfg_attr(
    not(feature = "acme"),
    expect(dead_code, reason = "nothing is obtained")
)]
pub(super) fn account(config: &AcmeConfig) -> PathBuf {
    folder(config).join("account.json")
}

/// Writes a file beside its place, and puts it there when it is whole and on disk.
#[cfg_attr(
    not(feature = "acme"),
    expect(dead_code, reason = "nothing is obtained")
)]
pub(super) fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // Mode 0600.
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("{}: cannot be written", path.display()))
}
