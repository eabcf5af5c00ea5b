//! Lists the files of `config/providers/`, which `src/scheme/catalogue.rs` builds in: a new provider is a file, and no line of Rust.
//! And tells of what, and by which compiler, the program is built.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script in this way where to write"
)]
fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=config/providers");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/providers");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    files.retain(|path| path.extension() == Some(OsStr::new("toml")));
    // By id: with its ending `dropbox.toml` would come after `dropbox-sign.toml`.
    files.sort_by(|a, b| a.file_stem().cmp(&b.file_stem()));
    let mut list = String::from("&[\n");
    for path in files {
        let id = path.file_stem().unwrap_or_default().to_string_lossy();
        list.push_str(&format!("    ({id:?}, include_str!({path:?})),\n"));
    }
    list.push(']');
    let out = env::var_os("OUT_DIR").unwrap_or_default();
    fs::write(Path::new(&out).join("providers.rs"), list)?;
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    // `rustc 1.95.0 (59807616e 2026-04-14)`
    let compiler = printed(Command::new(compiler).arg("--version"));
    let version = compiler.split(' ').nth(1).unwrap_or_default();
    println!("cargo::rustc-env=BUILT_BY={version}");
    // Where the source comes without its git, as into an image, whoever builds can say it.
    println!("cargo::rerun-if-env-changed=SOURCE_REVISION");
    let said = env::var("SOURCE_REVISION").unwrap_or_default();
    // In a release only: else every commit would build all tests anew.
    let released = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let revision = match said.is_empty() && released {
        true => revision(),
        false => said,
    };
    println!("cargo::rustc-env=BUILT_OF={revision}");
    Ok(())
}

/// The commit that is checked out; empty where there is no git, or the source lies in the repository of something else.
fn revision() -> String {
    let git = |arguments: &[&str]| {
        let folder = env!("CARGO_MANIFEST_DIR");
        printed(Command::new("git").arg("-C").arg(folder).args(arguments))
    };
    if !git(&["rev-parse", "--show-prefix"]).is_empty() {
        return String::new();
    }
    // Every commit and checkout writes a line there. A file that is not there would run this script at every build.
    let log = git(&[
        "rev-parse",
        "--path-format=absolute",
        "--git-path",
        "logs/HEAD",
    ]);
    if Path::new(&log).is_file() {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "HEAD"])
}

/// What a command prints; nothing, if it cannot be run or fails.
fn printed(command: &mut Command) -> String {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success());
    let text = output.and_then(|output| String::from_utf8(output.stdout).ok());
    text.unwrap_or_default().trim().to_owned()
}
