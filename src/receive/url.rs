//! The URL by which a sender knows what it sends to, for schemes that sign it.

use http::{HeaderMap, HeaderName, header, uri::Authority};

use super::Head;
use crate::route::Route;

const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// A URL, byte for byte as the sender is taken to have it.
#[derive(Debug)]
pub struct Url {
    text: String,
    /// Where path and query begin.
    target: usize,
}

impl Url {
    /// The whole of it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.text[self.target..]
    }

    fn new(proto: &str, host: &str, prefix: &str, target: &str) -> Self {
        let origin = format!("{proto}://{host}");
        Self {
            target: origin.len(),
            text: [&origin, prefix, target].concat(),
        }
    }
}

impl Head {
    /// The URL that the sender used: what the route is configured with, or else what a trusted proxy says, or else what this end
    /// of the connection shows. `None`: the proxy says it in a way that could be read in several.
    pub fn public_url(&self, route: &Route) -> Option<Url> {
        let target = self.view(None).target;
        if let Some(public) = &route.public_url {
            let (text, target) = public.of(target);
            return Some(Url { text, target });
        }
        let proto = if self.peer.tls { "https" } else { "http" };
        let host = std::str::from_utf8(self.host.as_bytes()).ok()?;
        if !self.peer.trusted {
            return Some(Url::new(proto, host, "", target));
        }
        let Forwarded {
            proto: outer_proto,
            host: outer_host,
            port,
            prefix,
        } = Forwarded::read(&self.headers).ok()?;
        let proto = outer_proto.unwrap_or(proto);
        let mut host = outer_host.unwrap_or(host).to_owned();
        let usual = if proto == "https" { "443" } else { "80" };
        if let Some(port) = port
            && port != usual
            && host.parse::<Authority>().ok()?.port().is_none()
        {
            host = format!("{host}:{port}");
        }
        Some(Url::new(proto, &host, prefix, target))
    }
}

/// Whom an element of `Forwarded` names as the other end, if it names one.
pub(super) fn forwarded_for(element: &str) -> Option<&str> {
    let mut node = None;
    for pair in element.split(';') {
        let (name, value) = pair_of(pair).ok()?;
        if name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
            return None;
        }
    }
    node
}

/// Name and value, the quotes taken off.
fn pair_of(text: &str) -> Result<(&str, &str), Unclear> {
    let pair = text.trim_matches([' ', '\t']);
    let (name, value) = pair.split_once('=').ok_or(Unclear)?;
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').ok_or(Unclear)?,
        None => value,
    };
    // Nothing that we look for needs an escape, or may hold the separator.
    match value.contains(['"', '\\']) {
        true => Err(Unclear),
        false => Ok((name, value)),
    }
}

/// A value that is malformed, or one of several, of which the sender might have written one.
#[derive(Debug)]
struct Unclear;

/// What a proxy says about the request that it got.
#[derive(Debug, Default, PartialEq, Eq)]
struct Forwarded<'h> {
    proto: Option<&'static str>,
    host: Option<&'h str>,
    port: Option<&'h str>,
    prefix: &'h str,
}

impl<'h> Forwarded<'h> {
    /// Reads `X-Forwarded-*`, or `Forwarded` (RFC 7239) if there is none of those: a proxy that writes the ones may let a sender's
    /// others pass.
    fn read(headers: &'h HeaderMap) -> Result<Self, Unclear> {
        let names = [PROTO, HOST, PORT, PREFIX];
        if !names.iter().any(|name| headers.contains_key(name)) {
            return match only(headers, &header::FORWARDED)? {
                None => Ok(Self::default()),
                Some(element) => Self::element(element),
            };
        }
        Ok(Self {
            proto: only(headers, &PROTO)?.map(known_proto).transpose()?,
            host: only(headers, &HOST)?.map(valid_host).transpose()?,
            port: only(headers, &PORT)?.map(valid_port).transpose()?,
            prefix: only(headers, &PREFIX)?.map_or(Ok(""), valid_prefix)?,
        })
    }

