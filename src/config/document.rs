//! The file's text: its values without meaning, and where in it a key stands.
//!
//! Also decides which lines an error may show. A line on which somebody may have written a secret is never shown.

use std::ops::Range;

use figment::value::{Dict, Tag, Value};
use toml_edit::{Item, TableLike};

use super::error::{Place, Position};

/// What to underline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// The key itself, for one that should not be there.
    Key,
    /// Its value. Of a table: the line that opens it.
    Value,
}

/// A file that could be read as TOML.
pub(super) struct Document {
    name: String,
    tree: toml_edit::Document<String>,
    lines: Lines,
    hidden: Hidden,
}

/// Why a text is not TOML.
pub(super) struct SyntaxError {
    pub(super) message: String,
    pub(super) place: Place,
}

impl Document {
    /// Reads a text. `name` is what errors call it.
    pub(super) fn parse(name: &str, text: String) -> Result<Self, SyntaxError> {
        match toml_edit::Document::parse(text.clone()) {
            Ok(tree) => {
                let mut hidden = Vec::new();
                hide_secrets(tree.as_table(), false, &mut hidden);
                Ok(Self {
                    name: name.to_owned(),
                    tree,
                    lines: Lines::of(&text),
                    hidden: Hidden::new(hidden),
                })
            }
            Err(error) => {
                let span = error.span().unwrap_or(text.len()..text.len());
                let everything = 0..text.len() + 1;
                let hidden = may_be_secret(&text, span.start).then_some(everything);
                let hidden = Hidden::new(hidden.into_iter().collect());
                Err(SyntaxError {
                    message: error.message().lines().collect::<Vec<_>>().join("; "),
                    place: Place::File {
                        file: name.to_owned(),
                        position: Some(position(&text, &Lines::of(&text), span, &hidden)),
                    },
                })
            }
        }
    }

    /// The values.
    pub(super) fn dict(&self) -> Dict {
        dict(self.tree.as_table())
    }

    /// Where a key stands, or the nearest table around it if it does not.
    pub(super) fn place(&self, path: &[String], point: Point) -> Place {
        let span = self.span(path, point);
        Place::File {
            file: self.name.clone(),
            position: span.map(|span| position(self.tree.raw(), &self.lines, span, &self.hidden)),
        }
    }

    fn span(&self, path: &[String], point: Point) -> Option<Range<usize>> {
        let mut node = Node::Table(self.tree.as_table(), None);
        let mut found = None;
        for segment in path {
            let index = || segment.parse::<usize>().ok();
            let (key, next) = match node {
                Node::Table(table, _) => match table.get_key_value(segment) {
                    Some((key, item)) => (key.span(), Node::of(item)),
                    None => break,
                },
                Node::Array(array) => match index().and_then(|index| array.get(index)) {
                    Some(value) => (None, Node::of_value(value)),
                    None => break,
                },
                Node::Tables(tables) => match index().and_then(|index| tables.get(index)) {
                    Some(table) => (None, Node::Table(table, table.span())),
                    None => break,
                },
                Node::Leaf(_) => break,
            };
            let value = next.span();
            found = match point {
                Point::Key => key.or(value),
                Point::Value => value.or(key),
            }
            .or(found);
            node = next;
        }
        found
    }
}

enum Node<'a> {
    Table(&'a dyn TableLike, Option<Range<usize>>),
    Array(&'a toml_edit::Array),
    Tables(&'a toml_edit::ArrayOfTables),
    Leaf(Option<Range<usize>>),
}

impl<'a> Node<'a> {
    fn of(item: &'a Item) -> Self {
        match item {
            Item::None => Self::Leaf(None),
            Item::Value(value) => Self::of_value(value),
            Item::Table(table) => Self::Table(table, table.span()),
            Item::ArrayOfTables(tables) => Self::Tables(tables),
        }
    }

    fn of_value(value: &'a toml_edit::Value) -> Self {
        if let Some(array) = value.as_array() {
            return Self::Array(array);
        }
        match value.as_inline_table() {
            Some(table) => Self::Table(table, table.span()),
            None => Self::Leaf(value.span()),
        }
    }

    fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::Table(_, span) | Self::Leaf(span) => span.clone(),
            Self::Array(array) => array.span(),
            Self::Tables(tables) => tables.get(0).and_then(toml_edit::Table::span),
        }
    }
}

/// Where the lines of a text begin. Every value is looked up, and a file can have thousands of them.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let ends = text.match_indices('\n').map(|(end, _)| end + 1);
        Self(std::iter::once(0).chain(ends).collect())
    }

    /// The number of the line that holds a place, from 1, and what it spans, its end left out.
    fn find(&self, at: usize, text: &str) -> (usize, Range<usize>) {
        let number = self.0.partition_point(|start| *start <= at);
        let end = self.0.get(number).map_or(text.len(), |next| next - 1);
        (number, self.0[number - 1]..end)
    }
}

/// The spans of what may not be shown, by their beginnings; each ends where the furthest of those up to it does.
struct Hidden(Vec<Range<usize>>);

impl Hidden {
    fn new(mut spans: Vec<Range<usize>>) -> Self {
        spans.sort_by_key(|span| span.start);
        let mut furthest = 0;
        for span in &mut spans {
            furthest = furthest.max(span.end);
            span.end = furthest;
        }
        Self(spans)
    }

    fn touches(&self, line: &Range<usize>) -> bool {
        let before = self.0.partition_point(|span| span.start <= line.end);
        before > 0 && line.start < self.0[before - 1].end
    }
}

