//! The configuration as a JSON Schema, for editors.
//!
//! Nothing here lists a key. The types that read the file are asked what they would take, so the schema cannot lag behind them. What the
//! keys mean is read from the tables of `docs/configuration.md`, their defaults from where they apply.

use std::collections::BTreeMap;

use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeSeed, Expected, IntoDeserializer as _, MapAccess, SeqAccess, Visitor,
        value::{Error, StrDeserializer},
    },
};
use serde_json::{Map, Value, json};

use super::{
    raw::{DEFAULTS, ROUTE_DEFAULTS, RawConfig},
    units::UNITS,
};
use crate::scheme::SchemeSpec;

/// The steps from a type to a type inside it: names of fields, [`ITEM`], [`ENTRY`].
type Steps<'a> = &'a [&'static str];

/// From a list to its items.
const ITEM: &str = "[]";

/// From a table with any keys to its values.
const ENTRY: &str = "*";

/// The schema, of draft 7: the newest that editors of TOML know.
pub fn schema() -> Value {
    let docs = Docs::read();
    let mut schema = docs.describe::<RawConfig>(&mut Vec::new(), "");
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("Configuration of Countersign");
    schema
}

/// What a row of the document says of a key.
struct Row {
    /// The values that may stand there, where it lists them all.
    words: Vec<String>,
    required: bool,
    meaning: String,
}

/// What people were told of the keys.
struct Docs {
    rows: BTreeMap<String, Row>,
    defaults: BTreeMap<String, Value>,
}

impl Docs {
    fn read() -> Self {
        let document = include_str!("../../docs/configuration.md");
        let mut defaults = BTreeMap::new();
        for (prefix, text) in [("", DEFAULTS), ("route", ROUTE_DEFAULTS)] {
            // A test reads them all: what does not parse here never worked.
            let table: Map<String, Value> = toml::from_str(text).unwrap_or_default();
            collect(prefix, Value::Object(table), &mut defaults);
        }
        Self {
            rows: document.lines().filter_map(Row::read).collect(),
            defaults,
        }
    }

    /// The schema of what stands behind these steps in `T`, which is called `key`.
    fn describe<'de, T: Deserialize<'de>>(
        &self,
        steps: &mut Vec<&'static str>,
        key: &str,
    ) -> Value {
        let taken = Taken::by::<T>(steps);
        let mut inner = |step, key: &str| {
            steps.push(step);
            let schema = self.describe::<T>(steps, key);
            steps.pop();
            schema
        };
        let mut schema = match taken {
            Taken::Table(fields) => {
                let dotted = |field: &str| match key {
                    "" => field.to_owned(),
                    key => format!("{key}.{field}"),
                };
                let required = |field: &&&str| {
                    let row = self.rows.get(&dotted(field));
                    row.is_some_and(|row| row.required)
                };
                let required: Vec<_> = fields.iter().filter(required).collect();
                let properties: Map<_, _> = fields
                    .iter()
                    .map(|field| ((*field).to_owned(), inner(field, &dotted(field))))
                    .collect();
                let mut table = json!({
                    "type": "object", "properties": properties, "additionalProperties": false
                });
                if !required.is_empty() {
                    table["required"] = json!(required);
                }
                table
            }
            Taken::List => json!({ "type": "array", "items": inner(ITEM, key) }),
            Taken::Entries => {
                json!({ "type": "object", "additionalProperties": inner(ENTRY, key) })
            }
            Taken::Text => json!({ "type": "string" }),
            Taken::Truth => json!({ "type": "boolean" }),
            Taken::Whole => json!({ "type": "integer", "minimum": 0 }),
            Taken::Some(expected) => self.by_words(&expected, key),
            Taken::Nothing => json!({}),
        };
        // An item of a list is not its list.
        if steps
            .last()
            .is_none_or(|step| ![ITEM, ENTRY].contains(step))
        {
            self.explain(key, &mut schema);
        }
        schema
    }

    /// The types that read more than one form, by what they tell people to write.
    fn by_words(&self, expected: &str, key: &str) -> Value {
        let texts = json!({ "type": "array", "items": { "type": "string" } });
        let templates = json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 });
        let units = UNITS.map(|(unit, _)| unit).join("|");
        match expected {
            "a string or a list of strings" => json!({ "anyOf": [{ "type": "string" }, texts] }),
            "a template or a list of templates" => {
                json!({ "anyOf": [{ "type": "string" }, templates] })
            }
            "a whole number, zero or more" => json!({ "type": "integer", "minimum": 0 }),
            "a number from 0 to 1" => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
            "a duration" => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
            "a size" => quantity(&format!("^([0-9]+({units})|0)$")),
            "a rate" => quantity(&format!("^([0-9]+({units})/s|0)$")),
            "a number of requests in a time" => {
                json!({ "type": "string", "pattern": "^[0-9]+/(s|m|h)$" })
            }
            "the name of a scheme or a table" => {
                let table = self.describe::<SchemeSpec>(&mut Vec::new(), key);
                json!({ "anyOf": [{ "type": "string" }, table] })
            }
            "an algorithm, a list of them, or a table of names" => {
                let names =
                    json!({ "type": "object", "additionalProperties": { "type": "string" } });
                json!({ "anyOf": [{ "type": "string" }, texts, names] })
            }
            // A test finds these: a key that takes everything.
            _ => json!({}),
        }
    }

    fn explain(&self, key: &str, schema: &mut Value) {
        if let Some(default) = self.defaults.get(key) {
            schema["default"] = default.clone();
        }
        let Some(row) = self.rows.get(key) else {
            return;
        };
        schema["description"] = json!(row.meaning);
        if !row.words.is_empty() {
            schema["enum"] = json!(row.words);
        }
    }
}

