//! `countersign man`: manual pages, from the definitions that read the command line.

use std::{fs, io, iter, path::PathBuf};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use super::{Failure, Outcome, print_bytes};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Command that the page is about; left out: all of them
    command: Option<String>,
    /// Write every page into this folder, `countersign.1` and `countersign-COMMAND.1`
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args, command: Command) -> Outcome {
    // There are no pages `countersign-help-serve`.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let all = || iter::once(&command).chain(command.get_subcommands());
    if let Some(folder) = &args.out {
        for command in all() {
            let file = folder.join(manual(command).get_filename());
            fs::write(&file, page(command)?)
                .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
        }
        return Ok(());
    }
    let named = match &args.command {
        None => &command,
        Some(name) => command
            .find_subcommand(name)
            .ok_or_else(|| Failure::Usage(format!("there is no command `{name}`")))?,
    };
    print_bytes(&page(named)?)
}

fn manual(command: &Command) -> Man {
    Man::new(command.clone())
        .manual("Countersign")
        // A page that was made from the same sources is the same page. The blank keeps the place.
        .date(" ")
        .source(concat!("countersign ", env!("CARGO_PKG_VERSION")))
}

/// All that clap's own rendering has, but for what stands behind the help: that one breaks its lines anew.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let (man, mut page) = (manual(command), Vec::new());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut rest = Roff::new();
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    } else {
        rest.control("SH", ["SEE ALSO"]);
        rest.text([roman("countersign(1)")]);
    }
    if let Some(help) = command.get_after_help() {
        rest.control("SH", ["NOTES"]).control("nf", []);
        for line in help.to_string().lines() {
            rest.text([roman(line)]);
        }
        rest.control("fi", []);
    }
    rest.to_writer(&mut page)?;
    Ok(page)
}
