//! Lists the files of `config/providers/`, which `src/scheme/catalogue.rs` builds in: a new provider is a file, and no line of Rust.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
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
    fs::write(Path::new(&out).join("providers.rs"), list)
}