/// A text with a unit, or the number 0.
fn quantity(pattern: &str) -> Value {
    json!({ "anyOf": [{ "type": "string", "pattern": pattern }, { "const": 0 }] })
}

/// The values of a table by their dotted keys.
fn collect(prefix: &str, value: Value, into: &mut BTreeMap<String, Value>) {
    let Value::Object(table) = value else {
        into.insert(prefix.to_owned(), value);
        return;
    };
    for (name, value) in table {
        let dot = if prefix.is_empty() { "" } else { "." };
        collect(&format!("{prefix}{dot}{name}"), value, into);
    }
}

impl Row {
    /// `| key | type | default | meaning |`, the key in back quotes.
    fn read(line: &str) -> Option<(String, Self)> {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let key = cells.next()?.strip_suffix('`')?;
        let (kind, default) = (cells.next()?, cells.next()?);
        let meaning = cells.collect::<Vec<_>>().join(" | ");
        let words = kind
            .split(", ")
            .map(|word| word.strip_prefix("`\"")?.strip_suffix("\"`"));
        let words: Option<Vec<_>> = words.map(|word| word.map(str::to_owned)).collect();
        let row = Self {
            words: words.unwrap_or_default(),
            required: default == "required",
            meaning: without_links(meaning.strip_suffix(" |")?),
        };
        Some((key.to_owned(), row))
    }
}

/// `[text](target)` becomes `text`.
fn without_links(text: &str) -> String {
    let mut pieces = text.split("](");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        if let Some(open) = plain.rfind('[') {
            plain.remove(open);
        }
        plain.push_str(piece.split_once(')').map_or(piece, |(_, rest)| rest));
    }
    plain
}

/// What a type takes.
#[derive(Debug, Default)]
enum Taken {
    /// These fields.
    Table(&'static [&'static str]),
    List,
    /// A table with any keys.
    Entries,
    Text,
    Truth,
    Whole,
    /// It looks at what comes. This is what its errors say that it expects.
    Some(String),
    #[default]
    Nothing,
}

impl Taken {
    /// What a type takes, or one inside it.
    fn by<'de, T: Deserialize<'de>>(steps: Steps<'_>) -> Self {
        let mut taken = Self::Nothing;
        let asker = Asker {
            steps,
            taken: &mut taken,
        };
        // The outcome is an error by construction; the answer has arrived by then.
        let _ = T::deserialize(asker);
        taken
    }
}

/// The fields of a derived type, asked of the derivation itself: no list to forget.
pub(super) fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    if let Taken::Table(fields) = Taken::by::<T>(&[]) {
        fields
    } else {
        &[]
    }
}

/// Input that has nothing, and notes what it was asked for. On the way to a type inside, it is a value with one thing in it.
struct Asker<'a> {
    steps: Steps<'a>,
    taken: &'a mut Taken,
}

impl Asker<'_> {
    fn note<T>(self, taken: Taken) -> Result<T, Error> {
        *self.taken = taken;
        Err(de::Error::custom("only the type is wanted"))
    }
}

/// Notes what is asked for by these names.
macro_rules! note {
    ($($name:ident => $taken:ident,)*) => {$(
        fn $name<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            self.note(Taken::$taken)
        }
    )*};
}

impl<'de> Deserializer<'de> for Asker<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Taken::Some((&visitor as &dyn Expected).to_string()))
    }

    // Fields that may be left out.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.steps.first() {
            Some(_) => visitor.visit_map(self),
            None => self.note(Taken::Table(fields)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.steps.first() {
            Some(_) => visitor.visit_map(self),
            None => self.note(Taken::Entries),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.steps.first() {
            Some(_) => visitor.visit_seq(self),
            None => self.note(Taken::List),
        }
    }

    note! {
        deserialize_str => Text,
        deserialize_string => Text,
        deserialize_bool => Truth,
        deserialize_u8 => Whole,
        deserialize_u16 => Whole,
        deserialize_u32 => Whole,
        deserialize_u64 => Whole,
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 f32 f64 char bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Asker<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((step, _)) = self.steps.split_first() else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, Error> = (*step).into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (_, steps) = self.steps.split_first().unwrap_or((&"", &[]));
        seed.deserialize(Asker {
            steps,
            taken: self.taken,
        })
    }
}

