//! `countersign check`: what start-up does, without serving.

use serde::Serialize;

use super::{
    ConfigArgs, Failure, Outcome, print,
    serve::{RouteArgs, load},
};
use crate::{
    assemble::{self, Finding},
    config::{Config, Loaded},
    reject::Chain,
    scheme::catalogue,
    server::server_config,
    telemetry::LogSink,
};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    route: RouteArgs,
    /// End with 1 if there are warnings
    #[arg(long)]
    strict: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    routes: Vec<RouteReport>,
    errors: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct RouteReport {
    name: String,
    host: Option<String>,
    path: String,
    scheme: String,
    secrets: usize,
    upstream: Vec<String>,
    /// What the catalogue says of the provider.
    notes: Vec<String>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let Loaded { config, warnings } = load(&args.config, &args.route.flags())?;
    let mut report = inspect(&config)?;
    report.warnings.splice(
        0..0,
        warnings
            .iter()
            .map(|warning| format!("{}: {}", warning.path, warning.message)),
    );
    report.ok = report.errors.is_empty();
    if args.json {
        print(format_args!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        print(report.text())?;
    }
    if !report.ok {
        return Err(Failure::Config(
            "error: the configuration cannot be used as it is".into(),
        ));
    }
    if args.strict && !report.warnings.is_empty() {
        Err(Failure::Negative)
    } else {
        Ok(())
    }
}

/// Opens everything that the configuration names.
fn inspect(config: &Config) -> Result<Report, Failure> {
    let mut report = Report {
        ok: true,
        routes: Vec::new(),
        errors: Vec::new(),
        warnings: Vec::new(),
    };
    if let Some(Err(error)) = config.server.tls.as_ref().map(server_config) {
        report
            .errors
            .push(format!("server.tls: {}", Chain(error.as_ref())));
    }
    match assemble::gateway(config, LogSink::to(std::io::sink())?) {
        Err(error) => report.errors.push(Chain(error.as_ref()).to_string()),
        Ok((gateway, findings)) => {
            for Finding {
                route,
                key,
                unusable,
                text,
            } in findings
            {
                let key = key.map(|key| format!(", secret {key}")).unwrap_or_default();
                let list = if unusable {
                    &mut report.errors
                } else {
                    &mut report.warnings
                };
                list.push(format!("route {route}{key}: {text}"));
            }
            if let Err(error) = gateway.snapshot.bodies.probe() {
                report.errors.push(format!("limits.spool_dir: cannot be written: {error}; name a folder that the process may write, or set `spool = \"0\"`"));
            }
            for (route, config) in gateway.snapshot.routes.iter().zip(&config.routes) {
                let provider = route.scheme.name().split(':').next().unwrap_or_default();
                report.routes.push(RouteReport {
                    name: route.name.clone(),
                    host: config.host.clone(),
                    path: config.path.to_string(),
                    scheme: route.scheme.name().to_owned(),
                    secrets: route.keys.len(),
                    upstream: config
                        .upstream
                        .addresses
                        .iter()
                        .map(ToString::to_string)
                        .collect(),
                    notes: catalogue::providers()
                        .find(|known| known.id == provider)
                        .map(|known| known.spec.notes)
                        .unwrap_or_default(),
                });
            }
        }
    }
    Ok(report)
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for route in &self.routes {
            text.push_str(&format!(
                "route {}: {}{} -> {}, scheme {}, {} secret(s)\n",
                route.name,
                route.host.as_deref().unwrap_or("*"),
                route.path,
                route.upstream.join(" "),
                route.scheme,
                route.secrets
            ));
            for note in &route.notes {
                text.push_str(&format!("  note: {note}\n"));
            }
        }
        for warning in &self.warnings {
            text.push_str(&format!("warning: {warning}\n"));
        }
        for error in &self.errors {
            text.push_str(&format!("error: {error}\n"));
        }
        text.push_str(&format!(
            "{} error(s), {} warning(s)\n",
            self.errors.len(),
            self.warnings.len()
        ));
        text
    }
}
