//! Collects problems while values are given meaning.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    time::Duration,
};

use figment::{
    error::Kind,
    value::{Dict, Tag, Value},
};
use serde::Deserialize as _;

use super::{
    document::{Point, betrays_a_secret, names_a_secret},
    error::{Place, Problem, Severity, any_of, nearest},
    layers::{Layers, Origin},
    raw::{
        Count, DurationText, FrequencyText, RateText, RawConfig, SizeText, TOMBSTONES, known_keys,
    },
    units::{parse_frequency, parse_rate, parse_size},
};
use crate::{
    limit::Rate,
    scheme::{Scheme, parse_duration},
};

/// More would only scroll the first away.
const FAULTS_MAX: usize = 200;

const BURST_MAX: u64 = 1_000_000;

/// Longer ones are slips, and would overflow the clock's arithmetic.
const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);

pub(super) const SECRET_HELP: &str = "secrets never stand in the configuration; name where each one is: \
     `secrets = [{ id = \"…\", file = \"…\" }]`, with `env` or `credential` instead of `file`";

/// A key's place: table, list index, key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key(Vec<String>);

impl Key {
    pub(super) fn of(path: &[&str]) -> Self {
        Self(path.iter().map(|&segment| segment.to_owned()).collect())
    }

    pub(super) fn at(&self, segment: impl ToString) -> Self {
        let mut path = self.0.clone();
        path.push(segment.to_string());
        Self(path)
    }

    pub(super) fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }
}