impl<'de> SeqAccess<'de> for Asker<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.next_value_seed(seed).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        super::{Flags, Source, known_keys, load},
        *,
    };

    /// Calls `see` with every schema in this one, and the dotted key that it is of.
    fn walk(key: &str, schema: &Value, see: &mut dyn FnMut(&str, &Value)) {
        see(key, schema);
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            let dot = if key.is_empty() { "" } else { "." };
            walk(&format!("{key}{dot}{name}"), inner, see);
        }
        let inner = [&schema["items"], &schema["additionalProperties"]];
        let inner = inner.into_iter().filter(|inner| inner.is_object());
        for inner in inner.chain(schema["anyOf"].as_array().into_iter().flatten()) {
            walk(key, inner, see);
        }
    }

    #[test]
    fn every_key_is_in_it_and_none_takes_everything() {
        let mut keys = BTreeSet::new();
        walk("", &schema(), &mut |key, schema| {
            keys.insert(key.to_owned());
            let says = ["type", "anyOf", "const"]
                .iter()
                .any(|word| schema.get(word).is_some());
            assert!(says, "{key} takes everything");
            if schema["type"] == "object" {
                let rest = &schema["additionalProperties"];
                assert!(
                    rest == false || rest["type"].is_string() || rest["anyOf"].is_array(),
                    "{key} takes unknown keys"
                );
            }
        });
        for key in known_keys() {
            assert!(keys.contains(&key), "{key} is missing");
        }
        // The other way round, tables without a row of their own are not listed.
        let known = known_keys();
        let is_known = |key: &String| {
            known
                .iter()
                .any(|known| known == key || known.starts_with(&format!("{key}.")))
        };
        let unknown: Vec<_> = keys
            .iter()
            .filter(|key| !key.is_empty() && !is_known(key))
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn it_says_what_keys_mean() {
        let schema = schema();
        let listen = &schema["properties"]["server"]["properties"]["listen"];
        assert_eq!(listen["default"], json!(["127.0.0.1:8080"]));
        let meaning = listen["description"].as_str().unwrap();
        assert!(
            meaning.starts_with("Where senders connect: an IP"),
            "{meaning}"
        );
        let route = &schema["properties"]["route"]["items"];
        assert_eq!(
            route["required"],
            json!(["name", "path", "scheme", "upstream"])
        );
        assert_eq!(route["properties"]["connect_retry"]["default"], "0s");
        let secrets = &route["properties"]["secrets"];
        assert_eq!(secrets["description"], "Where the secrets are");
        assert_eq!(secrets["items"]["required"], json!(["id"]));
        let mut explained = BTreeSet::new();
        walk("", &schema, &mut |key, schema| {
            if schema.get("description").is_some() {
                explained.insert(key.to_owned());
            }
        });
        let mut keys = known_keys();
        keys.retain(|key| !key.starts_with("route.scheme.") && !explained.contains(key));
        assert!(keys.is_empty(), "without a meaning: {keys:?}");
    }

    /// The lists of words come from the document: all of them are taken, and no other.
    #[test]
    fn words_are_those_that_the_configuration_takes() {
        let mut seen = 0;
        walk("", &schema(), &mut |key, schema| {
            let Some(words) = schema["enum"].as_array() else {
                return;
            };
            let (table, name) = key.rsplit_once('.').unwrap();
            // That another key is missing beside a word is no fault of the list.
            let unknown = |word: &Value| {
                let (before, within) = match table {
                    "route" => (String::new(), format!("{name} = {word}\n")),
                    _ => (format!("[{table}]\n{name} = {word}\n"), String::new()),
                };
                let text = format!(
                    "{before}[[route]]\nname = \"a\"\npath = \"/a\"\nscheme = \"carevalidate\"\n\
                     secrets = [{{ id = \"a\", env = \"A\" }}]\nupstream = \"http://127.0.0.1:1\"\n{within}"
                );
                let errors = load(&Source::Stdin(text), &[], &Flags::default()).err();
                errors.is_some_and(|errors| {
                    let text = errors.to_string();
                    text.contains(&format!("{word} is not a known `{name}`"))
                })
            };
            for word in words {
                seen += 1;
                assert!(!unknown(word), "{key} does not take {word}");
            }
            assert!(unknown(&json!("nonsense")), "{key} takes any word");
        });
        assert!(seen > 8, "{seen}");
    }
}
