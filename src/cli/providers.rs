//! `countersign providers`: what is built in, how each signs, and a route to begin with.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{Failure, Outcome, print, signer::unknown};
use crate::scheme::{
    Gap, Place, Scheme,
    catalogue::{self, Provider},
    spec::SchemeSpec,
};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Id of a provider, or a word to look for in ids, names, categories and ways to sign
    #[arg(value_name = "ID|WORD")]
    what: Option<String>,
    /// Print JSON: a list, or one object for an id
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print the table of docs/providers.md
    #[arg(long, hide = true, conflicts_with = "what")]
    markdown: bool,
}

/// A provider with its schemes, the default first.
#[derive(Serialize)]
struct Listed {
    id: &'static str,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<String>,
    evidence: String,
    checked: String,
    docs: Vec<String>,
    notes: Vec<String>,
    schemes: Vec<ListedScheme>,
    /// Kinds of requests that try an address, and whether they are signed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    handshakes: Vec<String>,
}

#[derive(Serialize)]
struct ListedScheme {
    /// What a route writes: `github`, `github:sha1`.
    scheme: String,
    /// Its name in the file: `sha1`.
    name: String,
    status: String,
    signs_with: String,
    not_covered: Vec<&'static str>,
    signature: String,
    /// Templates of the signed content; a list of several: each is tried.
    content: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tolerance_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    secret: &'static str,
    /// Parameters that the route has to give.
    params: Vec<String>,
    notes: Vec<String>,
}

impl Listed {
    fn of(provider: Provider) -> Self {
        let Provider { id, spec } = provider;
        let default = spec.default_scheme().to_owned();
        let mut names: Vec<_> = spec.scheme.keys().collect();
        names.sort_by_key(|name| **name != default);
        let schemes = names
            .into_iter()
            .map(|name| {
                let scheme = if *name == default {
                    id.to_owned()
                } else {
                    format!("{id}:{name}")
                };
                let written = catalogue::find(&scheme).unwrap_or_default();
                ListedScheme::of(scheme, name, &written)
            })
            .collect();
        let mut handshakes: Vec<_> = spec
            .handshake
            .iter()
            .map(|shake| match shake.signed {
                true => format!("{} (signed)", shake.kind),
                false => shake.kind.clone(),
            })
            .collect();
        handshakes.dedup();
        Self {
            id,
            name: spec.name,
            category: spec.category,
            evidence: spec.evidence,
            checked: spec.checked,
            docs: spec.docs,
            notes: spec.notes,
            schemes,
            handshakes,
        }
    }

    /// Whether a word occurs where people would look for it.
    fn mentions(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&word);
        has(self.id)
            || has(&self.name)
            || self.category.as_deref().is_some_and(has)
            || self
                .schemes
                .iter()
                .any(|scheme| has(&scheme.scheme) || has(&scheme.signs_with))
    }

    /// A route for the default scheme, which parses as it stands.
    fn route(&self) -> String {
        let Some(scheme) = self.schemes.first() else {
            return String::new();
        };
        let (id, name) = (self.id, &scheme.scheme);
        let mut route = format!(
            "[[route]]\nname     = \"{id}\"\npath     = \"/webhooks/{id}\"\nscheme   = \"{name}\"\n"
        );
        if !scheme.params.is_empty() {
            let params: Vec<_> = scheme
                .params
                .iter()
                .map(|name| format!("{name} = \"{}\"", sample(name)))
                .collect();
            let _ = writeln!(route, "params   = {{ {} }}", params.join(", "));
        }
        let month = self.checked.get(..7).unwrap_or("first");
        let _ = writeln!(
            route,
            "secrets  = [{{ id = \"{month}\", file = \"secrets/{id}\" }}]   # {}",
            scheme.secret
        );
        route.push_str("upstream = \"http://127.0.0.1:3000\"\n");
        route
    }
}