pub(super) struct Checker<'a> {
    layers: &'a Layers,
    problems: Vec<Problem>,
    /// Where errors were found, so that what follows from them is not reported again.
    faulty: Vec<Vec<String>>,
    /// Known keys that unknown ones were most likely meant to be: they are not missing.
    meant: Vec<Vec<String>>,
    /// What was compiled of the catalogue, by name and parameters.
    pub(super) schemes: HashMap<(String, BTreeMap<String, String>), Scheme>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(layers: &'a Layers, problems: Vec<Problem>) -> Self {
        Self {
            layers,
            problems,
            faulty: Vec::new(),
            meant: Vec::new(),
            schemes: HashMap::new(),
        }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    pub(super) fn error(&mut self, key: &Key, message: impl Into<String>, help: impl Into<String>) {
        self.report(
            Severity::Error,
            key,
            Point::Value,
            message.into(),
            Some(help.into()),
        );
    }

    pub(super) fn warning(
        &mut self,
        key: &Key,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(
            Severity::Warning,
            key,
            Point::Value,
            message.into(),
            Some(help.into()),
        );
    }

    fn report(
        &mut self,
        severity: Severity,
        key: &Key,
        point: Point,
        message: String,
        help: Option<String>,
    ) {
        if severity == Severity::Error {
            self.faulty.push(key.0.clone());
        }
        self.problems.push(Problem {
            severity,
            path: self.layers.show(&key.0),
            message,
            help,
            place: self.layers.place(&key.0, point),
        });
    }

    /// Whether there is a file to put something into.
    pub(super) fn has_file(&self) -> bool {
        self.layers.has_file()
    }

    /// Whether any layer gives the key, well or badly, or under a name that is slightly wrong.
    pub(super) fn given(&self, key: &Key) -> bool {
        self.layers.value(&key.0).is_some() || self.meant.contains(&key.0)
    }

    /// Whether a key is there, but its value was faulty and has been left out.
    pub(super) fn given_and_lost(&self, key: &Key) -> bool {
        self.meant.contains(&key.0) || self.is_faulty(key)
    }

    pub(super) fn origin(&self, key: &Key) -> Origin {
        self.layers.origin(&key.0)
    }

    /// Whether an error was found at the key or below it.
    pub(super) fn is_faulty(&self, key: &Key) -> bool {
        self.faulty.iter().any(|path| path.starts_with(&key.0))
    }

    /// A required key: says that it is missing, unless it is there and was found faulty.
    pub(super) fn required<T>(&mut self, key: &Key, value: Option<T>, example: &str) -> Option<T> {
        if value.is_none() && !self.given(key) {
            let name = key.last();
            let (message, help) = if let Place::Flag(flag) = self.layers.place(&key.0, Point::Value)
            {
                (
                    format!("the flag `{flag}` is missing"),
                    format!("add `{flag}`"),
                )
            } else {
                (
                    format!("the key `{name}` is missing"),
                    format!("add `{name} = {example}`"),
                )
            };
            self.error(key, message, help);
        }
        value
    }

    /// A duration that may be zero.
    pub(super) fn duration_or_zero(&mut self, key: &Key, raw: Option<&DurationText>) -> Duration {
        let Some(DurationText(text)) = raw else {
            return Duration::ZERO;
        };
        match parse_duration(text) {
            Some(duration) if duration <= DURATION_MAX => duration,
            Some(_) => {
                self.error(
                    key,
                    format!("{text:?} is longer than a year"),
                    "write a shorter time",
                );
                Duration::ZERO
            }
            None => {
                let message = format!("{text:?} is not a duration");
                self.error(
                    key,
                    message,
                    "write a number and a unit, such as \"30s\"; units are ms, s, m, h, d",
                );
                Duration::ZERO
            }
        }
    }

    /// A duration above zero.
    pub(super) fn duration(&mut self, key: &Key, raw: Option<&DurationText>) -> Duration {
        let duration = self.duration_or_zero(key, raw);
        if raw.is_some() && duration.is_zero() && !self.is_faulty(key) {
            let message = format!("`{}` may not be zero", key.last());
            self.error(key, message, "write a time above zero, such as \"30s\"");
        }
        duration
    }

    pub(super) fn size(&mut self, key: &Key, raw: Option<&SizeText>) -> u64 {
        let Some(SizeText(text)) = raw else {
            return 0;
        };
        parse_size(text).unwrap_or_else(|| {
            let message = format!("{text:?} is not a size");
            self.error(
                key,
                message,
                "write a whole number and a unit, such as \"64MiB\"; units are B, KB, MB, GB, KiB, MiB, GiB",
            );
            0
        })
    }

    /// So many requests in a time, and how many of them at once.
    pub(super) fn frequency(
        &mut self,
        (key, raw): (&Key, Option<&FrequencyText>),
        (burst_key, burst): (&Key, Option<Count>),
    ) -> Option<Rate> {
        let read = raw.map(|FrequencyText(text)| (text, parse_frequency(text)));
        if let Some((text, None)) = read {
            self.error(
                key,
                format!("{text:?} is not a number of requests in a time"),
                "write a number above zero and a time, such as \"100/s\"; times are s, m, h",
            );
        }
        if let Some(Count(most)) = burst {
            if !(1..=BURST_MAX).contains(&most) {
                self.error(
                    burst_key,
                    format!("`{}` is out of range", burst_key.last()),
                    format!("write a number from 1 to {BURST_MAX}"),
                );
            } else if !self.given(key) {
                self.error(
                    burst_key,
                    format!(
                        "`{}` stands here without `{}`",
                        burst_key.last(),
                        key.last()
                    ),
                    format!("add `{} = \"100/s\"`", key.last()),
                );
            }
        }
        let (every, a_second) = read?.1?;
        let burst = burst.map_or(a_second, |Count(most)| {
            u32::try_from(most).unwrap_or(u32::MAX)
        });
        Some(Rate::new(every, burst))
    }

    pub(super) fn rate(&mut self, key: &Key, raw: Option<&RateText>) -> u64 {
        let Some(RateText(text)) = raw else {
            return 0;
        };
        parse_rate(text).unwrap_or_else(|| {
            let message = format!("{text:?} is not a rate");
            self.error(
                key,
                message,
                "write a size and `/s`, such as \"1KiB/s\", or \"0\" for none",
            );
            0
        })
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &Key,
        raw: Option<&str>,
        words: &[(&str, T)],
    ) -> Option<T> {
        let written = raw?;
        let found = words.iter().find(|(word, _)| *word == written);
        if found.is_none() {
            let known = words.iter().map(|(word, _)| *word);
            let help = match nearest(written, known.clone()) {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("write {}", any_of(known)),
            };
            let message = format!("{written:?} is not a known `{}`", key.last());
            self.error(key, message, help);
        }
        found.map(|(_, value)| *value)
    }

    /// A file's path, made relative to where it was written.
    pub(super) fn path(&mut self, key: &Key, raw: Option<&str>) -> Option<PathBuf> {
        let written = raw?;
        if written.is_empty() {
            let message = format!("`{}` is empty", key.last());
            self.error(
                key,
                message,
                "write the path of a file, or leave the key out",
            );
        } else if betrays_a_secret("", written) || written.contains('\0') {
            let message = format!("`{}` is not a path", key.last());
            self.error(key, message, "write the path of the file, not its content");
        }
        Some(self.layers.resolve(&key.0, written))
    }

    /// Gives the layers the form of the file. What does not fit is reported and left out, so that the rest is seen too.
    pub(super) fn read(&mut self) -> RawConfig {
        let mut value = self.layers.merged().clone();
        // Keys that were put in for missing ones, so that their neighbours are looked at.
        let mut fillers = BTreeSet::new();
        for _ in 0..FAULTS_MAX {
            let error = match RawConfig::deserialize(&value) {
                Ok(raw) => return raw,
                Err(error) => error,
            };
            let mut path = error.path;
            match error.kind {
                Kind::UnknownField(_, known) => {
                    self.unknown(&Key(path.clone()), known);
                    remove(&mut value, path);
                }
                Kind::MissingField(field) => {
                    let table = Key(path.clone());
                    // Below a filler everything is missing.
                    if !fillers
                        .iter()
                        .any(|filler: &Vec<String>| path.starts_with(filler))
                    {
                        self.missing_in_scheme(&table, &field);
                    }
                    path.push(field.into_owned());
                    fill(&mut value, &path, Value::from(""));
                    fillers.insert(path);
                }
                Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => {
                    if fillers.contains(&path) {
                        fill(&mut value, &path, Value::Dict(Tag::Default, Dict::new()));
                    } else {
                        self.wrong_type(&Key(path.clone()), &expected);
                        remove(&mut value, path);
                    }
                }
                // Nothing in the mirror raises these; they must not be lost all the same.
                other @ (Kind::Message(_)
                | Kind::InvalidLength(..)
                | Kind::UnknownVariant(..)
                | Kind::DuplicateField(_)
                | Kind::ISizeOutOfRange(_)
                | Kind::USizeOutOfRange(_)
                | Kind::Unsupported(_)
                | Kind::UnsupportedKey(..)) => {
                    self.error(
                        &Key(path.clone()),
                        format!("{other}"),
                        "see the documentation of this key",
                    );
                    remove(&mut value, path);
                }
            }
        }
        RawConfig::default()
    }

    fn unknown(&mut self, key: &Key, known: &[&str]) {
        let name = key.last();
        let table: Vec<&str> = key.0[..key.0.len() - 1]
            .iter()
            .filter(|segment| segment.parse::<usize>().is_err())
            .map(String::as_str)
            .collect();
        let dotted = [table.as_slice(), &[name]].concat().join(".");
        let sibling = |name: &str| {
            let mut path = key.0.clone();
            path.pop()?;
            path.push(name.to_owned());
            Some(path)
        };
        let tombstone = TOMBSTONES.iter().find(|(dead, _)| *dead == dotted);
        let (message, help) = if let Some((_, help)) = tombstone {
            (
                format!("`{name}` is not part of this version"),
                (*help).to_owned(),
            )
        } else if names_a_secret(name) && table.first() == Some(&"route") {
            self.meant.extend(sibling("secrets"));
            (format!("unknown key `{name}`"), SECRET_HELP.to_owned())
        } else {
            let help = match nearest(name, known.iter().copied()) {
                Some(meant) => {
                    self.meant.extend(sibling(meant));
                    format!("did you mean `{meant}`?")
                }
                None => elsewhere(name)
                    .unwrap_or_else(|| format!("known here: {}", any_of(known.iter().copied()))),
            };
            (format!("unknown key `{name}`"), help)
        };
        self.report(Severity::Error, key, Point::Key, message, Some(help));
    }

    fn missing_in_scheme(&mut self, table: &Key, field: &str) {
        if self.given(&table.at(field)) {
            return;
        }
        let example = match field {
            "algorithm" => "\"hmac-sha256\"",
            "signature" => "{ header = \"x-signature\", encoding = \"hex\" }",
            _ => "\"x-signature\"",
        };
        self.error(
            &table.at(field),
            format!("the key `{field}` is missing"),
            format!("add `{field} = {example}`"),
        );
    }

    fn wrong_type(&mut self, key: &Key, expected: &str) {
        let found = self.layers.value(&key.0);
        let in_secrets = key.0.iter().any(|segment| segment == "secrets");
        if in_secrets && matches!(found, Some(Value::String(..) | Value::Array(..))) {
            self.error(key, "this does not say where the secret is", SECRET_HELP);
            return;
        }
        let name = key
            .0
            .iter()
            .rev()
            .find(|segment| segment.parse::<usize>().is_err())
            .map_or("", String::as_str);
        let expected = match expected {
            "a sequence" => "a list of tables",
            "a map" => "a table",
            "a boolean" => "true or false",
            spec if spec.starts_with("struct ") => "a table",
            other => other,
        };
        let help = match expected {
            "a duration" => "write a number and a unit, such as \"30s\"",
            "a size" => "write a number and a unit, such as \"64MiB\"",
            "a rate" => "write a size and `/s`, such as \"1KiB/s\"",
            "a number of requests in a time" => {
                "write a number and a time, such as \"100/s\"; times are s, m, h"
            }
            "true or false" => "write `true` or `false`, without quotes",
            "a number from 0 to 1" => "write it without quotes, such as 0.1",
            "a string" | "a string or a list of strings" => "write it between quotes",
            "a whole number, zero or more" => "write digits only, without quotes",
            "a list of tables" if key.0 == ["route"] => {
                "write `[[route]]`, with two brackets: there can be several"
            }
            _ if name == "signature" => {
                "write `signature = { header = \"x-signature\", encoding = \"hex\" }`"
            }
            _ if name == "timestamp" => "write `timestamp = { header = \"x-timestamp\" }`",
            _ if name == "params" => "write `params = { NAME = \"VALUE\" }`",
            _ if name == "scheme" => {
                "write a name, such as \"carevalidate\", or a table below `[route.scheme]`"
            }
            _ if name == "secrets" => SECRET_HELP,
            _ => "write it as the documentation shows",
        };
        let help = if expected == "a table" && key.0.len() == 1 {
            format!("write its keys below a line of their own, `[{name}]`")
        } else {
            help.to_owned()
        };
        let message = format!(
            "`{name}` must be {expected}, not {}",
            found.map_or("nothing", kind)
        );
        self.error(key, message, help);
    }
}