    /// The only element of a `Forwarded`.
    fn element(text: &'h str) -> Result<Self, Unclear> {
        let mut read = Self::default();
        for pair in text.split(';') {
            let (name, value) = pair_of(pair)?;
            if name.eq_ignore_ascii_case("proto") && read.proto.is_none() {
                read.proto = Some(known_proto(value)?);
            } else if name.eq_ignore_ascii_case("host") && read.host.is_none() {
                read.host = Some(valid_host(value)?);
            } else if !name.eq_ignore_ascii_case("for") && !name.eq_ignore_ascii_case("by") {
                return Err(Unclear);
            }
        }
        Ok(read)
    }
}

/// The header's one value, if there is one.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Unclear> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(value) if values.next().is_none() && !value.contains(',') => Ok(Some(value)),
        _ => Err(Unclear),
    }
}

fn known_proto(value: &str) -> Result<&'static str, Unclear> {
    ["https", "http"]
        .into_iter()
        .find(|proto| value.eq_ignore_ascii_case(proto))
        .ok_or(Unclear)
}

fn valid_host(value: &str) -> Result<&str, Unclear> {
    match value.parse::<Authority>() {
        Ok(_) if !value.contains('@') => Ok(value),
        _ => Err(Unclear),
    }
}

fn valid_port(value: &str) -> Result<&str, Unclear> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse::<u16>() {
        Ok(number) if digits && number > 0 => Ok(value),
        _ => Err(Unclear),
    }
}

/// A path without the `/` at its end, which the target begins with.
fn valid_prefix(value: &str) -> Result<&str, Unclear> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
    match value.starts_with('/') && value.bytes().all(plain) {
        true => Ok(value.strip_suffix('/').unwrap_or(value)),
        false => Err(Unclear),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            })
    }

    #[test]
    fn reads_what_proxies_write() {
        let read = |lines: &[_]| {
            let headers = headers(lines);
            Forwarded::read(&headers).ok().map(|said| {
                (
                    said.proto.unwrap_or("-"),
                    said.host.unwrap_or("-").to_owned(),
                    said.port.unwrap_or("-").to_owned(),
                    said.prefix.to_owned(),
                )
            })
        };
        let said = |proto, host: &str, port: &str, prefix: &str| {
            Some((proto, host.to_owned(), port.to_owned(), prefix.to_owned()))
        };
        assert_eq!(read(&[]), said("-", "-", "-", ""));
        assert_eq!(
            read(&[
                ("x-forwarded-proto", "HTTPS"),
                ("x-forwarded-host", "A.example"),
                ("x-forwarded-port", "8443"),
                ("x-forwarded-prefix", "/in/"),
                ("forwarded", "proto=http;host=evil.example"),
            ]),
            said("https", "A.example", "8443", "/in")
        );
        assert_eq!(
            read(&[(
                "forwarded",
                "for=\"[::1]\";Proto=https; host=\"a.example:8443\""
            )]),
            said("https", "a.example:8443", "-", "")
        );
        for lines in [
            &[("x-forwarded-proto", "https, http")][..],
            &[
                ("x-forwarded-proto", "https"),
                ("x-forwarded-proto", "https"),
            ],
            &[("x-forwarded-proto", "ftp")],
            &[("x-forwarded-host", "a.example, b.example")],
            &[("x-forwarded-host", "me@a.example")],
            &[("x-forwarded-host", "a.example/x")],
            &[("x-forwarded-host", "")],
            &[("x-forwarded-port", "+443")],
            &[("x-forwarded-port", "0")],
            &[("x-forwarded-prefix", "in")],
            &[("x-forwarded-prefix", "/in?x")],
            &[("x-forwarded-prefix", "/a b")],
            &[("forwarded", "proto=https, proto=https")],
            &[("forwarded", "proto=https;proto=https")],
            &[("forwarded", "host=\"a.example")],
            &[("forwarded", "host=\"a\\.example\"")],
            &[("forwarded", "proto")],
        ] {
            assert_eq!(read(lines), None, "{lines:?}");
        }
    }
}
