//! Looking into JSON without building it: one pass for each pointer, nothing kept but slices of the text.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::de::{
    self, DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

/// A JSON pointer (RFC 6901). A segment `*` is each item of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    written: Box<str>,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// A member's name, or an item's place.
    Name(Box<str>),
    Star,
}

impl Pointer {
    /// Reads `/a/0/b`; the empty text is the document itself.
    pub(super) fn parse(written: &str) -> Option<Self> {
        let mut segments = Vec::new();
        if !written.is_empty() {
            for segment in written.strip_prefix('/')?.split('/') {
                segments.push(match segment {
                    "*" => Segment::Star,
                    name => Segment::Name(name.replace("~1", "/").replace("~0", "~").into()),
                });
            }
        }
        (segments.len() <= 32 && segments.iter().filter(|s| **s == Segment::Star).count() <= 1)
            .then(|| Self {
                written: written.into(),
                segments,
            })
    }

    /// Whether it points at each item of an array.
    pub(super) fn has_star(&self) -> bool {
        self.segments.contains(&Segment::Star)
    }

    fn star(&self) -> usize {
        self.segments
            .iter()
            .position(|s| *s == Segment::Star)
            .unwrap_or(self.segments.len())
    }

    /// Whether both go through the same array.
    pub(super) fn shares_star(&self, other: &Self) -> bool {
        let (star, others) = (self.star(), other.star());
        self.has_star()
            && other.has_star()
            && self.segments.get(..star) == other.segments.get(..others)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// Why a document gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonFault {
    /// Not JSON, nested too deep, or a name on the pointer's way stands twice in its object.
    Malformed,
    /// Too many items.
    TooMany,
}

/// The most items that a `*` may stand for.
const ITEMS_MAX: usize = 1024;

/// The raw text of the value that `pointer` points at; `star`: which item of the array.
pub(super) fn find<'d>(
    document: &'d str,
    pointer: &Pointer,
    star: Option<&'d str>,
) -> Result<Option<&'d str>, JsonFault> {
    match star {
        Some(item) if pointer.has_star() => look(
            item,
            pointer
                .segments
                .get(pointer.star() + 1..)
                .unwrap_or_default(),
        ),
        Some(_) | None => look(document, &pointer.segments),
    }
}

/// The raw texts of the items that the pointer's `*` stands for.
pub(super) fn items<'d>(document: &'d str, pointer: &Pointer) -> Result<Vec<&'d str>, JsonFault> {
    let Some(array) = look(
        document,
        pointer.segments.get(..pointer.star()).unwrap_or_default(),
    )?
    else {
        return Ok(Vec::new());
    };
    let mut reader = serde_json::Deserializer::from_str(array);
    reader.deserialize_seq(Items(PhantomData)).map_err(|error| {
        if error.is_data() {
            JsonFault::TooMany
        } else {
            JsonFault::Malformed
        }
    })
}

/// A value as text: strings without quotes and escapes, numbers, `true` and `false` as written. Not objects, arrays, `null`.
pub(super) fn text(raw: &str) -> Option<Cow<'_, [u8]>> {
    match raw.as_bytes().first()? {
        b'"' => match serde_json::from_str::<Text<'_>>(raw).ok()?.0 {
            Cow::Borrowed(text) => Some(Cow::Borrowed(text.as_bytes())),
            Cow::Owned(text) => Some(Cow::Owned(text.into_bytes())),
        },
        b'{' | b'[' | b'n' => None,
        _ => Some(Cow::Borrowed(raw.as_bytes())),
    }
}

/// The items of an array as raw texts; `None` if it is none.
pub(super) fn array(raw: &str) -> Option<Vec<&str>> {
    if !raw.starts_with('[') {
        return None;
    }
    serde_json::Deserializer::from_str(raw)
        .deserialize_seq(Items(PhantomData))
        .ok()
}

/// A string that borrows where it can.
struct Text<'d>(Cow<'d, str>);

impl<'de> de::Deserialize<'de> for Text<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Reader)
    }
}

