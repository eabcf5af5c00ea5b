//! `countersign health`: for a container's HEALTHCHECK.

use http::{HeaderMap, Method, Uri};

use super::{Failure, Outcome, block_on, client, print};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Address of the admin listener
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9600")]
    admin: String,
}

pub(super) fn run(args: &Args) -> Outcome {
    let url: Uri = format!("http://{}/readyz?verbose", args.admin)
        .parse()
        .map_err(|_| {
            Failure::Usage(format!(
                "`{}` is not an address; write it like 127.0.0.1:9600",
                args.admin
            ))
        })?;
    match block_on(client::request(
        Method::GET,
        &url,
        None,
        HeaderMap::new(),
        bytes::Bytes::new(),
    ))? {
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
