//! What the documents say stays true: quoted files are the files, links lead somewhere, configurations load, nothing that
//! operators see is left out, and modules keep to the code map.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use countersign::config::{self, Flags, Source};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every Markdown file at the top and under `docs/`.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs"] {
        for entry in fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 5, "found only {found:?}");
    found
}

/// The blocks that `<!-- file: PATH -->` announces: path and text.
fn quoted(text: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(path) = line
            .strip_prefix("<!-- file: ")
            .and_then(|rest| rest.strip_suffix(" -->"))
        else {
            continue;
        };
        let fence = lines.next().unwrap_or_default();
        assert!(
            fence.starts_with("```"),
            "no fenced block behind `{line}` but `{fence}`"
        );
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        found.push((path, block.join("\n") + "\n"));
    }
    found
}

/// The targets of inline links, outside fenced blocks.
fn links(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        if !fenced {
            found.extend(
                line.split("](")
                    .skip(1)
                    .filter_map(|rest| rest.split(')').next()),
            );
        }
    }
    found
}

#[test]
fn quoted_files_equal_the_files() {
    let mut seen = BTreeSet::new();
    for document in documents() {
        for (path, block) in quoted(&fs::read_to_string(&document).unwrap()) {
            let file = fs::read_to_string(Path::new(ROOT).join(path))
                .unwrap_or_else(|error| panic!("{}: {path}: {error}", document.display()));
            assert_eq!(
                block,
                file,
                "{}: the block is not what {path} holds",
                document.display()
            );
            seen.insert(Path::new(ROOT).join(path));
        }
    }
    let recipes = fs::read_dir(Path::new(ROOT).join("docs/receivers")).unwrap();
    for folder in recipes.map(|entry| entry.unwrap().path()) {
        for file in fs::read_dir(folder).unwrap() {
            let file = file.unwrap().path();
            assert!(
                !file.is_file() || seen.contains(&file),
                "{} is quoted nowhere",
                file.display()
            );
        }
    }
}

#[test]
fn relative_links_lead_to_a_file() {
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains(':') {
                continue;
            }
            let target = document.parent().unwrap().join(path);
            assert!(
                target.exists(),
                "{}: {link} leads nowhere",
                document.display()
            );
        }
    }
}

/// One row of the code map: a module and, where the row names them, the only ones that it may import.
struct Row {
    module: String,
    only: Option<BTreeSet<String>>,
}

fn code_map() -> Vec<Row> {
    let text = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    let table = text.split("\n## Code map\n").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| [`crate::"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let module = cells[1].trim_matches(['[', ']', '`']);
        let only = (cells[3] != "rows below").then(|| {
            cells[3]
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        });
        Row {
            module: module.trim_start_matches("crate::").to_owned(),
            only,
        }
    })
    .collect()
}

/// The Rust files of a top-level module, without those that hold only tests.
fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        fs::read_dir(path)
            .unwrap()
            .flat_map(|entry| sources(&entry.unwrap().path()))
            .collect()
    } else if path.extension().is_some_and(|extension| extension == "rs")
        && path.file_stem().is_some_and(|stem| stem != "tests")
    {
        vec![path.to_owned()]
    } else {
        Vec::new()
    }
}

/// The top-level modules that code names behind `crate::`, alone or in braces. Comments and test modules do not count.
fn imports(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let mut depth = 0;
        let mut word = String::new();
        let mut first = true;
        for letter in rest.chars() {
            match letter {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => word.push(letter),
                _ => {
                    if first && !word.is_empty() {
                        found.insert(std::mem::take(&mut word));
                        first = false;
                    }
                    word.clear();
                    match letter {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => first = true,
                        _ => {}
                    }
                    if depth <= 0 {
                        break;
                    }
                }
            }
        }
    }
    found
}

#[test]
fn modules_import_only_what_the_code_map_allows() {
    let rows = code_map();
    let src = Path::new(ROOT).join("src");
    let mut faults = Vec::new();
    for entry in fs::read_dir(&src).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap();
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let Some(place) = rows.iter().position(|row| row.module == module) else {
            faults.push(format!("{module} has no row"));
            continue;
        };
        for file in sources(&path) {
            for import in imports(&fs::read_to_string(&file).unwrap()) {
                let known = rows.iter().position(|row| row.module == import);
                let allowed = import == module
                    || rows[place]
                        .only
                        .as_ref()
                        .map_or(known > Some(place), |only| only.contains(&import));
                if !allowed {
                    faults.push(format!("{} imports {import}", file.display()));
                }
            }
        }
    }
    assert!(
        faults.is_empty(),
        "against the code map of ARCHITECTURE.md:\n{}",
        faults.join("\n")
    );
    for (place, row) in rows.iter().enumerate() {
        for import in row.only.iter().flatten() {
            assert!(
                rows[place + 1..]
                    .iter()
                    .any(|below| below.module == *import),
                "{} lists {import}, which is no row below it",
                row.module
            );
        }
    }
}

