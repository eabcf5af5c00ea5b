//! What is wrong with a configuration, and how it is shown.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The process does not start with it.
    Error,
    /// It starts, but somebody should look.
    Warning,
}

/// One thing that is wrong, or unwise. `Display` shows it with its place, in several lines, without a line end.
///
/// Never holds what might be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// The key, such as `limits.body` or, by the route's name, `route.cases.tolerance`. Empty: the whole configuration.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
    /// Where it was written.
    pub place: Place,
}

/// Where a faulty value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the configuration file.
    File {
        /// The file, as it was named to us; `<stdin>` for standard input.
        file: String,
        /// `None`: the file as a whole.
        position: Option<Position>,
    },
    /// In the environment variable of this name.
    Environment(String),
    /// In the command-line flag of this name, such as `--listen`.
    Flag(String),
    /// Nowhere: something is missing that no layer gives.
    Nowhere,
}

/// A place in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line itself with the byte range to underline; `None` if something on it might be a secret.
    pub source: Option<(String, std::ops::Range<usize>)>,
}

impl Place {
    /// The kind of place, and its name where it has one.
    pub(super) fn source(&self) -> Option<String> {
        match self {
            Self::File { .. } => Some("file".to_owned()),
            Self::Environment(name) => Some(format!("environment variable {name}")),
            Self::Flag(name) => Some(format!("flag {name}")),
            Self::Nowhere => None,
        }
    }
}

impl Problem {
    /// Line in the file, from 1.
    pub fn line(&self) -> Option<usize> {
        self.position().map(|position| position.line)
    }

    /// Column in the file, from 1.
    pub fn column(&self) -> Option<usize> {
        self.position().map(|position| position.column)
    }

    /// The file, as it was named to us.
    pub fn file(&self) -> Option<&str> {
        match &self.place {
            Place::File { file, .. } => Some(file),
            Place::Environment(_) | Place::Flag(_) | Place::Nowhere => None,
        }
    }

    fn position(&self) -> Option<&Position> {
        match &self.place {
            Place::File { position, .. } => position.as_ref(),
            Place::Environment(_) | Place::Flag(_) | Place::Nowhere => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut report = Group::with_title(level.primary_title(self.message.as_str()));
        report = match &self.place {
            Place::File { file, position } => match position {
                Some(Position {
                    line,
                    source: Some((text, span)),
                    ..
                }) => report.element(
                    Snippet::source(text.as_str())
                        .line_start(*line)
                        .path(file.as_str())
                        .annotation(AnnotationKind::Primary.span(span.clone()).label("here")),
                ),
                Some(Position { line, column, .. }) => {
                    report.element(Origin::path(file.as_str()).line(*line).char_column(*column))
                }
                None => report.element(Origin::path(file.as_str())),
            },
            Place::Environment(name) => {
                report.element(Origin::path(format!("environment variable {name}")))
            }
            Place::Flag(name) => report.element(Origin::path(format!("flag {name}"))),
            Place::Nowhere => report,
        };
        if let Some(help) = &self.help {
            report = report.element(Level::HELP.message(help.as_str()));
        }
        f.write_str(&Renderer::plain().render(&[report]))
    }
}

/// As `check --json` prints it: `severity`, `path`, `message`, `help`, `file`, `line`, `column`, `source`.
///
/// `source` is `file`, `environment variable NAME` or `flag --NAME`; what does not apply is null.
impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let source = self.place.source();
        let mut map = serializer.serialize_struct("Problem", 8)?;
        map.serialize_field("severity", &self.severity)?;
        map.serialize_field("path", &self.path)?;
        map.serialize_field("message", &self.message)?;
        map.serialize_field("help", &self.help)?;
        map.serialize_field("file", &self.file())?;
        map.serialize_field("line", &self.line())?;
        map.serialize_field("column", &self.column())?;
        map.serialize_field("source", &source)?;
        map.end()
    }
}

/// Everything that was found in a configuration that cannot be used: at least one error, and the warnings too.
///
/// In the order of the file; what stands elsewhere comes last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl ConfigErrors {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        sort(&mut problems);
        Self { problems }
    }

    /// Without the warnings: only what keeps it from being used.
    pub fn without_warnings(mut self) -> Self {
        self.problems
            .retain(|problem| problem.severity == Severity::Error);
        self
    }

    /// What was found.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

pub(super) fn sort(problems: &mut [Problem]) {
    problems.sort_by_key(|problem| {
        (
            problem.file().is_none(),
            problem.line().unwrap_or(0),
            problem.column().unwrap_or(0),
        )
    });
}

/// All problems, with an empty line between two.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The known word that was most likely meant: alike at all, and then with the fewest changes.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .filter(|candidate| strsim::jaro_winkler(word, candidate) > 0.8)
        .min_by_key(|candidate| strsim::damerau_levenshtein(word, candidate))
}

/// `` `a`, `b` or `c` ``
pub(super) fn any_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut quoted: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.pop() {
        Some(last) if quoted.is_empty() => last,
        Some(last) => format!("{} or {last}", quoted.join(", ")),
        None => String::new(),
    }
}