/// The line and column of a span, and the line's text unless it touches something hidden.
fn position(text: &str, lines: &Lines, span: Range<usize>, hidden: &Hidden) -> Position {
    let at = text.floor_char_boundary(span.start);
    let (number, line) = lines.find(at, text);
    let start = line.start;
    let source = text[line.clone()].trim_end_matches('\r');
    let first = (at - start).min(source.len());
    let last = (span.end.saturating_sub(start)).clamp(first, source.len());
    Position {
        line: number,
        column: text[start..at].chars().count() + 1,
        source: (!hidden.touches(&line)).then(|| (source.to_owned(), first..last)),
    }
}

/// Values without positions. Dates become strings, because figment has no type for them.
fn dict(table: &dyn TableLike) -> Dict {
    table
        .iter()
        .filter_map(|(key, item)| Some((key.to_owned(), item_value(item)?)))
        .collect()
}

fn item_value(item: &Item) -> Option<Value> {
    Some(match item {
        Item::None => return None,
        Item::Value(value) => plain_value(value),
        Item::Table(table) => Value::Dict(Tag::Default, dict(table)),
        Item::ArrayOfTables(tables) => Value::Array(
            Tag::Default,
            tables
                .iter()
                .map(|table| Value::Dict(Tag::Default, dict(table)))
                .collect(),
        ),
    })
}

fn plain_value(value: &toml_edit::Value) -> Value {
    use toml_edit::Value as Toml;
    match value {
        Toml::String(text) => Value::from(text.value().clone()),
        Toml::Integer(number) => Value::from(*number.value()),
        Toml::Float(number) => Value::from(*number.value()),
        Toml::Boolean(truth) => Value::from(*truth.value()),
        Toml::Datetime(time) => Value::from(time.value().to_string()),
        Toml::Array(array) => Value::Array(Tag::Default, array.iter().map(plain_value).collect()),
        Toml::InlineTable(table) => Value::Dict(Tag::Default, dict(table)),
    }
}

/// Whether a key's name says that its value is a secret. Keys that we know, and that hold paths or names, are not.
pub(super) fn names_a_secret(key: &str) -> bool {
    const KNOWN: [&str; 4] = ["secrets", "credential", "private_key", "upstream_key"];
    let key = key.to_ascii_lowercase();
    let tells = [
        "secret",
        "token",
        "passw",
        "passphrase",
        "credential",
        "hmac",
    ];
    !KNOWN.contains(&key.as_str())
        && (tells.iter().any(|word| key.contains(word))
            || ["value", "auth"].contains(&key.as_str())
            || key.ends_with("key"))
}

/// What may stand in an entry of `secrets`. All else there is taken for a secret.
const SECRET_KEYS: [&str; 6] = ["id", "file", "env", "credential", "not_before", "not_after"];

/// Collects the spans of all values that may be secrets.
fn hide_secrets(table: &dyn TableLike, in_secrets: bool, hidden: &mut Vec<Range<usize>>) {
    for (key, item) in table.iter() {
        let suspect = names_a_secret(key)
            || in_secrets && !SECRET_KEYS.contains(&key)
            || matches!(item.as_str(), Some(text) if key == "secrets" || betrays_a_secret(key, text));
        if suspect {
            hidden.extend(item.span());
        } else if let Some(tables) = item.as_array_of_tables() {
            for table in tables {
                hide_secrets(table, key == "secrets", hidden);
            }
        } else if let Some(array) = item.as_array() {
            for value in array {
                match value.as_inline_table() {
                    Some(table) => hide_secrets(table, key == "secrets", hidden),
                    None if key == "secrets" => hidden.extend(value.span()),
                    None => {
                        if betrays_a_secret(key, value.as_str().unwrap_or_default()) {
                            hidden.extend(value.span());
                        }
                    }
                }
            }
        } else if let Some(table) = item.as_table_like() {
            hide_secrets(table, in_secrets || key == "secrets", hidden);
        }
    }
}

/// Whether a value looks like a secret that was put where its source, or an address, should stand.
pub(super) fn betrays_a_secret(key: &str, text: &str) -> bool {
    text.contains("-----BEGIN")
        || text.contains('\n')
        || text.contains("://") && text.contains('@')
        || key == "endpoint" && text.contains('?')
        || key == "env" && !is_variable_name(text)
        || key == "credential" && !is_credential_name(text)
}

/// Whether a text can be the name of an environment variable.
pub(super) fn is_variable_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether a text can be the name of a systemd credential.
pub(super) fn is_credential_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-@".contains(c))
}

/// Whether the line at `at` may hold a secret, in a text that has no structure yet: a telling word stands on it, or
/// before a list, table or long string that is still open there.
fn may_be_secret(text: &str, at: usize) -> bool {
    const TELLS: [&str; 9] = [
        "secret",
        "token",
        "passw",
        "key",
        "value",
        "credential",
        "auth",
        "hmac",
        "env",
    ];
    let lower = text.to_ascii_lowercase();
    let at = text.floor_char_boundary(at);
    let start = lower[..at].rfind('\n').map_or(0, |before| before + 1);
    let end = lower[start..]
        .find('\n')
        .map_or(lower.len(), |length| start + length);
    TELLS
        .iter()
        .flat_map(|word| lower[..end].match_indices(word))
        .any(|(found, _)| {
            let between = &lower[found.min(start)..start];
            let count = |c: char| between.matches(c).count();
            let odd = |quotes: &str| !between.matches(quotes).count().is_multiple_of(2);
            found >= start
                || count('[') > count(']')
                || count('{') > count('}')
                || odd("\"\"\"")
                || odd("'''")
        })
}