#[test]
fn imports_are_found_in_every_form() {
    let source = "use crate::a;\nuse crate::{\n    b::{c, d},\n    e,\n};\n/// crate::no\nfn f() { crate::g::h(); }\n#[cfg(test)]\nuse crate::tests_only;\n";
    let want: BTreeSet<_> = ["a", "b", "e", "g"].map(str::to_owned).into();
    assert_eq!(imports(source), want);
}

/// `Upstream::send` takes a body's stream. Whoever makes one can send past the forwarder, so nobody else may. `Upstream::exchange`
/// makes one too, of requests of our own; what may call that is told here as well.
#[test]
fn only_the_forwarder_makes_streams_of_bodies() {
    let src = Path::new(ROOT).join("src");
    let (mut found, mut exchange) = (BTreeSet::new(), BTreeSet::new());
    for file in sources(&src) {
        let name = file
            .strip_prefix(&src)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let text = fs::read_to_string(&file).unwrap();
        if text.contains(".exchange(") {
            exchange.insert(name.clone());
        }
        if text.contains(".into_stream(") && !name.starts_with("body/") {
            found.insert(name);
        }
    }
    let want: BTreeSet<_> = ["forward.rs", "upstream/mod.rs"].map(str::to_owned).into();
    assert_eq!(found, want);
    let want: BTreeSet<_> = [
        "acme/directory.rs",
        "cli/client.rs",
        "export.rs",
        "fetch/get.rs",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(exchange, want);
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The blocks that `<!-- config -->` announces as whole configurations.
fn configurations(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line != "<!-- config -->" {
            continue;
        }
        assert_eq!(lines.next(), Some("```toml"), "behind `{line}`");
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        found.push(block.join("\n") + "\n");
    }
    found
}

#[test]
fn configurations_load() {
    let mut count = 0;
    for document in documents() {
        for text in configurations(&fs::read_to_string(&document).unwrap()) {
            let loaded = config::load(&Source::Stdin(text), &[], &Flags::default());
            if let Err(errors) = loaded {
                panic!("{}:\n{errors}", document.display());
            }
            count += 1;
        }
    }
    assert!(count > 5, "found only {count} configurations");
}

#[test]
fn configurations_of_the_side_by_side_load() {
    let folder = Path::new(ROOT).join("benches/peers");
    let files = fs::read_dir(folder).unwrap();
    let files: Vec<_> = files
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files {
        let loaded = config::load(&Source::File(file.clone()), &[], &Flags::default());
        if let Err(errors) = loaded {
            panic!("{}:\n{errors}", file.display());
        }
    }
}

/// Fails with all words that no table of the document explains in its first column.
fn assert_rows(document: &str, words: impl IntoIterator<Item = String>) {
    let text = read(document);
    let words: BTreeSet<_> = words.into_iter().collect();
    assert!(words.len() > 2, "found only {words:?}");
    let explained = |word: &String| {
        let row = [format!("| `{word}` |"), format!("| {word} |")];
        text.lines()
            .any(|line| row.iter().any(|row| line.starts_with(row)))
    };
    let missing: Vec<_> = words.iter().filter(|word| !explained(word)).collect();
    assert!(missing.is_empty(), "{document} lacks {missing:?}");
}

#[test]
fn every_key_is_explained() {
    let keys = config::known_keys().into_iter();
    let other = keys.filter(|key| !key.starts_with("route.scheme."));
    assert_rows("docs/configuration.md", other);
}

/// What stands under a heading of the third rank.
fn section<'t>(text: &'t str, heading: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("\n### {heading}\n"))?;
    let end = ["\n### ", "\n## "].map(|next| rest.find(next).unwrap_or(rest.len()));
    Some(&rest[..end[0].min(end[1])])
}

/// The examples in a text.
fn examples(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```toml\n").skip(1);
    blocks.filter_map(|block| block.split("```").next())
}

