//! A scheme with its secrets, from flags or from a route of a configuration: for `sign`, `verify` and `send`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{ConfigArgs, Failure, is_stdin, serve};
use crate::{
    clock::UnixTime,
    config::{PublicUrl, RouteConfig, nearest},
    reject::Chain,
    scheme::{Scheme, catalogue},
    secret::{Secret, SecretSource},
};

/// More names than this are no help in an error.
const MANY: usize = 20;

/// Where scheme and secret come from.
#[derive(clap::Args)]
pub(super) struct SignerArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Take scheme and secrets from this route of the configuration
    #[arg(long, value_name = "NAME", conflicts_with_all = ["scheme", "params", "secret_file", "secret_env"])]
    route: Option<String>,
    /// Scheme from the catalogue, such as `carevalidate`
    #[arg(long, value_name = "NAME", required_unless_present = "route")]
    scheme: Option<String>,
    /// Parameter of the scheme, as NAME=VALUE; may be repeated
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = pair)]
    params: Vec<(String, String)>,
    /// File that holds the secret; to sign as a provider with public keys, its private key in PEM
    #[arg(long, value_name = "FILE", required_unless_present_any = ["route", "secret_env"], conflicts_with = "secret_env")]
    secret_file: Option<PathBuf>,
    /// Environment variable that holds the secret
    #[arg(long, value_name = "NAME")]
    secret_env: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A scheme, and secrets unless it needs none.
pub(super) struct Signer {
    pub(super) scheme: Scheme,
    /// Key ids and secrets.
    pub(super) secrets: Vec<(String, Secret)>,
    /// What the route's sender has in front of the path.
    pub(super) public_url: Option<PublicUrl>,
}

impl Signer {
    /// The secret to sign with.
    pub(super) fn secret(&self) -> Result<&Secret, Failure> {
        match self.secrets.first() {
            Some((_, secret)) => Ok(secret),
            None => Err(Failure::Usage(
                "the route has no secret that is valid now, so nothing can be signed".into(),
            )),
        }
    }
}

impl SignerArgs {
    /// Reads both, as they hold at the time `now`. `input` is what the command reads besides.
    pub(super) fn signer(&self, now: UnixTime, input: &Path) -> Result<Signer, Failure> {
        if is_stdin(input) && self.config.config.as_deref().is_some_and(is_stdin) {
            return Err(Failure::Usage(
                "stdin cannot be both the configuration and the body; name a file for one of them"
                    .into(),
            ));
        }
        let (scheme, sources, public_url) = match &self.route {
            Some(name) => {
                let route = self.configured(name)?;
                let valid = route.secrets.into_iter();
                let valid = valid.filter(|secret| secret.is_valid(now));
                let sources = valid.map(|secret| (secret.id, secret.source));
                (route.scheme, sources.collect(), route.public_url)
            }
            None => (
                self.catalogued()?,
                vec![("default".to_owned(), self.source())],
                None,
            ),
        };
        let mut secrets = Vec::new();
        for (id, source) in sources {
            match source.read() {
                Ok(loaded) => secrets.push((id, loaded.secret)),
                Err(error) => return Err(Failure::Usage(format!("{source} {}", Chain(&error)))),
            }
        }
        Ok(Signer {
            scheme,
            secrets,
            public_url,
        })
    }

    fn source(&self) -> SecretSource {
        match (&self.secret_file, &self.secret_env) {
            (Some(path), _) => SecretSource::File(path.clone()),
            (None, name) => SecretSource::Env(name.clone().unwrap_or_default()),
        }
    }

    fn catalogued(&self) -> Result<Scheme, Failure> {
        let name = self.scheme.as_deref().unwrap_or_default();
        let params: BTreeMap<_, _> = self.params.iter().cloned().collect();
        catalogue::compile(name, &params).map_err(|errors| {
            Failure::Usage(match errors {
                None => unknown("scheme", name, &catalogue::names()),
                Some(errors) => errors
                    .iter()
                    .map(|error| format!("{}; here: `--param NAME=VALUE`", error.message))
                    .collect::<Vec<_>>()
                    .join("\n"),
            })
        })
    }

    fn configured(&self, name: &str) -> Result<RouteConfig, Failure> {
        let config = serve::load(&self.config, Default::default())?.config;
        let known: Vec<_> = config
            .routes
            .iter()
            .map(|route| route.name.clone())
            .collect();
        let mut routes = config.routes.into_iter();
        routes
            .find(|route| route.name == *name)
            .ok_or_else(|| Failure::Usage(unknown("route", name, &known)))
    }
}

/// Says that there is no such thing, and what there is.
pub(super) fn unknown(what: &str, name: &str, known: &[String]) -> String {
    let hint = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.len() > MANY => "`countersign providers` lists them".to_owned(),
        None => format!("there are {}", known.join(", ")),
    };
    format!("there is no {what} `{name}`; {hint}")
}
