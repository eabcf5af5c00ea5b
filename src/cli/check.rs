//! `countersign check`: what start-up does, without serving.

use std::{collections::BTreeMap, io::Write as _, sync::Arc};

use serde::Serialize;

use super::{
    ConfigArgs, Failure, Outcome, print,
    serve::{RouteArgs, load},
};
use crate::{
    acme::{self, Certificates},
    assemble::{self, Finding},
    clock::{Clock as _, SystemClock},
    config::{Config, Loaded, Place, Problem, RouteConfig, Setting, Severity},
    pipeline::Gateway,
    reject::Chain,
    scheme::{Gap, catalogue},
    server::server_config,
    telemetry::LogSink,
};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// End with 1 if there are warnings
    #[arg(long)]
    strict: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// Print every value and where it came from: default, file and line, environment variable or flag
    #[arg(long)]
    show_origin: bool,
    #[command(flatten)]
    route: RouteArgs,
}

/// What is printed: routes to stdout and problems to stderr, or all of it as JSON to stdout.
#[derive(Serialize)]
struct Report {
    ok: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    settings: Vec<Setting>,
    routes: Vec<RouteReport>,
    /// What the catalogue says of the providers, by their ids.
    notes: BTreeMap<&'static str, Vec<String>>,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct RouteReport {
    name: String,
    host: Option<String>,
    path: String,
    scheme: String,
    secrets: usize,
    fetches_keys: bool,
    guarded: bool,
    upstream: Vec<String>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let report = match load(&args.config, args.route.flags()) {
        Ok(loaded) => inspect(loaded, args.show_origin)?,
        Err(Failure::Config(errors)) => Report {
            ok: false,
            settings: Vec::new(),
            routes: Vec::new(),
            notes: BTreeMap::new(),
            problems: errors.problems().to_vec(),
        },
        Err(failure) => return Err(failure),
    };
    if args.json {
        print(format_args!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        print(report.text())?;
        for problem in &report.problems {
            let _ = write!(std::io::stderr(), "{problem}\n\n");
        }
    }
    if !report.ok {
        return Err(Failure::Unusable(
            "the configuration cannot be used as it is".into(),
        ));
    }
    if args.strict && !report.problems.is_empty() {
        Err(Failure::Negative)
    } else {
        Ok(())
    }
}

/// Opens everything that the configuration names.
fn inspect(loaded: Loaded, show_origin: bool) -> Result<Report, Failure> {
    let Loaded {
        config,
        warnings,
        settings,
        ..
    } = loaded;
    let mut problems = warnings;
    if let Some(tls) = &config.server.tls {
        let certificates = Arc::new(Certificates::default());
        let kept = tls.acme.as_ref().map(acme::open).transpose();
        let config = kept.and_then(|kept| {
            certificates.configure(tls.acme.as_ref(), kept);
            server_config(tls, None, &certificates)
        });
        match config {
            Ok(acceptor) => {
                let faults = acceptor.faults(SystemClock.now()).into_iter();
                problems.extend(faults.map(|fault| Problem {
                    severity: Severity::Warning,
                    help: Some("renew it; it is read again when its file changes".into()),
                    ..error("server.tls", fault)
                }));
            }
            Err(fault) => problems.push(error("server.tls", Chain(fault.as_ref()).to_string())),
        }
    }
    let mut routes = Vec::new();
    match assemble::gateway(&config, LogSink::to(std::io::sink())?) {
        Err(fault) => problems.push(error("route", Chain(fault.as_ref()).to_string())),
        Ok((gateway, findings)) => {
            problems.extend(findings.into_iter().map(of_route));
            if let Err(fault) = gateway.lasting.bodies.probe() {
                let message = format!("the folder for spooled bodies cannot be written: {fault}");
                problems.push(Problem {
                    help: Some(
                        "name a folder that the process may write, or set `spool = \"0\"`".into(),
                    ),
                    ..error("limits.spool_dir", message)
                });
            }
            problems.extend(config.routes.iter().filter_map(repeatable));
            routes = describe(&config, &gateway);
        }
    }
    Ok(Report {
        ok: problems
            .iter()
            .all(|problem| problem.severity == Severity::Warning),
        settings: if show_origin { settings } else { Vec::new() },
        routes,
        notes: notes(&config),
        problems,
    })
}

/// A problem with something that the configuration names.
fn error(path: &str, message: String) -> Problem {
    Problem {
        severity: Severity::Error,
        path: path.into(),
        message,
        help: None,
        place: Place::Nowhere,
    }
}

/// Warns of a route to which a captured delivery can be sent again.
fn repeatable(route: &RouteConfig) -> Option<Problem> {
    let unguarded = route.guard.is_none() && route.scheme.gaps().contains(&Gap::Time);
    let can_be_guarded = || route.scheme.clone().guard().is_ok();
    unguarded.then(|| Problem {
        severity: Severity::Warning,
        help: Some(match can_be_guarded() {
            true => "add `replay = \"24h\"` to the route, so that a delivery is forwarded once".into(),
            false => "the upstream has to recognise deliveries that it has seen".into(),
        }),
        ..error(
            &format!("route.{}.scheme", route.name),
            format!(
                "route {}: scheme `{}` signs no time: a captured delivery verifies for as long as the secret lives",
                route.name,
                route.scheme.name()
            ),
        )
    })
}

fn of_route(finding: Finding) -> Problem {
    let Finding {
        route,
        key,
        unusable,
        text,
    } = finding;
    let (path, about) = match key {
        Some(key) => (
            format!("route.{route}.secrets.{key}"),
            format!("route {route}, secret {key}"),
        ),
        None => (format!("route.{route}"), format!("route {route}")),
    };
    Problem {
        severity: if unusable {
            Severity::Error
        } else {
            Severity::Warning
        },
        ..error(&path, format!("{about}: {text}"))
    }
}

fn describe(config: &Config, gateway: &Gateway) -> Vec<RouteReport> {
    let snapshot = gateway.snapshot.load();
    let routes = snapshot.routes.iter().zip(&config.routes);
    routes
        .map(|(route, config)| RouteReport {
            name: route.name.clone(),
            host: config.host.clone(),
            path: config.path.to_string(),
            scheme: route.scheme.name().to_owned(),
            secrets: route.keys.len(),
            fetches_keys: route.fetching.is_some(),
            guarded: route.guard.is_some(),
            upstream: config
                .upstream
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect(),
        })
        .collect()
}

fn notes(config: &Config) -> BTreeMap<&'static str, Vec<String>> {
    let used = |id: &str| {
        config.routes.iter().any(|route| {
            let (provider, _) = catalogue::split(route.scheme.name());
            provider == id
        })
    };
    catalogue::providers()
        .filter(|provider| used(provider.id))
        .map(|provider| (provider.id, provider.spec.notes))
        .collect()
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for setting in &self.settings {
            let Setting { path, value, .. } = setting;
            text.push_str(&format!("{path} = {value}  # {}\n", setting.origin()));
        }
        for route in &self.routes {
            text.push_str(&format!(
                "route {}: {}{} -> {}, scheme {}, {}{}\n",
                route.name,
                route.host.as_deref().unwrap_or("*"),
                route.path,
                route.upstream.join(" "),
                route.scheme,
                match route.fetches_keys {
                    true => "keys are fetched".to_owned(),
                    false => count(route.secrets, "secret"),
                },
                if route.guarded { ", replay guard" } else { "" }
            ));
        }
        for (provider, notes) in &self.notes {
            for note in notes {
                text.push_str(&format!("{provider}: {note}\n"));
            }
        }
        let errors = self
            .problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .count();
        text.push_str(&format!(
            "{}, {}\n",
            count(errors, "error"),
            count(self.problems.len() - errors, "warning")
        ));
        text
    }
}

/// `1 error`, `2 errors`
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
