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

/// Beginnings of keys that sign nothing: people paste them where a signing secret belongs.
const API_KEYS: [&[u8]; 14] = [
    b"sk_",
    b"pk_",
    b"rk_",
    b"sk-",
    b"xoxb-",
    b"xoxp-",
    b"xapp-",
    b"ghp_",
    b"gho_",
    b"github_pat_",
    b"glpat-",
    b"SG.",
    b"AKIA",
    b"eyJ",
];

/// Secrets that stand in documentation, or that everybody thinks of first.
const SAMPLES: [&[u8]; 9] = [
    b"It's a Secret to Everybody",
    b"8f742231b10e8888abcd99yyyzzz85a5",
    b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    b"whsec_plJ3nmyCDGBKInavdOK15jsl",
    b"whsec_test",
    b"changeme",
    b"secret",
    b"password",
    b"your-secret",
];

/// What makes a secret doubtful. Says nothing of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It begins like a key of an API.
    ApiKey,
    /// It begins with the name of an authentication scheme, which belongs to the header.
    Scheme,
    /// It stands in quotes.
    Quotes,
    /// It begins with a byte order mark.
    ByteOrderMark,
    /// It is one that everybody knows.
    Sample,
}

impl Doubt {
    /// What to do about it.
    pub fn text(self) -> &'static str {
        match self {
            Self::ApiKey => {
                "the secret looks like an API key or token; the route wants the signing secret of the webhook"
            }
            Self::Scheme => {
                "the secret begins with `Bearer` or `Basic`, which stands in the header alone"
            }
            Self::Quotes => "the secret stands in quotes, which are part of the key",
            Self::ByteOrderMark => {
                "the secret begins with a byte order mark, which is part of the key; save the file without"
            }
            Self::Sample => {
                "the secret is one that stands in documentation: anyone can sign with it; make a new one"
            }
        }
    }
}

impl Secret {
    /// What is odd about it as a shared secret.
    pub fn doubts(&self) -> Vec<Doubt> {
        let bytes = self.expose();
        let begins = |with: &[&[u8]]| with.iter().any(|begin| bytes.starts_with(begin));
        let quoted = |quote| bytes.len() > 1 && bytes.starts_with(quote) && bytes.ends_with(quote);
        let sample = SAMPLES.iter().any(|known| bytes.trim_ascii() == *known);
        [
            (begins(&API_KEYS), Doubt::ApiKey),
            (begins(&[b"Bearer ", b"Basic "]), Doubt::Scheme),
            (quoted(b"\"") || quoted(b"'"), Doubt::Quotes),
            (begins(&[b"\xef\xbb\xbf"]), Doubt::ByteOrderMark),
            (sample, Doubt::Sample),
        ]
        .into_iter()
        .filter_map(|(holds, doubt)| holds.then_some(doubt))
        .collect()
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
    /// The file that holds the secret, if one does.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Env(_) => None,
            Self::Credential(name) => {
                variable("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(name))
            }
        }
    }

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
    fn doubts_what_is_no_signing_secret() {
        for (text, want) in [
            (&b"sk_live_abcdefghijklmnop"[..], &[Doubt::ApiKey][..]),
            (b"xoxb-1-abcdefghijklmnop", &[Doubt::ApiKey]),
            (b"Bearer abcdefghijklmnop", &[Doubt::Scheme]),
            (b"\"abcdefghijklmnop\"", &[Doubt::Quotes]),
            (b"\xef\xbb\xbfabcdefghijklmnop", &[Doubt::ByteOrderMark]),
            (b"It's a Secret to Everybody", &[Doubt::Sample]),
            (b"whsec_abcdefghijklmnop", &[]),
            (b"'", &[]),
        ] {
            let secret = Secret::new(text.to_vec()).unwrap();
            assert_eq!(secret.doubts(), want, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new(b"hunter2".to_vec()).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
