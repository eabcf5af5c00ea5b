//! The address of a sender that trusted proxies stand before.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};

use super::{Head, url};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Head {
    /// Whom the request comes from: the other end of the connection or, where that is a trusted proxy, the last address before it
    /// and the trusted ones before that. `None`: not known, or said in a way that cannot be read.
    pub fn sender(&self) -> Option<IpAddr> {
        match self.peer.trusted {
            false => self.peer.address,
            true => before(&self.headers, self.peer.address, &|address| {
                self.peer.proxies.iter().any(|net| net.contains(&address))
            }),
        }
    }
}

/// Goes back through the proxies as long as each is trusted. What stands before the first that is not may be its invention.
fn before(
    headers: &HeaderMap,
    peer: Option<IpAddr>,
    is_trusted: &dyn Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let (name, read): (_, fn(&str) -> Option<IpAddr>) = match headers.contains_key(X_FORWARDED_FOR)
    {
        true => (X_FORWARDED_FOR, node),
        false => (header::FORWARDED, |element| {
            url::forwarded_for(element).and_then(node)
        }),
    };
    let mut sender = peer;
    for line in headers.get_all(name).iter().rev() {
        for element in line.to_str().ok()?.rsplit(',') {
            let address = read(element.trim_matches([' ', '\t']))?;
            sender = Some(address);
            if !is_trusted(address) {
                return sender;
            }
        }
    }
    sender
}

/// An address, also with a port as some proxies write it; IPv6 also in brackets.
fn node(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address = match bare.parse() {
        Ok(address) => address,
        Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn sender(lines: &[(&'static str, &'static str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let trusted = |address: IpAddr| {
            ["10.0.0.1", "10.0.0.2", "2001:db8::1"]
                .iter()
                .any(|known| known.parse() == Ok(address))
        };
        let peer = "10.0.0.1".parse().ok();
        before(&headers, peer, &trusted).map(|address| address.to_string())
    }

    #[test]
    fn the_last_address_that_is_no_trusted_proxy_is_the_senders() {
        let xff = "x-forwarded-for";
        for (lines, want) in [
            (&[][..], "10.0.0.1"),
            (&[(xff, "192.0.2.7")], "192.0.2.7"),
            (&[(xff, "192.0.2.7, 10.0.0.2")], "192.0.2.7"),
            (&[(xff, "192.0.2.8, 192.0.2.7, 10.0.0.2")], "192.0.2.7"),
            (&[(xff, "lies, 192.0.2.7")], "192.0.2.7"),
            (&[(xff, "192.0.2.8"), (xff, "192.0.2.7")], "192.0.2.7"),
            (&[(xff, "192.0.2.7:4711")], "192.0.2.7"),
            (&[(xff, "::ffff:192.0.2.7")], "192.0.2.7"),
            (&[(xff, "[2001:db8::7]:4711, 2001:db8::1")], "2001:db8::7"),
            (&[(xff, "[2001:db8::7]")], "2001:db8::7"),
            (&[(xff, "10.0.0.2")], "10.0.0.2"),
            (
                &[(xff, "192.0.2.7"), ("forwarded", "for=192.0.2.8")],
                "192.0.2.7",
            ),
            (&[("forwarded", "for=192.0.2.7")], "192.0.2.7"),
            (
                &[(
                    "forwarded",
                    "For=192.0.2.8, proto=https;for=\"192.0.2.7:80\"",
                )],
                "192.0.2.7",
            ),
            (
                &[(
                    "forwarded",
                    "for=192.0.2.7;host=\"a\", for=\"[2001:db8::1]\"",
                )],
                "192.0.2.7",
            ),
        ] {
            assert_eq!(sender(lines).as_deref(), Some(want), "{lines:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_names_nobody() {
        let xff = "x-forwarded-for";
        for lines in [
            &[(xff, "unknown")][..],
            &[(xff, "")],
            &[(xff, "192.0.2.7,")],
            &[(xff, "192.0.2.7, , 10.0.0.2")],
            &[(xff, "192.0.2.7 10.0.0.2")],
            &[(xff, "[192.0.2.7")],
            &[("forwarded", "proto=https")],
            &[("forwarded", "for=_hidden")],
            &[("forwarded", "for=192.0.2.7;for=192.0.2.8")],
            &[("forwarded", "for=192.0.2.9;host=\"a, for=192.0.2.7\"")],
            &[(
                "forwarded",
                "for=192.0.2.9;host=\"a, for=192.0.2.7;by=\\\"b\"",
            )],
        ] {
            assert_eq!(sender(lines), None, "{lines:?}");
        }
    }
}
