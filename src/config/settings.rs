//! Every value that holds, and who gave it.

use figment::value::Value;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::{
    document::{Point, betrays_a_secret, names_a_secret},
    error::Place,
    layers::Layers,
};

/// What stands in place of a value that may be a secret.
const HIDDEN: &str = "(hidden)";

/// One value, as the last layer that has it gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key, such as `limits.body` or, by the route's name, `route.cases.tolerance`.
    pub path: String,
    /// The value as TOML writes it; `(hidden)` if it may be a secret.
    pub value: String,
    /// Where it was written; nowhere: it is the default.
    pub place: Place,
}

impl Setting {
    /// `default`, a file with its line, a variable or a flag.
    pub fn origin(&self) -> String {
        match &self.place {
            Place::File { file, position } => match position {
                Some(position) => format!("{file}:{}", position.line),
                None => file.clone(),
            },
            Place::Environment(_) | Place::Flag(_) | Place::Nowhere => {
                let source = self.place.source();
                source.unwrap_or_else(|| "default".to_owned())
            }
        }
    }
}

/// As `check --show-origin --json` prints it: `path`, `value`, `origin`.
impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("Setting", 3)?;
        map.serialize_field("path", &self.path)?;
        map.serialize_field("value", &self.value)?;
        map.serialize_field("origin", &self.origin())?;
        map.end()
    }
}

/// All values, sorted by table.
pub(super) fn settings(layers: &Layers) -> Vec<Setting> {
    let mut found = Vec::new();
    collect(layers, layers.merged(), &mut Vec::new(), &mut found);
    found
}

/// A short digest of all values but those that may be secrets.
pub(super) fn hash(settings: &[Setting]) -> String {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for Setting { path, value, .. } in settings {
        for text in [path, value] {
            digest.update(&(text.len() as u64).to_be_bytes());
            digest.update(text.as_bytes());
        }
    }
    data_encoding::HEXLOWER.encode(&digest.finish().as_ref()[..8])
}

fn collect(layers: &Layers, value: &Value, path: &mut Vec<String>, found: &mut Vec<Setting>) {
    let is_table = |value: &Value| value.as_dict().is_some();
    let mut children: Vec<(String, &Value)> = Vec::new();
    if let Some(table) = value.as_dict() {
        let keys = table.iter().map(|(key, value)| (key.clone(), value));
        children.extend(keys);
    } else if let Some(list) = value.as_array()
        && list.iter().any(is_table)
    {
        let places = list.iter().enumerate();
        children.extend(places.map(|(place, value)| (place.to_string(), value)));
    }
    if children.is_empty() {
        let key = path.last().map_or("", String::as_str);
        let hidden = names_a_secret(key)
            || value
                .as_str()
                .is_some_and(|text| betrays_a_secret(key, text));
        found.push(Setting {
            path: layers.show(path),
            // Text, numbers and lists of them are written alike in JSON and TOML.
            value: match hidden {
                true => HIDDEN.to_owned(),
                false => serde_json::to_string(value).unwrap_or_default(),
            },
            place: layers.place(path, Point::Value),
        });
    }
    for (key, child) in children {
        path.push(key);
        collect(layers, child, path, found);
        path.pop();
    }
}