#[test]
fn every_key_of_schemes_is_explained_with_an_example() {
    let text = read("docs/schemes.md");
    let (_, places) = text.split_once("\n## Places\n").unwrap();
    let (places, _) = places.split_once("\n## ").unwrap();
    let explains = |text: &str, word: &str| {
        let spelled = [format!("`{word}`"), format!("`{word} = ")];
        spelled.iter().any(|spelled| text.contains(spelled))
    };
    let uses = |text: &str, word: &str| {
        let is_key = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        text.match_indices(word).any(|(at, _)| {
            is_key(at) && text[at + word.len()..].trim_start().starts_with(['=', ']'])
        })
    };
    let mut lacking = Vec::new();
    let keys = config::known_keys().into_iter();
    for key in keys.filter(|key| key.starts_with("route.scheme.")) {
        let (table, word) = key.rsplit_once('.').unwrap();
        // A key of the scheme itself is the heading; some stand with what they belong to.
        let (heading, is_heading) = match table.rsplit('.').next().unwrap() {
            "scheme" if word == "status" || word == "notes" => ("status, notes", true),
            "scheme" => (word, true),
            "challenge" => ("handshake", false),
            table => (table, false),
        };
        let Some(section) = section(&text, heading) else {
            lacking.push(format!("{key}: no section"));
            continue;
        };
        let is_place = explains(places, word) && section.contains("(#places)");
        if !is_heading && !is_place && !explains(section, word) {
            lacking.push(format!("{key}: no explanation"));
        }
        if !is_place && !examples(section).any(|example| uses(example, word)) {
            lacking.push(format!("{key}: no example"));
        }
    }
    assert!(lacking.is_empty(), "docs/schemes.md: {lacking:#?}");
}

#[test]
fn every_word_of_schemes_is_explained() {
    let text = read("docs/schemes.md");
    let source = |name: &str| read(&format!("src/scheme/{name}.rs"));
    let (compile, template, mac) = (source("compile"), source("template"), source("mac"));
    let (canonical, handshake) = (source("canonical"), source("handshake"));
    // Where the words are in the source, and how the document spells one of them.
    let tables = [
        (&mac, "const HMAC_ALGORITHMS", "];", "`…`"),
        (&mac, "const DIGEST_ALGORITHMS", "];", "`…`"),
        (&compile, "const PUBLIC", "];", "`…`"),
        (&compile, "const JOSE", "];", "`…`"),
        (&compile, "const ENCODINGS", "];", "`…`"),
        (&compile, "const UNITS", "];", "`…`"),
        (&compile, "const DECODERS", "];", "`…`"),
        (&compile, "const SECRET_DIGESTS", "];", "`…`"),
        (&compile, "fn document(", "Some((written, _))", "\"…:"),
        (&compile, "match spec.repeated", "Some(other)", "`\"…\"`"),
        (&compile, "&& ![\"current\"", "]", "`…`"),
        (&template, "const SOURCES", "];", "`{…}`"),
        (&template, "const FILTERS", "];", "`…`"),
        (&template, "Ok(match kind {", "_ => return", "`{…:"),
        (&canonical, "const ALL", "];", "`{canonical:…}`"),
        (&handshake, "const KINDS", "];", "`…`"),
        (&handshake, "const ALPHABETS", "];", "`…`"),
        (&handshake, "const METHODS", "];", "`…`"),
        (&handshake, "fn content_type(", "Some(other)", "`…`"),
    ];
    let is_word = |word: &&str| {
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-/".contains(&b);
        let upper = |b: u8| b.is_ascii_uppercase();
        !word.is_empty() && (word.bytes().all(lower) || word.bytes().all(upper))
    };
    let mut lacking = Vec::new();
    for (source, begin, end, spelling) in tables {
        let at = source.find(begin).unwrap_or_else(|| panic!("no `{begin}`"));
        let length = source[at..]
            .find(end)
            .unwrap_or_else(|| panic!("no `{end}`"));
        let literals = source[at..at + length].split('"').skip(1).step_by(2);
        let words: BTreeSet<_> = literals.filter(is_word).collect();
        assert!(!words.is_empty(), "`{begin}` has no words");
        let spelled = words.iter().map(|word| spelling.replace('…', word));
        lacking.extend(spelled.filter(|word| !text.contains(word)));
    }
    // Those that stand in no table.
    let others = [
        "`token`",
        "`jwt-…`",
        "`jws-…`",
        "`structured`",
        "`loose`",
        "`{param:NAME}`",
        "`{param:NAME?}`",
        "`{header:NAME?}`",
        "`{?query:NAME}…{/?}`",
        "`{?body}`",
        "`{n}`",
        "`\"*\"`",
        "`\"claim:payload_hash?\"`",
    ];
    let others = others.map(str::to_owned).into_iter();
    lacking.extend(others.filter(|word| !text.contains(word)));
    // The head of a provider's file.
    let spec = source("spec");
    let fields = item(&spec, "pub struct ProviderSpec").lines();
    let fields = fields.filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'));
    let rows = fields.map(|(name, _)| match name {
        "scheme" => "\n| `[scheme.NAME]` |".to_owned(),
        "handshake" => "\n| `[[handshake]]` |".to_owned(),
        name => format!("\n| `{name}` |"),
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() > 5, "{rows:?}");
    lacking.extend(rows.into_iter().filter(|row| !text.contains(row)));
    assert!(lacking.is_empty(), "docs/schemes.md lacks {lacking:#?}");
}

/// The source of an item, from the words it begins with to the brace that ends it: the first one on a line of its own
/// that is indented as the item is.
fn item<'s>(source: &'s str, begin: &str) -> &'s str {
    let at = source
        .find(begin)
        .unwrap_or_else(|| panic!("there is no `{begin}`"));
    let line = source[..at].rfind('\n').map_or(0, |end| end + 1);
    let indent = source[line..].len() - source[line..].trim_start_matches(' ').len();
    let end = format!("\n{}}}\n", " ".repeat(indent));
    let length = source[at..]
        .find(&end)
        .unwrap_or_else(|| panic!("`{begin}` has no end"));
    &source[at..at + length]
}

