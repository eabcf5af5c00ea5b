//! Signing secrets: where they come from and how they are kept.
//!
//! A secret never passes through the configuration: the file names its source and this module reads the bytes. What it
//! hands out has no `Display`, a `Debug` without content, and is overwritten when dropped.

use std::{
    env, fmt, fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// The most bytes a secret source may hold. Real secrets stay far below; a wrong path to a large file is caught here.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// The bytes of a secret. Never empty.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes raw bytes as they are, for secrets that were just made (demo, tests).
    ///
    /// # Errors
    /// [`SecretError::Empty`] if there is no byte, or nothing but white space.
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretError> {
        let bytes = Zeroizing::new(bytes);
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(SecretError::Empty);
        }
        Ok(Self(bytes))
    }

    /// The bytes. Call it only where a key is made of them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file; one trailing line end is stripped, because editors add it.
    File(PathBuf),
    /// An environment variable, taken as it is.
    Env(String),
    /// A systemd credential (`LoadCredential=`): the file of that name in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

/// A secret with what reading it showed.
#[derive(Debug)]
pub struct Loaded {
    /// The secret.
    pub secret: Secret,
    /// A trailing line end was found and stripped.
    pub line_end_stripped: bool,
    /// What remains begins or ends with white space: kept, because it may be part of the key, but worth a warning.
    pub outer_white_space: bool,
}

/// Why a secret cannot be used. No variant holds any byte of it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// No bytes, or only white space.
    #[error("is empty; write the signing secret into it")]
    Empty,
    /// More than [`SECRET_BYTES_MAX`].
    #[error("is larger than {SECRET_BYTES_MAX} bytes; is this the right file?")]
    TooLarge,
    /// The variable is not set.
    #[error("is not set; the process that starts this one sets it to the signing secret")]
    Unset,
    /// There is no such file.
    #[error("does not exist; write the signing secret into it, or correct its name")]
    NoFile,
    /// Not running under systemd with credentials.
    #[error(
        "cannot be read: $CREDENTIALS_DIRECTORY is not set; use LoadCredential= in the systemd unit"
    )]
    NoCredentials,
    /// A credential's name with a path in it.
    #[error("is not a plain credential name; it may not hold `/` or be `..`")]
    CredentialName,
    /// The file cannot be read.
    #[error("cannot be read")]
    Io(#[source] io::Error),
}

impl SecretSource {
    /// Reads the secret. Blocks on the file system.
    ///
    /// # Errors
    /// [`SecretError`], which names the fault but not the source: the caller has it.
    pub fn read(&self) -> Result<Loaded, SecretError> {
        match self {
            Self::File(path) => read_file(path),
            Self::Env(name) => from_env(name),
            Self::Credential(name) => {
                if name.contains('/') || name == ".." {
                    return Err(SecretError::CredentialName);
                }
                let directory =
                    variable("CREDENTIALS_DIRECTORY").ok_or(SecretError::NoCredentials)?;
                read_file(&Path::new(&directory).join(name))
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "secrets may live in the environment"
)]
fn variable(name: &str) -> Option<std::ffi::OsString> {
    env::var_os(name)
}

fn from_env(name: &str) -> Result<Loaded, SecretError> {
    use std::os::unix::ffi::OsStringExt as _;
    let value = variable(name).ok_or(SecretError::Unset)?;
    loaded(value.into_vec(), false)
}

fn read_file(path: &Path) -> Result<Loaded, SecretError> {
    let file = fs::File::open(path).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            SecretError::NoFile
        } else {
            SecretError::Io(error)
        }
    })?;
    // Full size at once: a vector that grows would leave copies of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 1));
    file.take(SECRET_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(SecretError::Io)?;
    if bytes.len() > SECRET_BYTES_MAX {
        return Err(SecretError::TooLarge);
    }
    let end = if bytes.ends_with(b"\r\n") {
        bytes.len() - 2
    } else if bytes.ends_with(b"\n") {
        bytes.len() - 1
    } else {
        bytes.len()
    };
    loaded(bytes[..end].to_vec(), end != bytes.len())
}

fn loaded(bytes: Vec<u8>, line_end_stripped: bool) -> Result<Loaded, SecretError> {
    let outer_white_space = bytes.first().is_some_and(u8::is_ascii_whitespace)
        || bytes.last().is_some_and(u8::is_ascii_whitespace);
    Ok(Loaded {
        secret: Secret::new(bytes)?,
        line_end_stripped,
        outer_white_space,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> Result<Loaded, SecretError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, content).unwrap();
        SecretSource::File(path).read()
    }

    #[test]
    fn strips_exactly_one_line_end_and_says_so() {
        for (content, want, stripped) in [
            (&b"key"[..], &b"key"[..], false),
            (b"key\n", b"key", true),
            (b"key\r\n", b"key", true),
            (b"key\n\n", b"key\n", true),
            (b" key ", b" key ", false),
        ] {
            let loaded = file(content).unwrap();
            assert_eq!(loaded.secret.expose(), want);
            assert_eq!(loaded.line_end_stripped, stripped);
        }
        assert!(file(b" key").unwrap().outer_white_space);
        assert!(!file(b"key\n").unwrap().outer_white_space);
    }

    #[test]
    fn refuses_empty_blank_large_and_missing() {
        assert!(matches!(file(b""), Err(SecretError::Empty)));
        assert!(matches!(file(b"\n"), Err(SecretError::Empty)));
        assert!(matches!(file(b" \t\r\n"), Err(SecretError::Empty)));
        assert!(matches!(
            file(&vec![b'x'; SECRET_BYTES_MAX + 1]),
            Err(SecretError::TooLarge)
        ));
        assert!(matches!(
            SecretSource::File("/nonexistent/secret".into()).read(),
            Err(SecretError::NoFile)
        ));
        assert!(matches!(
            SecretSource::File("/".into()).read(),
            Err(SecretError::Io(_))
        ));
        assert!(matches!(
            SecretSource::Env("COUNTERSIGN_TEST_SURELY_UNSET".into()).read(),
            Err(SecretError::Unset)
        ));
        assert!(matches!(
            SecretSource::Credential("../x".into()).read(),
            Err(SecretError::CredentialName)
        ));
    }

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new(b"hunter2".to_vec()).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
