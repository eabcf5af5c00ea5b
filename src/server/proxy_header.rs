//! The PROXY protocol, versions 1 and 2: who a load balancer's connection comes from, said in its first bytes.
//!
//! Reads the header and not a byte more: TLS or HTTP begins behind it.

use std::{io, net::IpAddr};

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::io::AsyncReadExt as _;

use crate::listen::Wire;

/// What version 2 begins with. Its length stands in the last two of the first 16 bytes.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_LEN: usize = 16;

/// The shortest header of version 1, `PROXY UNKNOWN\r\n`, and the longest that the specification knows.
const V1_LEN_MIN: usize = 15;
const V1_LEN_MAX: usize = 107;

/// Addresses and all that proxies tell besides; their certificates' names are the longest.
const V2_LEN_MAX: usize = 4096;

/// Whom a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// This address.
    Proxied(IpAddr),
    /// The proxy itself, as for its health checks, or somebody that it cannot name.
    Local,
}

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It was closed before a byte came: somebody looked whether the port is open.
    #[error("closed before the PROXY header")]
    Closed,
    /// It broke off in the header.
    #[error("the PROXY header broke off")]
    Broken(#[from] io::Error),
    /// There is no header, or one that is malformed or too long.
    #[error("the PROXY header is missing or malformed")]
    Malformed,
}

/// Reads the header that the connection begins with.
pub(super) async fn read(wire: &mut Wire) -> Result<Source, Fault> {
    let mut header = vec![0; V1_LEN_MIN];
    match wire.read(&mut header[..1]).await? {
        0 => return Err(Fault::Closed),
        read => wire.read_exact(&mut header[read..]).await?,
    };
    if header.starts_with(SIGNATURE) {
        header.resize(FIXED_LEN, 0);
        wire.read_exact(&mut header[V1_LEN_MIN..]).await?;
        let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if FIXED_LEN + rest > V2_LEN_MAX {
            return Err(Fault::Malformed);
        }
        header.resize(FIXED_LEN + rest, 0);
        wire.read_exact(&mut header[FIXED_LEN..]).await?;
    } else if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") {
            if header.len() == V1_LEN_MAX {
                return Err(Fault::Malformed);
            }
            header.push(wire.read_u8().await?);
        }
    } else {
        return Err(Fault::Malformed);
    }
    parse(&header)
}

/// Reads a header that is here whole.
fn parse(header: &[u8]) -> Result<Source, Fault> {
    match ProxyHeader::parse(header, ParseConfig::default()) {
        Ok((parsed, len)) if len == header.len() => match parsed.proxied_address() {
            None => Ok(Source::Local),
            Some(address) if address.protocol == Protocol::Stream => {
                Ok(Source::Proxied(address.source.ip().to_canonical()))
            }
            Some(_) => Err(Fault::Malformed),
        },
        Ok(_) | Err(_) => Err(Fault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2: version and command, family and protocol, what follows.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, rest].concat()
    }

    #[test]
    fn reads_both_versions() {
        let v4 = [192, 0, 2, 7, 192, 0, 2, 1, 0x30, 0x39, 0x01, 0xbb];
        let v6: Vec<u8> = [
            &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            &[0; 20][..],
        ]
        .concat();
        let tlv = [&v4[..], &[0x02, 0, 1, b'a']].concat();
        for (header, want) in [
            (
                b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 443\r\n".to_vec(),
                Some("192.0.2.7"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n".to_vec(),
                Some("2001:db8::7"),
            ),
            (
                b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n".to_vec(),
                Some("192.0.2.7"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4), Some("192.0.2.7")),
            (v2(0x21, 0x11, &tlv), Some("192.0.2.7")),
            (v2(0x21, 0x21, &v6), Some("2001:db8::7")),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &v4), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let want = want.map_or(Source::Local, |text| Source::Proxied(text.parse().unwrap()));
            assert_eq!(parse(&header).unwrap(), want, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn refuses_what_is_neither() {
        let v4 = [192, 0, 2, 7, 192, 0, 2, 1, 0x30, 0x39, 0x01, 0xbb];
        for header in [
            b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 443\r\nx".to_vec(),
            b"PROXY TCP4 192.0.2.7 192.0.2.1 12345\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.777 192.0.2.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.7 192.0.2.1 1 2\r\n".to_vec(),
            b"PROXY TCP4  192.0.2.7 192.0.2.1 1 2\r\n".to_vec(),
            v2(0x11, 0x11, &v4),
            v2(0x22, 0x11, &v4),
            v2(0x21, 0x12, &v4),
            v2(0x21, 0x41, &v4),
            v2(0x21, 0x11, &v4[..11]),
            v2(0x21, 0x21, &v4),
            v2(0x21, 0x31, &[0; 215]),
            [&v2(0x21, 0x11, &v4)[..], b"x"].concat(),
        ] {
            let parsed = parse(&header);
            assert!(
                matches!(parsed, Err(Fault::Malformed)),
                "{parsed:?}: {}",
                header.escape_ascii()
            );
        }
    }
}