impl ListedScheme {
    fn of(scheme: String, name: &str, spec: &SchemeSpec) -> Self {
        let params = Scheme::parameters(spec);
        let samples: BTreeMap<_, _> = params
            .iter()
            .map(|name| (name.clone(), sample(name)))
            .collect();
        // Every file of the catalogue compiles; a test sees to that.
        let compiled = Scheme::compile(&scheme, spec, &samples).unwrap_or_else(|_| Scheme::none());
        let text = |place: Option<&Place>| place.map(ToString::to_string);
        Self {
            scheme,
            name: name.to_owned(),
            status: spec.status.clone().unwrap_or_else(|| "current".to_owned()),
            signs_with: compiled.how(),
            not_covered: compiled.gaps().into_iter().map(Gap::name).collect(),
            signature: text(compiled.signature_place().as_ref()).unwrap_or_default(),
            content: match spec.content.0.is_empty() {
                true if compiled.signs_content() => vec!["{body}".to_owned()],
                _ => spec.content.0.clone(),
            },
            timestamp: text(compiled.timestamp_place()),
            tolerance_seconds: compiled.tolerance().map(|tolerance| tolerance.as_secs()),
            id: text(compiled.id_place()),
            secret: compiled.secret_form(),
            params,
            notes: spec.notes.clone(),
        }
    }

    fn status_word(&self) -> String {
        match &*self.status {
            "current" => String::new(),
            status => format!(" ({status})"),
        }
    }

    fn gaps(&self) -> String {
        self.not_covered.join(", ")
    }
}

/// What stands for a parameter until the operator writes it. It can be the name of a header or a query parameter too.
fn sample(name: &str) -> String {
    format!("your-{}", name.replace('_', "-"))
}

pub(super) fn run(args: &Args) -> Outcome {
    let all = || catalogue::providers().map(Listed::of);
    if args.markdown {
        return print(markdown(&all().collect::<Vec<_>>()));
    }
    let Some(what) = &args.what else {
        return print_list(&all().collect::<Vec<_>>(), args.json);
    };
    let (id, scheme) = catalogue::split(what);
    if let Some(provider) = catalogue::provider(id).map(Listed::of) {
        if scheme.is_some_and(|name| !provider.schemes.iter().any(|known| known.name == name)) {
            return Err(Failure::Usage(unknown(
                "scheme",
                what,
                &provider
                    .schemes
                    .iter()
                    .map(|known| format!("{id}:{}", known.name))
                    .collect::<Vec<_>>(),
            )));
        }
        if args.json {
            let mut object = serde_json::to_value(&provider)?;
            object["route"] = provider.route().into();
            return print(format_args!("{}\n", serde_json::to_string_pretty(&object)?));
        }
        return print(detail(&provider));
    }
    let found: Vec<_> = all().filter(|provider| provider.mentions(what)).collect();
    if found.is_empty() {
        let ids: Vec<_> = catalogue::ids().map(str::to_owned).collect();
        return Err(Failure::Usage(unknown("provider", what, &ids)));
    }
    print_list(&found, args.json)
}

fn print_list(providers: &[Listed], json: bool) -> Outcome {
    if json {
        let list = serde_json::to_string_pretty(providers)?;
        return print(format_args!("{list}\n"));
    }
    print(table(providers))
}

/// One line for each scheme, fit for a terminal of 100 columns.
fn table(providers: &[Listed]) -> String {
    let mut rows = vec![["SCHEME", "HOW IT SIGNS", "NOT COVERED", "KNOWN FROM"].map(str::to_owned)];
    for provider in providers {
        for scheme in &provider.schemes {
            rows.push([
                format!("{}{}", scheme.scheme, scheme.status_word()),
                scheme.signs_with.clone(),
                scheme.gaps(),
                provider.evidence.clone(),
            ]);
        }
    }
    let widths: [usize; 4] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let _ = write!(
        text,
        "\n{}. Not covered: what one who saw a delivery could change, or send again.\n\
         More on one, with a route to begin with: countersign providers ID\n",
        count(providers)
    );
    text
}

fn count(providers: &[Listed]) -> String {
    let plural = |number: usize| if number == 1 { "" } else { "s" };
    let schemes = providers
        .iter()
        .map(|provider| provider.schemes.len())
        .sum();
    format!(
        "{} provider{}, {schemes} scheme{}",
        providers.len(),
        plural(providers.len()),
        plural(schemes)
    )
}

