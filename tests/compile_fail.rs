//! Ways around the check that must not compile, each with the compiler's reason.
//!
//! `tests/compile_fail/control.rs` does compile, so that the others fail for their own fault.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

/// What the compiler says to one file, against one build of the crate.
struct Compiler {
    rustc: OsString,
    dependencies: PathBuf,
    library: PathBuf,
    output: tempfile::TempDir,
}

impl Compiler {
    /// Takes the newest build of the crate that the control compiles with: others may be of another compiler or older code.
    fn new(sources: &Path) -> Self {
        let dependencies = std::env::current_exe().unwrap();
        let dependencies = dependencies.parent().unwrap();
        let mut builds = libraries(dependencies, "countersign");
        assert!(!builds.is_empty(), "no build in {}", dependencies.display());
        let mut said = String::new();
        for library in builds.drain(..) {
            let compiler = Self {
                rustc: rustc(),
                dependencies: dependencies.to_owned(),
                library,
                output: tempfile::tempdir().unwrap(),
            };
            match compiler.compile(&sources.join("control.rs")) {
                Ok(()) => return compiler,
                Err(errors) => said = errors,
            }
        }
        panic!("the control compiles with none of the builds:\n{said}");
    }

    fn compile(&self, source: &Path) -> Result<(), String> {
        let mut library = OsString::from("countersign=");
        library.push(&self.library);
        let mut dependencies = OsString::from("dependency=");
        dependencies.push(&self.dependencies);
        let output = Command::new(&self.rustc)
            .args(["--edition=2024", "--crate-type=lib", "--emit=metadata"])
            .arg("--extern")
            .arg(library)
            .arg("-L")
            .arg(dependencies)
            .arg("--out-dir")
            .arg(self.output.path())
            .arg(source)
            .output()
            .unwrap();
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The compiler that cargo was told to use, else the one that it would find.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo says it in the environment"
)]
fn rustc() -> OsString {
    std::env::var_os("RUSTC").unwrap_or("rustc".into())
}

/// Builds of a crate in a folder, newest first.
fn libraries(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let file = path.file_name().unwrap().to_string_lossy();
            file.starts_with(&format!("lib{name}-")) && file.ends_with(".rlib")
        })
        .map(|path| (fs::metadata(&path).unwrap().modified().unwrap(), path))
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// The codes of the errors that the compiler told of: `E0308`.
fn codes(said: &str) -> Vec<&str> {
    let mut codes: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("error")?.strip_prefix('['))
        .filter_map(|line| line.split(']').next())
        .collect();
    codes.dedup();
    codes
}

#[test]
fn ways_around_the_check_do_not_compile() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail");
    let compiler = Compiler::new(&sources);
    let mut tried = 0;
    for entry in fs::read_dir(&sources).unwrap() {
        let source = entry.unwrap().path();
        if source.ends_with("control.rs") {
            continue;
        }
        let text = fs::read_to_string(&source).unwrap();
        let code = text.lines().next().unwrap().strip_prefix("// error: ");
        let code = code.unwrap_or_else(|| panic!("{}: which error?", source.display()));
        match compiler.compile(&source) {
            Ok(()) => panic!("{} compiles", source.display()),
            Err(said) => assert_eq!(codes(&said), [code], "{}:\n{said}", source.display()),
        }
        tried += 1;
    }
    assert!(tried > 10, "only {tried} sources");
}
