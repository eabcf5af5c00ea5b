//! `public_url`: the address by which a sender knows a route.

use http::uri::Authority;

/// What stands in front of a request's target in the URL that its sender signs. Written as the sender has it: no byte is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// Scheme, host and path, up to the target or the rest of it.
    base: String,
    /// How much of the target it stands for.
    replaces: usize,
}

impl PublicUrl {
    /// Reads it for a route whose path pattern begins with `prefix` and goes on as it likes, or not at all (`None`).
    ///
    /// # Errors
    /// What is wrong, and what to write. They never repeat the text: it may hold a password.
    pub(super) fn parse(
        written: &str,
        prefix: Option<&str>,
    ) -> Result<Self, (&'static str, &'static str)> {
        let rest = written
            .strip_prefix("https://")
            .or_else(|| written.strip_prefix("http://"));
        let Some(rest) = rest else {
            return Err((
                "this public URL begins neither with `https://` nor with `http://`",
                "write what the sender has, up to the path, such as `https://hooks.example.org`",
            ));
        };
        if rest.contains('@') {
            return Err((
                "a public URL may not hold a user or password",
                "remove what stands before `@`, here and in the address that the sender has",
            ));
        }
        if rest.contains(['?', '#']) {
            return Err((
                "this public URL has a query or a fragment",
                "remove it: path and query of each request are added",
            ));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let valid = |authority: &Authority| {
            let port = authority.as_str().get(authority.host().len()..);
            port == Some("") || authority.port_u16().is_some_and(|port| port > 0)
        };
        if !authority.parse().is_ok_and(|authority| valid(&authority)) {
            return Err((
                "this public URL has no valid host",
                "write it such as `https://hooks.example.org` or `https://hooks.example.org:8443`",
            ));
        }
        if path.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err((
                "the path of this public URL holds a blank or a character outside ASCII",
                "write it as it stands in the request line, with `%` escapes",
            ));
        }
        if let Some(base) = written.strip_suffix("/*") {
            let Some(prefix) = prefix else {
                return Err((
                    "this public URL ends in `/*`, and the route's `path` does not",
                    "write what stands before the path, such as `https://hooks.example.org`, \
                     or give the route a path that ends in `/*`",
                ));
            };
            return Ok(Self {
                base: base.to_owned(),
                // The pattern's last `/` stays: it is the first of what follows.
                replaces: prefix.len() - 1,
            });
        }
        if path.ends_with('/') {
            return Err((
                "this public URL ends in `/`, and every path begins with one",
                "remove the last `/`",
            ));
        }
        Ok(Self {
            base: written.to_owned(),
            replaces: 0,
        })
    }

    /// Whether it ends in the path of its own route, which would then stand there twice.
    pub(super) fn holds_path(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.replaces == 0 && !path.is_empty() && self.base.ends_with(path)
    }

    /// The URL of a request with this target, and where path and query begin in it.
    pub fn of(&self, target: &str) -> (String, usize) {
        let host = self.base.find("://").map_or(0, |scheme| scheme + 3);
        let path = self.base[host..].find('/');
        let path = path.map_or(self.base.len(), |path| host + path);
        let url = [&self.base, target.get(self.replaces..).unwrap_or(target)].concat();
        (url, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_before_the_target_byte_for_byte() {
        for (written, prefix, target, url, path) in [
            (
                "https://a.example",
                None,
                "/t?x=%41",
                "https://a.example/t?x=%41",
                "/t?x=%41",
            ),
            (
                "https://A.example:443",
                None,
                "/t",
                "https://A.example:443/t",
                "/t",
            ),
            (
                "http://[::1]:80/in/x",
                None,
                "/t?",
                "http://[::1]:80/in/x/t?",
                "/in/x/t?",
            ),
            (
                "https://a.example/x",
                Some("/"),
                "/",
                "https://a.example/x/",
                "/x/",
            ),
            (
                "https://a.example/x/*",
                Some("/"),
                "/t",
                "https://a.example/x/t",
                "/x/t",
            ),
            (
                "https://a.example/*",
                Some("/in/"),
                "/in/t?/in/",
                "https://a.example/t?/in/",
                "/t?/in/",
            ),
            (
                "https://a.example/x/*",
                Some("/in/"),
                "/in/",
                "https://a.example/x/",
                "/x/",
            ),
        ] {
            let public = PublicUrl::parse(written, prefix).unwrap();
            let (made, at) = public.of(target);
            assert_eq!((&*made, &made[at..]), (url, path), "{written}");
        }
    }

    #[test]
    fn refuses_what_no_sender_could_mean() {
        for written in [
            "",
            "a.example",
            "ftp://a.example",
            "HTTPS://a.example",
            "https://",
            "https:///x",
            "https://a.example/",
            "https://a.example/x/",
            "https://a.example/*",
            "https://a b",
            "https://a.example/a b",
            "https://a.example/\u{e4}",
            "https://a.example?x",
            "https://a.example/x#y",
            "https://me:hunter2@a.example",
            "https://a.example:port",
            "https://a.example:",
            "https://a.example:0",
        ] {
            assert!(PublicUrl::parse(written, None).is_err(), "{written}");
        }
    }

    #[test]
    fn sees_that_the_path_would_stand_twice() {
        let holds = |written, path| {
            PublicUrl::parse(written, Some(path))
                .unwrap()
                .holds_path(path)
        };
        assert!(holds("https://a.example/hooks/t", "/hooks/t"));
        assert!(holds("https://a.example/hooks", "/hooks/"));
        assert!(!holds("https://a.example", "/hooks/t"));
        assert!(!holds("https://a.example/hooks", "/t"));
        assert!(!holds("https://a.example/x", "/"));
        assert!(!holds("https://a.example/t/*", "/t/"));
    }
}
