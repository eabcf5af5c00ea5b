//! The layers: defaults, file, environment, flags. Later ones win, key by key; a list is replaced whole.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Tag, Value},
};

use super::{
    Flags, Source,
    document::{Document, Point},
    error::{Place, Problem, Severity, nearest},
    raw,
};

const PREFIX: &str = "COUNTERSIGN_";

/// Keys whose value may be written as a TOML list in the environment.
const LISTS: [&str; 5] = [
    "server.listen",
    "server.trusted_proxies",
    "server.tls.certificates",
    "server.tls.acme.domains",
    "server.tls.acme.contact",
];

/// Keys whose value is a number. All others are text, whatever they look like.
const NUMBERS: [&str; 4] = [
    "server.threads",
    "limits.connections",
    "limits.http2_streams",
    "limits.in_flight",
];

/// Keys whose value is a number that may have a fraction.
const FRACTIONS: [&str; 1] = ["traces.ratio"];

/// Keys whose value is `true` or `false`.
const SWITCHES: [&str; 3] = [
    "server.reuse_port",
    "server.proxy_protocol",
    "server.tls.acme.terms_agreed",
];

/// Which flag gives a key; the part of a route's key behind `route.0.` for those that make a route.
const FLAGS: [(&str, &str); 17] = [
    ("server.listen", "--listen"),
    ("server.admin", "--admin"),
    ("server.tls.certificate", "--tls-certificate"),
    ("server.tls.private_key", "--tls-key"),
    ("server.tls", "--tls-certificate"),
    ("log.format", "--log-format"),
    ("log.level", "--log-level"),
    ("route.scheme", "--scheme"),
    ("route.params", "--param"),
    ("route.path", "--path"),
    ("route.public_url", "--public-url"),
    ("route.upstream", "--upstream"),
    ("route.secrets.file", "--secret-file"),
    ("route.secrets.env", "--secret-env"),
    ("route.secrets.credential", "--secret-credential"),
    ("route.secrets", "--secret-file"),
    ("route", "--scheme"),
];

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File,
    /// The variable `PORT`, which many platforms set.
    Port,
    Environment,
    Flags,
}

impl Origin {
    const ALL: [Self; 5] = [
        Self::Default,
        Self::File,
        Self::Port,
        Self::Environment,
        Self::Flags,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Default => "defaults",
            Self::File => "file",
            Self::Port => "PORT",
            Self::Environment => "environment",
            Self::Flags => "flags",
        }
    }
}

/// The layers, merged, with the memory of who said what.
pub(super) struct Layers {
    figment: Figment,
    merged: Value,
    document: Option<Document>,
    /// What paths in the file are relative to.
    folder: PathBuf,
}

/// The process's environment, as far as [`load`](super::load) reads it: `PORT` and what begins with `COUNTERSIGN_`.
///
/// Values that are not UTF-8 keep what can be read of them.
pub fn environment() -> Vec<(String, String)> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name == "PORT" || name.starts_with(PREFIX))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

impl Layers {
    /// Reads and merges. A file that cannot be read or is not TOML stops at once; all else is added to `problems`.
    pub(super) fn read(
        source: &Source,
        env: &[(String, String)],
        flags: &Flags,
        problems: &mut Vec<Problem>,
    ) -> Result<Self, Box<Problem>> {
        let (document, folder) = match source {
            Source::None => (None, PathBuf::new()),
            Source::Stdin(text) => (Some(parse("<stdin>", text.clone())?), PathBuf::new()),
            Source::File(path) => {
                let name = path.display().to_string();
                let text = read_file(path, &name)?;
                let folder = path.parent().map(Path::to_owned).unwrap_or_default();
                (Some(parse(&name, text)?), folder)
            }
        };
        let in_file = document.as_ref().map(Document::dict).unwrap_or_default();
        if flags.make_a_route() && in_file.contains_key("route") {
            problems.push(Problem {
                severity: Severity::Error,
                path: "route".into(),
                message: "the flags describe a route, and the file has routes too".into(),
                help: Some(
                    "put everything into the file, or leave `--config` out to run one route without a file"
                        .into(),
                ),
                place: Place::Flag(flags.route_flag().into()),
            });
        }
        let figment = Figment::new()
            .merge(Layer(Origin::Default, defaults()))
            .merge(Layer(Origin::Port, from_port(env)))
            .merge(Layer(Origin::File, in_file))
            .merge(Layer(Origin::Environment, from_environment(env, problems)))
            .merge(Layer(Origin::Flags, from_flags(flags, problems)));
        let mut merged = figment
            .find_value("")
            .expect("layers that were read already merge without fail");
        default_routes(&mut merged);
        Ok(Self {
            figment,
            merged,
            document,
            folder,
        })
    }

