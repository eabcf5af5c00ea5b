//! Requests saved to a file: the head as it came over HTTP/1.1, an empty line, the body.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{InvalidHeaderName, InvalidHeaderValue},
};

/// Header fields that a saved request may have.
const HEADERS_MAX: usize = 256;

/// A saved request.
#[derive(Debug)]
pub struct SavedRequest<'a> {
    /// Method and target of its request line, if it has one.
    pub line: Option<(Method, String)>,
    /// Its header fields, as often as they came.
    pub headers: HeaderMap,
    /// Its body: every byte behind the empty line.
    pub body: &'a [u8],
}

/// Why a saved request cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The head does not end.
    #[error("there is no empty line between head and body")]
    NoEmptyLine,
    /// The head is not one.
    #[error("the head is not HTTP/1.1: {0}")]
    Head(httparse::Error),
    /// A header has a name that none can have.
    #[error("a header name is not one")]
    Name(#[from] InvalidHeaderName),
    /// A header has a value that none can have.
    #[error("a header value is not one")]
    Value(#[from] InvalidHeaderValue),
}

/// Splits a saved request. The request line may be missing; line ends may be those of a text editor.
///
/// # Errors
/// [`SavedError`] if head and body cannot be told apart, or the head cannot be read.
pub fn parse(request: &[u8]) -> Result<SavedRequest<'_>, SavedError> {
    let first_line_end = request.iter().position(|byte| *byte == b'\n');
    let (line, head) = match first_line_end {
        Some(end) if is_request_line(&request[..end]) => {
            (request_line(&request[..end]), &request[end + 1..])
        }
        _ => (None, request),
    };
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let (end, fields) = match httparse::parse_headers(head, &mut fields) {
        Ok(httparse::Status::Complete(found)) => found,
        Ok(httparse::Status::Partial) => return Err(SavedError::NoEmptyLine),
        Err(error) => return Err(SavedError::Head(error)),
    };
    let mut headers = HeaderMap::new();
    for field in fields {
        headers.append(
            HeaderName::from_bytes(field.name.as_bytes())?,
            HeaderValue::from_bytes(field.value)?,
        );
    }
    Ok(SavedRequest {
        line,
        headers,
        body: &head[end..],
    })
}

/// `POST /hooks HTTP/1.1`, with or without the `\r` of its end.
fn is_request_line(line: &[u8]) -> bool {
    let words: Vec<_> = line
        .trim_ascii_end()
        .split(|byte| *byte == b' ')
        .take(4)
        .collect();
    matches!(words[..], [method, _target, version] if !method.contains(&b':') && version.starts_with(b"HTTP/"))
}

fn request_line(line: &[u8]) -> Option<(Method, String)> {
    let mut words = line.split(|byte| *byte == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    let target = String::from_utf8(words.next()?.to_vec()).ok()?;
    Some((method, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_requests_with_and_without_request_line() {
        for head in [
            "POST /hooks HTTP/1.1\r\nHost: a\r\nX-Sig: 1\r\n\r\n",
            "POST /hooks HTTP/1.1\nhost: a\nx-sig: 1\n\n",
            "X-Sig: 1\nHost: a\n\n",
        ] {
            let request = [head.as_bytes(), b"\r\nbody\n"].concat();
            let saved = parse(&request).unwrap_or_else(|error| panic!("{head:?}: {error}"));
            assert_eq!(saved.headers["x-sig"], "1", "{head:?}");
            assert_eq!(saved.body, b"\r\nbody\n", "{head:?}");
        }
    }

    #[test]
    fn a_header_in_the_first_line_is_no_request_line() {
        for value in ["a b c", "a HTTP/1.1", "a b HTTP/1.1", "a HTTP/1.1 c"] {
            let request = format!("X-Sig:{value}\nHost: a\n\n");
            let saved = parse(request.as_bytes()).unwrap();
            assert_eq!(saved.headers["x-sig"], value);
        }
    }

    #[test]
    fn a_head_without_end_is_an_error() {
        assert!(matches!(
            parse(b"X-Sig: 1\nHost: a\n"),
            Err(SavedError::NoEmptyLine)
        ));
        assert!(parse(b"POST / HTTP/1.1").is_err());
    }
}
