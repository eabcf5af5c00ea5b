//! `countersign completions`: what a shell has to know to complete our command line, from the definitions that read it.

use clap_complete::Shell;

use super::{Outcome, print_bytes};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Shell that is to read it
    shell: Shell,
}

pub(super) fn run(args: &Args, mut command: clap::Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "countersign", &mut script);
    print_bytes(&script)
}