    /// Whether there is a file, or a text that stands for one.
    pub(super) fn has_file(&self) -> bool {
        self.document.is_some()
    }

    /// All values.
    pub(super) fn merged(&self) -> &Value {
        &self.merged
    }

    /// The value at a path.
    pub(super) fn value(&self, path: &[String]) -> Option<&Value> {
        path.iter().try_fold(&self.merged, child)
    }

    /// Who gave this value or, if there is none, the nearest table around it.
    pub(super) fn origin(&self, path: &[String]) -> Origin {
        let mut value = &self.merged;
        for segment in path {
            match child(value, segment) {
                Some(next) => value = next,
                None => break,
            }
        }
        self.figment
            .get_metadata(value.tag())
            .and_then(|metadata| {
                Origin::ALL
                    .into_iter()
                    .find(|origin| origin.name() == metadata.name)
            })
            .unwrap_or(Origin::Default)
    }

    /// Where a value was written.
    pub(super) fn place(&self, path: &[String], point: Point) -> Place {
        match self.origin(path) {
            Origin::File => self.in_file(path, point),
            Origin::Port => Place::Environment("PORT".into()),
            Origin::Environment => Place::Environment(variable_of(path)),
            Origin::Flags => Place::Flag(flag(path).into()),
            // Something is missing at the top: the file is where it belongs, if there is one.
            Origin::Default if path.len() < 2 => self.in_file(path, point),
            Origin::Default => Place::Nowhere,
        }
    }

    fn in_file(&self, path: &[String], point: Point) -> Place {
        self.document
            .as_ref()
            .map_or(Place::Nowhere, |document| document.place(path, point))
    }

    /// The path as people know it: routes by name, places in other lists by number.
    pub(super) fn show(&self, path: &[String]) -> String {
        let mut shown = path.to_vec();
        if let [table, index, ..] = path
            && table == "route"
            && let Some(name) = self
                .value(&[table.clone(), index.clone(), "name".into()])
                .and_then(Value::as_str)
            && super::route::is_name(name)
        {
            shown[1] = name.to_owned();
        }
        shown.join(".")
    }

    /// A path as it is meant: what stands in the file is relative to the file's folder.
    pub(super) fn resolve(&self, path: &[String], written: &str) -> PathBuf {
        match self.origin(path) {
            Origin::File => self.folder.join(written),
            Origin::Default | Origin::Port | Origin::Environment | Origin::Flags => written.into(),
        }
    }
}

fn child<'a>(value: &'a Value, segment: &String) -> Option<&'a Value> {
    match value.as_array() {
        Some(list) => list.get(segment.parse::<usize>().ok()?),
        None => value.as_dict()?.get(segment),
    }
}

/// One layer's values, for figment.
struct Layer(Origin, Dict);

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0.name())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.1.clone())]))
    }
}

fn parse(name: &str, text: String) -> Result<Document, Box<Problem>> {
    Document::parse(name, text).map_err(|error| {
        let help = if error.message.contains("string, expected") {
            Some("text ends with the quote that it began with, on the same line")
        } else if error.message.contains("quoted") || error.message.starts_with("invalid") {
            Some("text stands between quotes, as in `listen = \"127.0.0.1:8080\"`")
        } else if error.message.contains("duplicate") {
            Some("write each key and each `[table]` once; several routes are several `[[route]]`")
        } else {
            None
        };
        Box::new(Problem {
            severity: Severity::Error,
            path: String::new(),
            message: format!("this is not TOML: {}", error.message),
            help: help.map(Into::into),
            place: error.place,
        })
    })
}

