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

/// When a certificate ends, in seconds since 1970; `None` if it cannot be read.
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    Some(validity(certificate)?.1)
}

/// When a certificate begins and ends, in seconds since 1970; `None` if it cannot be read.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    // Certificate { TBSCertificate { [0] version, serial, algorithm, issuer, Validity { from, to }, … } … }
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&0xa0) {
        fields = element(fields)?.2;
    }
    for _ in ["serial", "algorithm", "issuer"] {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields)?;
    let (_, _, to) = element(validity)?;
    Some((time(validity)?, time(to)?))
}

/// The time that a DER text begins with, in seconds since 1970.
fn time(der: &[u8]) -> Option<i64> {
    let (tag, time, _) = element(der)?;
    let time = std::str::from_utf8(time).ok()?;
    let time = match (tag, time.split_at_checked(2)?) {
        // UTCTime has two digits of the year: 1950 to 2049.
        (0x17, (year, _)) if year < "50" => format!("20{time}"),
        (0x17, _) => format!("19{time}"),
        (0x18, _) => time.to_owned(),
        _ => return None,
    };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", time).ok()?;
    Some(jiff::tz::Offset::UTC.to_timestamp(time).ok()?.as_second())
}

/// The first element of a DER text: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk()?;
    let (length, rest) = match usize::from(length) {
        short @ ..0x80 => (short, rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(long - 0x80)?;
            if bytes.len() > 4 {
                return None;
            }
            let length = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// The first private key in a file.
///
/// # Errors
/// If the file cannot be read or holds no key.
pub fn private_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path)
        .with_context(|| format!("{}: the private key cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms_of_time() {
        let key = rcgen::KeyPair::generate().unwrap();
        // Two digits of the year until 2049, four from then on. From `date -u -d DATE +%s`.
        for (year, want) in [
            (1999, 915_148_800),
            (2049, 2_493_072_000),
            (2050, 2_524_608_000),
            (4096, 67_090_118_400),
        ] {
            let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let certificate = params.self_signed(&key).unwrap();
            assert_eq!(not_after(certificate.der()), Some(want), "{year}");
            for length in 0..certificate.der().len() {
                let cut = CertificateDer::from(&certificate.der()[..length]);
                assert_eq!(not_after(&cut), None, "cut at {length}");
            }
        }
    }
}