/// String literals that are one word of lower-case letters and `_`.
fn words(source: &str) -> Vec<String> {
    let literals = source.split('"').skip(1).step_by(2);
    literals
        .filter(|text| !text.is_empty())
        .filter(|text| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_reason_and_verdict_is_explained() {
    let reject = read("src/reject.rs");
    let claim = read("src/scheme/claim.rs");
    // Most codes are the reason as well. These are not: their reasons stand in `reason`.
    let codes = words(item(&reject, "fn answer(&self)"));
    let not_reasons = [
        "unavailable",
        "not_verified",
        "overloaded",
        "too_many_requests",
        "try_later",
    ]
    .map(str::to_owned);
    for code in &not_reasons {
        assert!(codes.contains(code), "{code} is no code any more");
    }
    let pipeline = read("src/pipeline.rs");
    let set_there = pipeline.split("reason").skip(1).filter_map(|rest| {
        let text = rest
            .strip_prefix(": \"")
            .or_else(|| rest.strip_prefix(" = \""))?;
        Some(text.split('"').next()?.to_owned())
    });
    let reasons: Vec<_> = words(item(&reject, "fn reason(&self)"))
        .into_iter()
        .chain(words(item(&claim, "fn reason(&self)")))
        .chain(set_there.filter(|reason| !reason.is_empty()))
        .chain(codes.into_iter().filter(|code| !not_reasons.contains(code)))
        .collect();
    assert!(reasons.contains(&"sender_left".to_owned()), "{reasons:?}");
    assert_rows("docs/operations.md", reasons);
    let events = read("src/telemetry/events.rs");
    assert_rows(
        "docs/operations.md",
        words(item(&events, "fn as_str(self)")),
    );
}

#[test]
fn every_refusal_is_in_the_table() {
    let text = read("docs/operations.md");
    for code in words(item(&read("src/reject.rs"), "fn answer(&self)")) {
        let cell = format!(" `{code}` ");
        assert!(
            text.lines()
                .any(|line| line.split('|').nth(2) == Some(cell.as_str())),
            "docs/operations.md has no refusal with the code {code}"
        );
    }
}

#[test]
fn every_log_field_is_explained() {
    let events = read("src/telemetry/events.rs");
    let fields = item(&events, "struct Line<'a> {").lines().skip(1);
    let names = fields.filter_map(|line| {
        let (name, _) = line.trim().trim_end_matches(',').split_once(": ")?;
        name.bytes()
            .all(|b| b.is_ascii_lowercase() || b == b'_')
            .then(|| name.to_owned())
    });
    assert_rows("docs/operations.md", names);
}

#[test]
fn every_metric_is_explained() {
    let text = read("docs/operations.md");
    let names: BTreeSet<_> = words(&read("src/telemetry/names.rs"))
        .into_iter()
        .filter(|name| name.starts_with("countersign_"))
        .collect();
    assert!(names.len() > 10, "found only {names:?}");
    for name in names {
        // What the exporter appends.
        let exported = ["", "_total", "_seconds", "_bytes", "_info"];
        let row = |end: &&str| text.contains(&format!("\n| `{name}{end}` |"));
        assert!(
            exported.iter().any(row),
            "docs/operations.md lacks the metric {name}"
        );
    }
}

/// The metrics as operators see them, with their labels: the table of the document, each row held against the code.
fn exported_metrics(operations: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let names = words(&read("src/telemetry/names.rs"));
    let (_, table) = operations.split_once("\n## Metrics\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        let labels = cells.next()?.split('`').skip(1).step_by(2).collect();
        let ends = ["", "_total", "_seconds", "_bytes", "_info"].into_iter();
        let mut bases = ends.filter_map(|end| name.strip_suffix(end));
        assert!(
            bases.any(|base| names.iter().any(|known| known == base)),
            "docs/operations.md explains {name}, which does not exist"
        );
        Some((name, labels))
    });
    rows.collect()
}

#[test]
fn dashboard_and_alerts_ask_for_what_there_is() {
    let operations = read("docs/operations.md");
    let metrics = exported_metrics(&operations);
    let verdicts = words(item(&read("src/telemetry/events.rs"), "fn as_str(self)"));
    let mut faults = Vec::new();
    for file in [
        "packaging/grafana/countersign.json",
        "packaging/prometheus/alerts.yml",
        "packaging/prometheus/alerts.test.yml",
    ] {
        let text = read(file).replace("\\\"", "\"");
        let uses: Vec<_> = text.match_indices("countersign_").collect();
        assert!(uses.len() > 10, "{file} names no metrics");
        for (at, _) in uses {
            let rest = &text[at..];
            let end = rest
                .find(|c: char| !c.is_ascii_lowercase() && c != '_')
                .unwrap();
            let (name, rest) = rest.split_at(end);
            let parts = ["_bucket", "_count", "_sum"].into_iter();
            let histogram = parts.filter_map(|part| name.strip_suffix(part)).next();
            let Some(labels) = metrics.get(name).or_else(|| metrics.get(histogram?)) else {
                faults.push(format!("{file}: there is no metric {name}"));
                continue;
            };
            let Some(selector) = rest.strip_prefix('{') else {
                continue;
            };
            for matcher in selector.split('}').next().unwrap().split(", ") {
                let (label, value) = matcher.split_once(['=', '!']).unwrap();
                if !labels.contains(label) && !["job", "instance", "le"].contains(&label) {
                    faults.push(format!("{file}: {name} has no label {label}"));
                }
                let mut values = value.trim_matches(['=', '~', '"']).split('|');
                if label == "outcome" && !values.all(|value| verdicts.iter().any(|v| v == value)) {
                    faults.push(format!("{file}: there is no outcome {value}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_alert_has_a_runbook_and_a_test() {
    let operations = read("docs/operations.md");
    let rules = read("packaging/prometheus/alerts.yml");
    let tests = read("packaging/prometheus/alerts.test.yml");
    let mut names = BTreeSet::new();
    for rule in rules.split("- alert: ").skip(1) {
        let (name, rule) = rule.split_once('\n').unwrap();
        names.insert(name);
        for line in [
            "for: ".to_owned(),
            format!("runbook: docs/operations.md#{}", name.to_lowercase()),
        ] {
            assert!(
                rule.lines()
                    .any(|text| text.trim_start().starts_with(&line)),
                "{name} lacks `{line}`"
            );
        }
        let severities = ["critical", "warning"];
        let severity = severities.map(|word| rule.contains(&format!("severity: {word}\n")));
        assert!(severity.contains(&true), "{name}");
        let section = section(&operations, name);
        let section =
            section.unwrap_or_else(|| panic!("docs/operations.md does not explain {name}"));
        assert_eq!(section.starts_with("\nCritical."), severity[0], "{name}");
        let mut cases = tests.split("alertname: ").skip(1);
        let fires = cases.any(|case| {
            case.strip_prefix(name)
                .is_some_and(|case| case.starts_with("\n        exp_alerts:\n"))
        });
        assert!(fires, "no test lets {name} fire");
    }
    let (_, explained) = operations.split_once("\n## Alerts\n").unwrap();
    let (explained, _) = explained.split_once("\n## ").unwrap();
    let explained = explained
        .lines()
        .filter_map(|line| line.strip_prefix("### "));
    assert_eq!(explained.collect::<BTreeSet<_>>(), names);
}

#[test]
fn every_exit_code_is_explained() {
    let cli = read("src/cli/mod.rs");
    let numbers = item(&cli, "pub fn main()")
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.parse::<u8>().is_ok())
        .map(str::to_owned);
    assert_rows("docs/operations.md", numbers.chain(["0".to_owned()]));
}

#[test]
fn only_one_call_is_unsafe() {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(ROOT).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let blocks = text.matches("unsafe {").count() + text.matches("unsafe fn").count();
            found.extend(vec![path; blocks]);
        }
    }
    assert_eq!(found, [Path::new(ROOT).join("src/server/trim.rs")]);
}