fn read_file(path: &Path, name: &str) -> Result<String, Box<Problem>> {
    let bytes = fs::read(path);
    let (message, help) = match bytes.map(String::from_utf8) {
        Ok(Ok(text)) => return Ok(text),
        Ok(Err(_)) => ("the file is not UTF-8 text".to_owned(), "save it as UTF-8"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (
            "there is no such file".to_owned(),
            "name the configuration with `--config`, or describe one route with flags",
        ),
        Err(error) => (
            format!("the file cannot be read: {error}"),
            "name a file that this user may read",
        ),
    };
    Err(Box::new(Problem {
        severity: Severity::Error,
        path: String::new(),
        message,
        help: Some(help.into()),
        place: Place::File {
            file: name.to_owned(),
            position: None,
        },
    }))
}

fn built_in(text: &str) -> Dict {
    match Document::parse("defaults", text.to_owned()) {
        Ok(document) => document.dict(),
        Err(error) => unreachable!("the defaults are TOML: {}", error.message),
    }
}

fn defaults() -> Dict {
    built_in(raw::DEFAULTS)
}

/// Gives every route what it does not say itself.
fn default_routes(merged: &mut Value) {
    if let Value::Dict(_, top) = merged
        && let Some(Value::Array(_, routes)) = top.get_mut("route")
    {
        let defaults = built_in(raw::ROUTE_DEFAULTS);
        for route in routes {
            if let Value::Dict(_, keys) = route {
                for (key, value) in &defaults {
                    keys.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
        }
    }
}

fn text(value: impl Into<String>) -> Value {
    Value::from(value.into())
}

fn texts(values: &[String]) -> Value {
    Value::Array(Tag::Default, values.iter().map(text).collect())
}

/// Puts a value below dotted keys, making the tables on the way.
fn insert(dict: &mut Dict, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            dict.insert(path.to_owned(), value);
        }
        Some((table, rest)) => {
            let entry = dict
                .entry(table.to_owned())
                .or_insert_with(|| Value::Dict(Tag::Default, Dict::new()));
            if let Value::Dict(_, inner) = entry {
                insert(inner, rest, value);
            }
        }
    }
}

/// `PORT`, which lies below file, environment and flags: it counts only where nobody names an address.
fn from_port(env: &[(String, String)]) -> Dict {
    let mut dict = Dict::new();
    if let Some((_, port)) = env.iter().find(|(name, _)| name == "PORT") {
        insert(&mut dict, "server.listen", text(format!("0.0.0.0:{port}")));
    }
    dict
}

fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "__"))
}

/// The variable that gives a value. It gives lists whole.
fn variable_of(path: &[String]) -> String {
    let keys: Vec<&str> = path
        .iter()
        .map(String::as_str)
        .take_while(|segment| segment.parse::<usize>().is_err())
        .collect();
    variable(&keys.join("."))
}

/// Keys that a variable can set: all but those inside lists.
fn settable() -> impl Iterator<Item = String> {
    raw::known_keys().into_iter().filter(|key| {
        !key.starts_with("route.")
            && !key.starts_with("server.tls.certificates.")
            && !key.starts_with("traces.headers")
            && key != "server.tls"
            && key != "fetch.resolve"
    })
}

fn from_environment(env: &[(String, String)], problems: &mut Vec<Problem>) -> Dict {
    let known: Vec<_> = settable().map(|key| (variable(&key), key)).collect();
    let mut dict = Dict::new();
    for (name, value) in env {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if let Some((_, key)) = known.iter().find(|(variable, _)| variable == name) {
            insert(&mut dict, key, scalar(key, value));
        } else if rest.contains("__") {
            problems.push(unknown_variable(name, rest, &known));
        } else if let Some((variable, _)) = known
            .iter()
            .find(|(variable, _)| variable.replace("__", "_") == *name)
        {
            problems.push(Problem {
                severity: Severity::Warning,
                path: String::new(),
                message: format!("the environment variable `{name}` sets nothing"),
                help: Some(format!("did you mean `{variable}`, with two underscores?")),
                place: Place::Environment(name.clone()),
            });
        }
    }
    dict
}

fn unknown_variable(name: &str, rest: &str, known: &[(String, String)]) -> Problem {
    let (message, help) = if rest.starts_with("ROUTE__") {
        (
            format!("the environment variable `{name}` cannot set a part of a route"),
            "write routes into the file".to_owned(),
        )
    } else {
        let names = known.iter().map(|(variable, _)| variable.as_str());
        (
            format!("the environment variable `{name}` names no known key"),
            match nearest(name, names) {
                Some(variable) => format!("did you mean `{variable}`?"),
                None => "unset it, or name a key of `[server]`, `[limits]`, `[log]`, `[fetch]`, `[replay]` or `[traces]`"
                    .to_owned(),
            },
        )
    };
    Problem {
        severity: Severity::Error,
        path: String::new(),
        message,
        help: Some(help),
        place: Place::Environment(name.to_owned()),
    }
}