fn look<'d>(document: &'d str, path: &[Segment]) -> Result<Option<&'d str>, JsonFault> {
    let mut reader = serde_json::Deserializer::from_str(document);
    let found = Look(path, PhantomData)
        .deserialize(&mut reader)
        .map_err(|_| JsonFault::Malformed)?;
    reader.end().map_err(|_| JsonFault::Malformed)?;
    Ok(found)
}

struct Look<'p, 'd>(&'p [Segment], PhantomData<&'d ()>);

impl<'de> DeserializeSeed<'de> for Look<'_, 'de> {
    type Value = Option<&'de str>;
    fn deserialize<D: de::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            let raw: &RawValue = de::Deserialize::deserialize(deserializer)?;
            return Ok(Some(raw.get().trim_matches([' ', '\t', '\r', '\n'])));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Look<'_, 'de> {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (wanted, rest) = match self.0.split_first() {
            Some((Segment::Name(name), rest)) => (Some(name), rest),
            _ => (None, self.0),
        };
        let mut found = None;
        while let Some(Text(name)) = map.next_key()? {
            if wanted.is_some_and(|wanted| **wanted == *name) {
                if found.is_some() {
                    return Err(de::Error::custom("a name stands twice"));
                }
                found = Some(map.next_value_seed(Look(rest, PhantomData))?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found.flatten())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (wanted, rest) = match self.0.split_first() {
            Some((Segment::Name(name), rest)) if is_place(name) => {
                (name.parse::<usize>().ok(), rest)
            }
            _ => (None, self.0),
        };
        let mut found = None;
        let mut place = 0_usize;
        loop {
            if wanted == Some(place) {
                match list.next_element_seed(Look(rest, PhantomData))? {
                    Some(value) => found = value,
                    None => break,
                }
            } else if list.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
            place += 1;
        }
        Ok(found)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

fn is_place(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_digit())
        && (name.len() == 1 || !name.starts_with('0'))
}

struct Items<'d>(PhantomData<&'d ()>);

impl<'de> Visitor<'de> for Items<'de> {
    type Value = Vec<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(raw) = list.next_element::<&RawValue>()? {
            if items.len() == ITEMS_MAX {
                return Err(de::Error::custom("too many items"));
            }
            items.push(raw.get());
        }
        Ok(items)
    }
}

/// RFC 8785: members in the order of their names' UTF-16 code units, numbers as ECMAScript writes them, no blanks.
pub(super) fn canonical(document: &str) -> Option<String> {
    let mut out = String::with_capacity(document.len());
    write_canonical(document, &mut out, 0)?;
    Some(out)
}

/// How deep a document that is written anew may be nested.
const DEPTH_MAX: usize = 64;

fn write_canonical(raw: &str, out: &mut String, depth: usize) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    let raw = raw.trim_matches([' ', '\t', '\r', '\n']);
    match raw.as_bytes().first()? {
        b'{' => {
            let mut members: Members<'_> = serde_json::from_str(raw).ok()?;
            members
                .0
                .sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            if members
                .0
                .windows(2)
                .any(|pair| matches!(pair, [(a, _), (b, _)] if a == b))
            {
                return None;
            }
            out.push('{');
            for (i, (name, value)) in members.0.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(name.as_ref()).ok()?);
                out.push(':');
                write_canonical(value, out, depth + 1)?;
            }
            out.push('}');
        }
        b'[' => {
            let list: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
            out.push('[');
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(value.get(), out, depth + 1)?;
            }
            out.push(']');
        }
        b'"' => out.push_str(
            &serde_json::to_string(&*serde_json::from_str::<Text<'_>>(raw).ok()?.0).ok()?,
        ),
        b't' | b'f' | b'n' => {
            serde_json::from_str::<IgnoredAny>(raw).ok()?;
            out.push_str(raw);
        }
        _ => out.push_str(&ecmascript_number(serde_json::from_str::<f64>(raw).ok()?)?),
    }
    Some(())
}