/// Where a key that is unknown here would be known.
fn elsewhere(name: &str) -> Option<String> {
    let keys = known_keys();
    let (table, _) = keys
        .iter()
        .filter_map(|key| key.rsplit_once('.'))
        .find(|(_, last)| *last == name)?;
    Some(match table {
        "route" => "it belongs into `[[route]]`".to_owned(),
        table => format!("it belongs into `[{table}]`"),
    })
}

/// What a value is, in words; never what it holds.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "a string",
        Value::Bool(..) => "true or false",
        Value::Num(_, number) => {
            if number.to_i128().is_some_and(|number| number < 0) {
                "a negative number"
            } else if number.to_i128().is_some() || number.to_u128().is_some() {
                "a number"
            } else {
                "a number with a fraction"
            }
        }
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a table",
        Value::Array(..) => "a list",
    }
}

/// Removes the key at a path or, for a place in a list, the key that holds the list: the other places keep their numbers.
fn remove(value: &mut Value, mut path: Vec<String>) {
    while path
        .last()
        .is_some_and(|segment| segment.parse::<usize>().is_ok())
    {
        path.pop();
    }
    if let Some((last, parents)) = path.split_last()
        && let Some(Value::Dict(_, table)) = find(value, parents)
    {
        table.remove(last);
    }
}

fn fill(value: &mut Value, path: &[String], filler: Value) {
    if let Some((last, parents)) = path.split_last()
        && let Some(Value::Dict(_, table)) = find(value, parents)
    {
        table.insert(last.clone(), filler);
    }
}

fn find<'v>(value: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, segment| match value {
        Value::Dict(_, table) => table.get_mut(segment),
        Value::Array(_, list) => list.get_mut(segment.parse::<usize>().ok()?),
        Value::String(..)
        | Value::Char(..)
        | Value::Bool(..)
        | Value::Num(..)
        | Value::Empty(..) => None,
    })
}