fn detail(provider: &Listed) -> String {
    let mut text = format!("{} ({})", provider.name, provider.id);
    if let Some(category) = &provider.category {
        let _ = write!(text, ", {category}");
    }
    let known = match &*provider.evidence {
        "source" => "the provider's own code",
        "docs" => "the provider's own pages",
        _ => "receivers and libraries of others that agree",
    };
    let _ = write!(text, "\nknown from {known}, read {}\n", provider.checked);
    for page in &provider.docs {
        let _ = writeln!(text, "  {page}");
    }
    for note in &provider.notes {
        let _ = writeln!(text, "* {note}");
    }
    for scheme in &provider.schemes {
        let _ = writeln!(text, "\nscheme {}{}", scheme.scheme, scheme.status_word());
        let mut line = |what: &str, value: &str| {
            let _ = writeln!(text, "  {what:12} {value}");
        };
        line("how", &scheme.signs_with);
        for content in &scheme.content {
            line("signed", content);
        }
        line("signature", &scheme.signature);
        if let (Some(place), Some(seconds)) = (&scheme.timestamp, scheme.tolerance_seconds) {
            line("time", &format!("{place}, may be {seconds} s off"));
        }
        if let Some(place) = &scheme.id {
            line("delivery id", place);
        }
        line("secret", scheme.secret);
        if !scheme.params.is_empty() {
            line("params", &scheme.params.join(", "));
        }
        line(
            "not covered",
            match &*scheme.not_covered {
                [] => "nothing",
                ["everything"] => "everything: the secret itself is sent",
                ["body"] => "the body, or parts of it",
                ["time"] => "the time: a captured request verifies for as long as the secret lives",
                _ => "the body, or parts of it, and the time",
            },
        );
        for note in &scheme.notes {
            let _ = writeln!(text, "  * {note}");
        }
    }
    if !provider.handshakes.is_empty() {
        let _ = writeln!(text, "\nhandshakes: {}", provider.handshakes.join(", "));
    }
    let _ = write!(text, "\n{}", provider.route());
    text
}

/// The table of `docs/providers.md`: one line for each provider.
fn markdown(providers: &[Listed]) -> String {
    let mut text = format!(
        "{}.\n\n| Id | Name | Schemes | How it signs | Handshakes | Known from | Not covered |\n|---|---|---|---|---|---|---|\n",
        count(providers)
    );
    for provider in providers {
        let Listed {
            id,
            name,
            schemes,
            handshakes,
            ..
        } = provider;
        let words: Vec<_> = schemes
            .iter()
            .map(|scheme| format!("`{}`{}", scheme.name, scheme.status_word()))
            .collect();
        let _ = writeln!(
            text,
            "| [`{id}`](../config/providers/{id}.toml) | {name} | {} | {} | {} | {}, {} | {} |",
            words.join(", "),
            joined(schemes.iter().map(|scheme| scheme.signs_with.clone())),
            handshakes.join(", "),
            provider.evidence,
            provider.checked,
            joined(schemes.iter().map(ListedScheme::gaps)),
        );
    }
    text
}

/// One text where all schemes say the same.
fn joined(cells: impl Iterator<Item = String>) -> String {
    let mut cells: Vec<_> = cells.collect();
    if cells.iter().all(|cell| *cell == cells[0]) {
        return cells.swap_remove(0);
    }
    for cell in &mut cells {
        if cell.is_empty() {
            "nothing".clone_into(cell);
        }
    }
    cells.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Flags, Source};

    fn all() -> Vec<Listed> {
        catalogue::providers().map(Listed::of).collect()
    }

    #[test]
    fn every_route_is_a_configuration() {
        for provider in all() {
            let route = provider.route();
            let loaded = config::load(&Source::Stdin(route.clone()), &[], &Flags::default());
            let loaded = loaded.unwrap_or_else(|errors| panic!("{route}\n{errors}"));
            let [made] = &loaded.config.routes[..] else {
                panic!("{route}")
            };
            assert_eq!(made.scheme.name(), provider.id);
            // Of the signature itself it may warn, of what we wrote not.
            for warning in &loaded.warnings {
                assert!(warning.path.ends_with(".scheme"), "{route}\n{warning}");
            }
        }
    }

    #[test]
    fn every_scheme_says_how_it_signs() {
        for scheme in all().iter().flat_map(|provider| &provider.schemes) {
            assert_ne!(scheme.signs_with, "nothing", "{}", scheme.scheme);
            assert!(!scheme.signature.is_empty(), "{}", scheme.scheme);
        }
    }

    #[test]
    fn the_table_fits_a_terminal() {
        for line in table(&all()).lines() {
            assert!(line.len() <= 100, "{line}");
        }
    }

    #[test]
    fn the_document_holds_the_table() {
        let page = include_str!("../../docs/providers.md");
        assert!(
            page.contains(&markdown(&all())),
            "docs/providers.md is not what config/providers says: run scripts/providers-table"
        );
    }
}