struct Members<'d>(Vec<(Cow<'d, str>, &'d str)>);

impl<'de> de::Deserialize<'de> for Members<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    members.push((name, value.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// ECMA-262, Number::toString: the shortest digits, plain from 1e-6 up to 1e21.
fn ecmascript_number(number: f64) -> Option<String> {
    if !number.is_finite() {
        return None;
    }
    if number == 0.0 {
        return Some("0".into());
    }
    let written = format!("{:e}", number.abs());
    let (mantissa, exponent) = written.split_once('e')?;
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let exponent: i32 = exponent.parse().ok()?;
    let count = i32::try_from(digits.len()).ok()?;
    let point = exponent + 1;
    let zeros = |n: i32| "0".repeat(usize::try_from(n).unwrap_or(0));
    let plain = if (count..=21).contains(&point) {
        format!("{digits}{}", zeros(point - count))
    } else if point > 0 && point <= 21 {
        let (whole, rest) = digits.split_at(usize::try_from(point).ok()?);
        format!("{whole}.{rest}")
    } else if point > -6 && point <= 0 {
        format!("0.{}{digits}", zeros(-point))
    } else {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{first}{dot}{rest}e{sign}{}", exponent.unsigned_abs())
    };
    Some(if number < 0.0 {
        format!("-{plain}")
    } else {
        plain
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'d>(document: &'d str, pointer: &str) -> Result<Option<&'d str>, JsonFault> {
        find(document, &Pointer::parse(pointer).unwrap(), None)
    }

    #[test]
    fn finds_what_a_pointer_points_at() {
        let document = r#" {"a":[{"b/c":"x\u00e9"}, 12.50 ,null],"":1,"deep":{"a":true}} "#;
        assert_eq!(at(document, "/a/0/b~1c"), Ok(Some(r#""x\u00e9""#)));
        assert_eq!(at(document, "/a/1"), Ok(Some("12.50")));
        assert_eq!(at(document, "/a/01"), Ok(None));
        assert_eq!(at(document, "/a/3"), Ok(None));
        assert_eq!(at(document, "/deep/a"), Ok(Some("true")));
        assert_eq!(at(document, "/deep/a/b"), Ok(None));
        assert_eq!(at(document, "/"), Ok(Some("1")));
        assert_eq!(at(document, "/nothing"), Ok(None));
        assert_eq!(text(r#""x\u00e9""#).as_deref(), Some("xé".as_bytes()));
        assert_eq!(text("null"), None);
    }

    #[test]
    fn refuses_what_reads_in_two_ways() {
        assert_eq!(at(r#"{"a":1,"a":2}"#, "/a"), Err(JsonFault::Malformed));
        assert_eq!(at(r#"{"a":1,"\u0061":2}"#, "/a"), Err(JsonFault::Malformed));
        assert_eq!(at(r#"{"a":1} x"#, "/a"), Err(JsonFault::Malformed));
        assert_eq!(at(r#"{"a":1"#, "/a"), Err(JsonFault::Malformed));
        assert_eq!(at("", "/a"), Err(JsonFault::Malformed));
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(at(&deep, "/a"), Ok(None));
    }

    #[test]
    fn writes_numbers_as_ecmascript_does() {
        // RFC 8785, appendix B, and ECMA-262's borders.
        for (number, want) in [
            (0.0, "0"),
            (-0.0, "0"),
            (5e-324, "5e-324"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (9007199254740992.0, "9007199254740992"),
            (295147905179352830000.0, "295147905179352830000"),
            (1e21, "1e+21"),
            (9.999999999999997e22, "9.999999999999997e+22"),
            (333333333.33333325, "333333333.33333325"),
            (0.000001, "0.000001"),
            (1e-7, "1e-7"),
            (-1.5, "-1.5"),
            (12.0, "12"),
        ] {
            assert_eq!(ecmascript_number(number).as_deref(), Some(want));
        }
        assert_eq!(ecmascript_number(f64::INFINITY), None);
    }
}
