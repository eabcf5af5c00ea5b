//! The commands: what they take, what they print, how they end.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 good, 1 a negative verdict, 2 usage, 70 internal, 78 configuration.

mod check;
mod client;
mod completions;
mod demo;
mod draft;
mod health;
mod man;
mod providers;
pub mod saved;
mod send;
mod serve;
mod sign;
mod signer;
mod verify;

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    config::{self, ConfigErrors},
    reject::Chain,
};

/// Stands in front of a webhook receiver: verifies signatures over the raw body and forwards the bytes unchanged.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
See it work:        countersign demo
One route, no file: countersign serve --scheme carevalidate --secret-file cv.secret \\
                      --upstream http://127.0.0.1:3000

Exit codes: 0 good, 1 the answer is no, 2 usage, 70 internal, 78 configuration";

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve(serve::Args),
    /// Do what start-up does, without serving: read configuration, secrets and certificates
    Check(check::Args),
    /// List the built-in providers, or say how one of them signs and what a route for it looks like
    Providers(providers::Args),
    /// Print the headers with which a sender signs a body
    Sign(sign::Args),
    /// Verify a saved request
    Verify(verify::Args),
    /// Send a signed delivery, genuine or wrong on purpose, to a URL
    Send(send::Args),
    /// Ask a running gateway whether it is ready; for container health checks
    Health(health::Args),
    /// See it work: gateway over TLS, echoing upstream, throw-away certificate and secret
    Demo(demo::Args),
    /// Print a script that completes the command line in a shell
    Completions(completions::Args),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Print a manual page, or write all of them
    Man(man::Args),
}

/// How a command ended that did not simply go well.
enum Failure {
    /// The answer is no. It was printed already.
    Negative,
    /// What was asked for makes no sense.
    Usage(String),
    /// The configuration has faults.
    Config(ConfigErrors),
    /// The configuration has none, but something that it names cannot be used.
    Unusable(String),
    /// Something that should work did not.
    Internal(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Internal(error.into())
    }
}

type Outcome = Result<(), Failure>;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // rustls, and whatever else asks it for one, takes this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Providers(args) => providers::run(&args),
        Command::Sign(args) => sign::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Schema => schema(),
        Command::Man(args) => man::run(&args, Cli::command()),
    };
    let (code, text) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Negative) => return ExitCode::from(1),
        Err(Failure::Usage(text)) => (2, format!("error: {text}")),
        Err(Failure::Config(errors)) => (78, errors.to_string()),
        Err(Failure::Unusable(text)) => (78, format!("error: {text}")),
        Err(Failure::Internal(error)) => (70, format!("error: {}", Chain(error.as_ref()))),
    };
    // A closed stderr is nothing to die of.
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::from(code)
}

fn schema() -> Outcome {
    print(format_args!(
        "{}\n",
        serde_json::to_string_pretty(&config::schema())?
    ))
}

/// Prints to stdout; a reader that has gone is not an error.
fn print(text: impl fmt::Display) -> Outcome {
    match write!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The same, to the byte.
fn print_bytes(bytes: &[u8]) -> Outcome {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// Reads a file, or stdin for `-`.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if is_stdin(path) {
        io::stdin().lock().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(path).map(|read| bytes = read)
    };
    read.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    Ok(bytes)
}

/// Runs a future on a runtime of this thread.
fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future))
}

/// The configuration file of commands that work from one.
#[derive(clap::Args, Clone)]
struct ConfigArgs {
    /// Configuration file, `-` for stdin; left out: what COUNTERSIGN_CONFIG names
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}
