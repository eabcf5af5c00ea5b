//! `countersign health`: for a container's HEALTHCHECK.

use http::{Method, Uri};

use super::{Failure, Outcome, block_on, client, draft::Draft, print};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Address of the admin listener: HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9600")]
    admin: String,
}

const TARGET: &str = "/readyz?verbose";

pub(super) fn run(args: &Args) -> Outcome {
    let asked = match args.admin.strip_prefix("unix:") {
        Some("") => return Err(not_an_address(args)),
        Some(path) => block_on(client::get_unix(path.into(), TARGET)),
        None => {
            let url: Uri = format!("http://{}{TARGET}", args.admin)
                .parse()
                .map_err(|_| not_an_address(args))?;
            let mut asking = Draft::of(b"").with_target(&url);
            asking.method = Method::GET;
            block_on(client::request(&url, None, asking))
        }
    };
    match asked? {
        Ok(answer) => {
            print(String::from_utf8_lossy(&answer.body))?;
            if answer.status.is_success() {
                Ok(())
            } else {
                Err(Failure::Negative)
            }
        }
        Err(Failure::Internal(error)) => {
            print(format_args!("not healthy: {error}\n"))?;
            Err(Failure::Negative)
        }
        Err(failure) => Err(failure),
    }
}

fn not_an_address(args: &Args) -> Failure {
    Failure::Usage(format!(
        "`{}` is not an address; write it like 127.0.0.1:9600 or unix:/run/countersign/admin.sock",
        args.admin
    ))
}
