//! Fields of forms and queries, and parts of multipart bodies.

use std::borrow::Cow;

/// Undoes `%xx` and `+`. `None` for an escape that is none.
pub(super) fn decode(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |byte: Option<&u8>| {
                    char::from(*byte?)
                        .to_digit(16)
                        .and_then(|d| u8::try_from(d).ok())
                };
                let high = digit(bytes.next())?;
                out.push(high * 16 + digit(bytes.next())?);
            }
            other => out.push(*other),
        }
    }
    Some(Cow::Owned(out))
}

type Pair<'f> = (Cow<'f, [u8]>, Cow<'f, [u8]>);

/// Name and value of each field, decoded.
pub(super) fn pairs(form: &[u8]) -> impl Iterator<Item = Option<Pair<'_>>> {
    form.split(|byte| *byte == b'&')
        .filter(|field| !field.is_empty())
        .map(|field| {
            let at = field.iter().position(|byte| *byte == b'=');
            let (name, value) = match at {
                Some(at) => (field.get(..at)?, field.get(at + 1..)?),
                None => (field, &[][..]),
            };
            Some((decode(name)?, decode(value)?))
        })
}

/// Why a field has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldFault {
    Malformed,
    Repeated,
}

/// The value of a field: the only one, or the last.
pub(super) fn field<'f>(
    form: &'f [u8],
    wanted: &[u8],
    last: bool,
) -> Result<Option<Cow<'f, [u8]>>, FieldFault> {
    let mut found = None;
    for pair in pairs(form) {
        let (name, value) = pair.ok_or(FieldFault::Malformed)?;
        if *name == *wanted {
            if found.is_some() && !last {
                return Err(FieldFault::Repeated);
            }
            found = Some(value);
        }
    }
    Ok(found)
}

/// Key and value of each field, by key and value, nothing between; equal fields once (Twilio's receivers do so).
pub(super) fn sorted_fields(form: &[u8]) -> Option<Vec<u8>> {
    let mut all = pairs(form).collect::<Option<Vec<_>>>()?;
    all.sort_unstable();
    all.dedup();
    Some(
        all.into_iter()
            .flat_map(|(name, value)| [name, value])
            .fold(Vec::new(), |mut out, text| {
                out.extend_from_slice(&text);
                out
            }),
    )
}

/// The pairs of a query as they were written, by name and value.
pub(super) fn sorted_query(query: &[u8]) -> Vec<u8> {
    let mut all: Vec<_> = query
        .split(|byte| *byte == b'&')
        .filter(|field| !field.is_empty())
        .collect();
    let key = |field: &&[u8]| {
        let name = field.split(|byte| *byte == b'=').next().unwrap_or_default();
        (name.to_vec(), field.to_vec())
    };
    all.sort_by_cached_key(key);
    all.join(&b'&')
}

/// The content of the one part of that name (RFC 7578).
pub(super) fn part<'b>(body: &'b [u8], content_type: &[u8], wanted: &str) -> Option<&'b [u8]> {
    let content_type = std::str::from_utf8(content_type).ok()?;
    let (media, parameters) = content_type.split_once(';')?;
    if !media.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary")
            .then(|| value.trim_matches('"'))
    })?;
    if boundary.is_empty() || boundary.len() > 70 {
        return None;
    }
    let opening = format!("--{boundary}");
    let line = format!("\r\n--{boundary}");
    let mut rest = body.strip_prefix(opening.as_bytes())?;
    let mut found = None;
    for _ in 0..64 {
        if rest.starts_with(b"--") {
            return found;
        }
        rest = rest.strip_prefix(b"\r\n")?;
        let end = find(rest, line.as_bytes())?;
        let part = rest.get(..end)?;
        let head_end = find(part, b"\r\n\r\n")?;
        let head = std::str::from_utf8(part.get(..head_end)?).ok()?;
        let named = head.split("\r\n").any(|header| {
            let Some((name, value)) = header.split_once(':') else {
                return false;
            };
            name.eq_ignore_ascii_case("content-disposition")
                && value.split(';').any(|p| {
                    p.trim()
                        .strip_prefix("name=")
                        .is_some_and(|name| name.trim_matches('"') == wanted)
                })
        });
        if named {
            if found.is_some() {
                return None;
            }
            found = part.get(head_end + 4..);
        }
        rest = rest.get(end + line.len()..)?;
    }
    None
}

pub(super) fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    match wanted {
        [] => None,
        [byte] => memchr::memchr(*byte, text),
        _ => memchr::memmem::find(text, wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_fields() {
        assert_eq!(decode(b"a+b%20%C3%a9").as_deref(), Some("a b é".as_bytes()));
        for wrong in [&b"%"[..], b"%4", b"%zz", b"a%+1"] {
            assert_eq!(decode(wrong), None);
        }
        let form = b"a=1&b=2&&a=3&c";
        assert_eq!(field(form, b"b", false), Ok(Some(Cow::Borrowed(&b"2"[..]))));
        assert_eq!(field(form, b"a", false), Err(FieldFault::Repeated));
        assert_eq!(field(form, b"a", true), Ok(Some(Cow::Borrowed(&b"3"[..]))));
        assert_eq!(field(form, b"c", false), Ok(Some(Cow::Borrowed(&b""[..]))));
        assert_eq!(field(form, b"d", false), Ok(None));
        assert_eq!(
            sorted_fields(b"b=2&a=1&b=1&b=2").as_deref(),
            Some(&b"a1b1b2"[..])
        );
        assert_eq!(sorted_query(b"b=2&a=%41&b=1"), b"a=%41&b=1&b=2");
    }

    #[test]
    fn finds_the_one_part_of_a_name() {
        let kind = b"multipart/form-data; boundary=xx";
        let body = b"--xx\r\nContent-Disposition: form-data; name=\"json\"\r\n\r\n{}\r\n--xx\r\ncontent-disposition: form-data; name=\"n\"\r\n\r\nz\r\n--xx--\r\n";
        assert_eq!(part(body, kind, "json"), Some(&b"{}"[..]));
        assert_eq!(part(body, kind, "n"), Some(&b"z"[..]));
        assert_eq!(part(body, kind, "m"), None);
        assert_eq!(part(body, b"text/plain; boundary=xx", "n"), None);
        assert_eq!(part(&body[..40], kind, "json"), None);
    }
}
