//! The providers that are built in: one file each under `config/providers/`.

use std::collections::BTreeMap;

use super::{
    Scheme, SpecError,
    spec::{ProviderSpec, SchemeSpec},
};

/// Provider id and file, in alphabetical order: every file there is, as `build.rs` found them.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/providers.rs"));

/// One entry: its id and its file's content.
pub struct Provider {
    /// The id, as `scheme = "…"` names it.
    pub id: &'static str,
    /// What the file says.
    pub spec: ProviderSpec,
}

/// Every provider, in alphabetical order.
///
/// # Panics
/// If a file is not valid. A test reads them all, so that no build with such a file passes.
pub fn providers() -> impl Iterator<Item = Provider> {
    FILES.iter().map(|(id, text)| read(id, text))
}

/// The id of every provider, in alphabetical order.
pub fn ids() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(id, _)| *id)
}

/// The provider of this id.
///
/// # Panics
/// As [`providers`].
pub fn provider(id: &str) -> Option<Provider> {
    FILES
        .iter()
        .find(|(known, _)| *known == id)
        .map(|(id, text)| read(id, text))
}

fn read(id: &'static str, text: &str) -> Provider {
    Provider {
        id,
        spec: toml::from_str(text)
            .unwrap_or_else(|error| panic!("config/providers/{id}.toml: {error}")),
    }
}

/// Every name that [`find`] takes: `carevalidate`, `carevalidate:custom-header`, and `none`.
pub fn names() -> Vec<String> {
    let mut names = vec![Scheme::NONE.to_owned()];
    for provider in providers() {
        for scheme in provider.spec.scheme.keys() {
            names.push(if scheme == provider.spec.default_scheme() {
                provider.id.to_owned()
            } else {
                format!("{}:{scheme}", provider.id)
            });
        }
    }
    names
}

/// Provider id and scheme of a name; no scheme: the provider's default.
pub fn split(name: &str) -> (&str, Option<&str>) {
    match name.split_once(':') {
        Some((provider, scheme)) => (provider, Some(scheme)),
        None => (name, None),
    }
}

/// The written scheme behind a name such as `carevalidate` or `carevalidate:custom-header`.
pub fn find(name: &str) -> Option<SchemeSpec> {
    let (provider, scheme) = split(name);
    let spec = self::provider(provider)?.spec;
    let scheme = scheme.unwrap_or(spec.default_scheme()).to_owned();
    select(spec, &scheme)
}

/// A scheme of a file, with the handshakes that belong to it.
fn select(mut spec: ProviderSpec, scheme: &str) -> Option<SchemeSpec> {
    let mut found = spec.scheme.remove(scheme)?;
    for mut handshake in spec.handshake {
        let schemes = std::mem::take(&mut handshake.schemes);
        if schemes.is_empty() || schemes.iter().any(|of| of == scheme) {
            found.handshake.push(handshake);
        }
    }
    Some(found)
}

/// Looks a scheme up by name and compiles it.
///
/// # Errors
/// `None` inside if there is no such name, otherwise what is wrong with `params`.
pub fn compile(
    name: &str,
    params: &BTreeMap<String, String>,
) -> Result<Scheme, Option<Vec<SpecError>>> {
    if name == Scheme::NONE && params.is_empty() {
        return Ok(Scheme::none());
    }
    let spec = find(name).ok_or(None)?;
    Scheme::compile(name, &spec, params).map_err(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_go_with_the_schemes_that_they_name() {
        let file = r#"
            name = "Acme"
            docs = []
            checked = "2026-11-25"
            evidence = "docs"
            [scheme.a]
            [scheme.b]
            [[handshake]]
            kind = "ping"
            [[handshake]]
            kind = "head-ok"
            schemes = ["b"]
        "#;
        for (scheme, want) in [("a", &["ping"][..]), ("b", &["ping", "head-ok"])] {
            let spec = select(toml::from_str(file).unwrap(), scheme).unwrap();
            let kinds: Vec<_> = spec.handshake.iter().map(|of| &*of.kind).collect();
            assert_eq!(kinds, want, "{scheme}");
        }
    }

    #[test]
    fn handshakes_name_schemes_that_there_are() {
        for provider in providers() {
            for scheme in provider.spec.handshake.iter().flat_map(|of| &of.schemes) {
                assert!(
                    provider.spec.scheme.contains_key(scheme),
                    "{}: {scheme}",
                    provider.id
                );
            }
        }
    }
}