/// What a variable's text means for its key. Digits stay text where text is wanted.
fn scalar(key: &str, value: &str) -> Value {
    if NUMBERS.contains(&key)
        && let Ok(number) = value.trim().parse::<i64>()
    {
        return Value::from(number);
    }
    if FRACTIONS.contains(&key)
        && let Ok(number) = value.trim().parse::<f64>()
    {
        return Value::from(number);
    }
    if SWITCHES.contains(&key)
        && let Ok(switch) = value.trim().parse::<bool>()
    {
        return Value::from(switch);
    }
    if LISTS.contains(&key)
        && value.trim_start().starts_with('[')
        && let Ok(document) = Document::parse("", format!("list = {value}"))
        && let Some(list) = document.dict().remove("list")
    {
        return list;
    }
    text(value)
}

fn flag(path: &[String]) -> &'static str {
    let key: Vec<&str> = path
        .iter()
        .map(String::as_str)
        .filter(|segment| segment.parse::<usize>().is_err())
        .collect();
    // The longest entry that covers the key.
    (1..=key.len())
        .rev()
        .find_map(|length| {
            let key = key[..length].join(".");
            FLAGS.iter().find(|(known, _)| *known == key)
        })
        .map_or("--config", |(_, flag)| flag)
}

fn from_flags(flags: &Flags, problems: &mut Vec<Problem>) -> Dict {
    let mut dict = Dict::new();
    if !flags.listen.is_empty() {
        insert(&mut dict, "server.listen", texts(&flags.listen));
    }
    let path = |path: &Option<PathBuf>| {
        path.as_ref()
            .map(|path| path.to_string_lossy().into_owned())
    };
    for (key, value) in [
        ("server.admin", flags.admin.clone()),
        ("server.tls.certificate", path(&flags.tls_certificate)),
        ("server.tls.private_key", path(&flags.tls_key)),
        ("log.format", flags.log_format.clone()),
        ("log.level", flags.log_level.clone()),
    ] {
        if let Some(value) = value {
            insert(&mut dict, key, text(value));
        }
    }
    if flags.make_a_route() {
        let route = route_of(flags, problems);
        let routes = vec![Value::Dict(Tag::Default, route)];
        dict.insert("route".into(), Value::Array(Tag::Default, routes));
    }
    dict
}

fn route_of(flags: &Flags, problems: &mut Vec<Problem>) -> Dict {
    let mut route = Dict::new();
    insert(&mut route, "name", text("default"));
    insert(
        &mut route,
        "path",
        text(flags.path.as_deref().unwrap_or("/*")),
    );
    if let Some(scheme) = &flags.scheme {
        insert(&mut route, "scheme", text(scheme));
    }
    if let Some(url) = &flags.public_url {
        insert(&mut route, "public_url", text(url));
    }
    if !flags.upstream.is_empty() {
        insert(&mut route, "upstream", texts(&flags.upstream));
    }
    for param in &flags.param {
        match param.split_once('=') {
            Some((name, value)) if !name.is_empty() && !name.contains('.') => {
                insert(&mut route, &format!("params.{name}"), text(value));
            }
            _ => problems.push(Problem {
                severity: Severity::Error,
                path: "route.default.params".into(),
                message: "a parameter needs a name and a value".into(),
                help: Some("write `--param NAME=VALUE`, such as `--param header=x-api-key`".into()),
                place: Place::Flag("--param".into()),
            }),
        }
    }
    let mut secret = Dict::new();
    for (key, value) in [
        (
            "file",
            flags
                .secret_file
                .as_ref()
                .map(|file| file.to_string_lossy().into_owned()),
        ),
        ("env", flags.secret_env.clone()),
        ("credential", flags.secret_credential.clone()),
    ] {
        if let Some(value) = value {
            insert(&mut secret, key, text(value));
        }
    }
    if !secret.is_empty() {
        insert(&mut secret, "id", text("default"));
        let secrets = vec![Value::Dict(Tag::Default, secret)];
        route.insert("secrets".into(), Value::Array(Tag::Default, secrets));
    }
    route
}

impl Flags {
    /// Whether any flag that describes a route was given.
    pub fn make_a_route(&self) -> bool {
        !self.route_flag().is_empty()
    }

    /// The first flag that describes a route; empty if there is none.
    fn route_flag(&self) -> &'static str {
        [
            ("--scheme", self.scheme.is_some()),
            ("--param", !self.param.is_empty()),
            ("--secret-file", self.secret_file.is_some()),
            ("--secret-env", self.secret_env.is_some()),
            ("--secret-credential", self.secret_credential.is_some()),
            ("--upstream", !self.upstream.is_empty()),
            ("--path", self.path.is_some()),
            ("--public-url", self.public_url.is_some()),
        ]
        .into_iter()
        .find(|(_, given)| *given)
        .map_or("", |(flag, _)| flag)
    }
}
