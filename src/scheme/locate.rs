//! Where a signature stands and how its value is written: one tag, or a list of items.

use std::borrow::Cow;

use http::HeaderName;
use smallvec::SmallVec;

use super::{claim::ClaimError, context::Context, template::Place};

/// The most tags that one request may present.
const CANDIDATES_MAX: usize = 16;

/// The longest value that may hold a list, in bytes.
const LIST_MAX: usize = 8 * 1024;

/// What to look for, and where.
#[derive(Debug, Clone)]
pub(super) struct SignaturePlan {
    pub(super) site: Site,
    pub(super) aliases: Vec<HeaderName>,
    pub(super) repeated: bool,
    /// What must stand in front, and which algorithm it means; the longest first.
    pub(super) prefixes: Vec<Prefix>,
    pub(super) list: Option<ListPlan>,
    /// A dictionary of RFC 8941 with one member, a byte sequence (RFC 9421).
    pub(super) structured: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Site {
    Header(HeaderName),
    /// `x-signature-1`, `x-signature-2` and so on.
    Numbered(Vec<HeaderName>),
    Place(Place),
}

#[derive(Debug, Clone)]
pub(super) struct Prefix {
    pub(super) text: Box<[u8]>,
    /// Place in the plan's algorithms.
    pub(super) algorithm: usize,
}

#[derive(Debug, Clone)]
pub(super) struct ListPlan {
    /// As the sender writes it. For reading, blanks around it do not count.
    pub(super) separator: Box<[u8]>,
    pub(super) assign: Option<Box<[u8]>>,
    /// Beginnings of items that hold a tag: name and assign sign. The longest first.
    pub(super) tags: Vec<Prefix>,
    pub(super) several: bool,
    pub(super) groups: Option<Box<[u8]>>,
    /// Beginnings of items in the order in which the sender writes them.
    pub(super) order: Vec<Box<[u8]>>,
    /// Names, or places, of the items that are read.
    pub(super) read: Vec<Box<str>>,
}

/// One value that may be a tag, and the algorithm that made it if it is.
pub(super) struct Candidate<'v> {
    pub(super) text: &'v [u8],
    pub(super) algorithm: usize,
}

/// Values that may hold a signature: one as a rule.
pub(super) type Values<'v> = SmallVec<[Cow<'v, [u8]>; 1]>;

/// What may be a tag: one or two as a rule.
pub(super) type Candidates<'v> = SmallVec<[Candidate<'v>; 2]>;

/// The items of a list that the scheme reads: one as a rule, which needs no room of its own.
#[derive(Default)]
pub(super) struct Items<'v> {
    first: Option<Item<'v>>,
    others: Vec<Item<'v>>,
}

type Item<'v> = (&'v str, Cow<'v, [u8]>);

impl<'v> Items<'v> {
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.first
            .iter()
            .chain(&self.others)
            .find(|(known, _)| *known == name)
            .map(|(_, value)| &**value)
    }

    pub(super) fn push(&mut self, name: &'v str, value: impl Into<Cow<'v, [u8]>>) {
        let item = (name, value.into());
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.others.push(item);
        }
    }
}

impl ListPlan {
    /// What items are told apart by: `,` where the sender writes `, `.
    fn reads_at(&self) -> &[u8] {
        match self.separator.trim_ascii() {
            [] => &self.separator,
            core => core,
        }
    }

    /// The item at this place, where items have no names and it is one that is read.
    fn read_at(&self, place: usize) -> Option<&str> {
        if self.assign.is_some() {
            return None;
        }
        let mut read = self.read.iter();
        read.find(|read| read.parse() == Ok(place))
            .map(|read| &**read)
    }
}

impl SignaturePlan {
    /// The place, for messages.
    pub(super) fn place(&self) -> Place {
        match &self.site {
            Site::Header(name) => Place::Header(name.clone()),
            Site::Numbered(names) => names.first().cloned().map_or(Place::Body, Place::Header),
            Site::Place(place) => place.clone(),
        }
    }

    pub(super) fn in_head(&self) -> bool {
        match &self.site {
            Site::Header(_) | Site::Numbered(_) => true,
            Site::Place(place) => place.in_head(false),
        }
    }

    /// The headers that may carry it.
    pub(super) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let own = match &self.site {
            Site::Header(name) => std::slice::from_ref(name),
            Site::Numbered(names) => names,
            Site::Place(_) => &[],
        };
        own.iter().chain(&self.aliases)
    }

    /// Every value that may hold a signature; never none.
    pub(super) fn values<'a>(&self, context: &Context<'a>) -> Result<Values<'a>, ClaimError> {
        let mut values = Values::new();
        match &self.site {
            Site::Header(name) => self.headers_of(name, context, &mut values)?,
            Site::Numbered(names) => {
                for name in names {
                    let before = values.len();
                    self.headers_of(name, context, &mut values)?;
                    if values.len() == before {
                        break;
                    }
                }
            }
            Site::Place(place) => match context.value(place) {
                Err(ClaimError::PartRepeated(place)) => {
                    return Err(ClaimError::SignatureRepeated(place));
                }
                value => values.extend(value?),
            },
        }
        for name in &self.aliases {
            self.headers_of(name, context, &mut values)?;
        }
        if values.is_empty() {
            return Err(ClaimError::SignatureMissing(self.place()));
        }
        if values.len() > CANDIDATES_MAX {
            return Err(ClaimError::SignatureRepeated(self.place()));
        }
        Ok(values)
    }

    fn headers_of<'a>(
        &self,
        name: &HeaderName,
        context: &Context<'a>,
        values: &mut Values<'a>,
    ) -> Result<(), ClaimError> {
        for (i, value) in context.head.headers.get_all(name).iter().enumerate() {
            if i > 0 && !self.repeated {
                return Err(ClaimError::SignatureRepeated(Place::Header(name.clone())));
            }
            values.push(Cow::Borrowed(value.as_bytes()));
        }
        Ok(())
    }

    /// Takes the values apart.
    pub(super) fn split<'v>(
        &'v self,
        values: &'v [Cow<'_, [u8]>],
        context: &Context<'v>,
    ) -> Result<(Candidates<'v>, Items<'v>), ClaimError> {
        let mut candidates = Candidates::new();
        let mut items = Items::default();
        for value in values {
            match &self.list {
                None if self.structured => {
                    candidates.push(self.member(value, context, &mut items)?)
                }
                None => candidates.push(self.plain(value)?),
                Some(list) => self.items(list, value, &mut candidates, &mut items)?,
            }
        }
        if candidates.is_empty() {
            return Err(ClaimError::SignatureMissing(self.place()));
        }
        if candidates.len() > CANDIDATES_MAX {
            return Err(ClaimError::SignatureRepeated(self.place()));
        }
        Ok((candidates, items))
    }

    /// A value that is one tag: what stands behind the prefix.
    pub(super) fn plain<'v>(&self, value: &'v [u8]) -> Result<Candidate<'v>, ClaimError> {
        self.prefixes
            .iter()
            .find_map(|prefix| {
                value.strip_prefix(&*prefix.text).map(|text| Candidate {
                    text,
                    algorithm: prefix.algorithm,
                })
            })
            .ok_or_else(|| ClaimError::SignaturePrefix {
                place: self.place(),
                prefix: self
                    .prefixes
                    .iter()
                    .map(|prefix| String::from_utf8_lossy(&prefix.text))
                    .collect::<Vec<_>>()
                    .join("` or `"),
            })
    }

    fn malformed(&self, expected: &str, length: usize) -> ClaimError {
        ClaimError::SignatureMalformed {
            place: self.place(),
            expected: expected.into(),
            length,
        }
    }

    fn items<'v>(
        &self,
        list: &'v ListPlan,
        value: &'v [u8],
        candidates: &mut Candidates<'v>,
        items: &mut Items<'v>,
    ) -> Result<(), ClaimError> {
        if value.len() > LIST_MAX {
            return Err(self.malformed("a list of this length", value.len()));
        }
        let groups = list.groups.as_deref();
        for group in split(value, groups) {
            let mut tags = 0;
            for (place, item) in split(group, Some(list.reads_at())).enumerate() {
                let item = item.trim_ascii();
                if let Some(tag) = list.tags.iter().find(|tag| item.starts_with(&tag.text))
                    && list.read_at(place).is_none()
                {
                    tags += 1;
                    if tags > 1 && !list.several {
                        return Err(ClaimError::SignatureRepeated(self.place()));
                    }
                    candidates.push(Candidate {
                        text: item.get(tag.text.len()..).unwrap_or_default(),
                        algorithm: tag.algorithm,
                    });
                    continue;
                }
                let (name, value) = match &list.assign {
                    None => (list.read_at(place), item),
                    Some(assign) => {
                        let at = super::form::find(item, assign)
                            .ok_or_else(|| self.malformed("a list of named items", value.len()))?;
                        let (name, rest) = item.split_at(at);
                        let mut read = list.read.iter();
                        (
                            read.find(|read| read.as_bytes() == name)
                                .map(|read| &**read),
                            rest.get(assign.len()..).unwrap_or_default(),
                        )
                    }
                };
                let Some(name) = name else {
                    continue;
                };
                match items.get(name) {
                    None => items.push(name, value),
                    // Each group says the same time again.
                    Some(known) if groups.is_some() && known == value => {}
                    Some(_) => return Err(ClaimError::PartRepeated(Place::Item(name.into()))),
                }
            }
        }
        Ok(())
    }

    /// `label=:base64:`, and the parameters of the same label in `Signature-Input`.
    fn member<'v>(
        &self,
        value: &'v [u8],
        context: &Context<'v>,
        items: &mut Items<'v>,
    ) -> Result<Candidate<'v>, ClaimError> {
        let wrong = || self.malformed("one byte sequence with a label", value.len());
        let at = super::form::find(value, b"=:").ok_or_else(wrong)?;
        let (label, rest) = value.split_at(at);
        let text = rest
            .strip_prefix(b"=:")
            .and_then(|rest| rest.strip_suffix(b":"))
            .ok_or_else(wrong)?;
        let input_name = HeaderName::from_static("signature-input");
        let input = context
            .head
            .header(&input_name)
            .map_err(|()| ClaimError::PartRepeated(Place::Header(input_name.clone())))?
            .ok_or_else(|| ClaimError::PartMissing(Place::Header(input_name.clone())))?;
        let params = input
            .strip_prefix(label)
            .and_then(|rest| rest.strip_prefix(b"=("))
            .ok_or_else(wrong)?;
        let end = params
            .iter()
            .position(|byte| *byte == b')')
            .ok_or_else(wrong)?;
        items.push("components", params.get(..end).unwrap_or_default());
        items.push("input", input.get(label.len() + 1..).unwrap_or_default());
        for parameter in params
            .get(end + 1..)
            .unwrap_or_default()
            .split(|byte| *byte == b';')
            .filter(|parameter| !parameter.is_empty())
        {
            let at = parameter
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(wrong)?;
            let (name, value) = parameter.split_at(at);
            let name = std::str::from_utf8(name).map_err(|_| wrong())?;
            let value = value.get(1..).unwrap_or_default();
            let value = value
                .strip_prefix(b"\"")
                .and_then(|value| value.strip_suffix(b"\""))
                .unwrap_or(value);
            if items.get(name).is_some() {
                return Err(wrong());
            }
            items.push(name, value);
        }
        Ok(Candidate { text, algorithm: 0 })
    }
}

/// What stands between the separators; all of it if there are none.
fn split<'v>(value: &'v [u8], separator: Option<&'v [u8]>) -> impl Iterator<Item = &'v [u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let whole = rest.take()?;
        let at = separator.and_then(|separator| super::form::find(whole, separator));
        let (part, tail) = match at {
            None => return Some(whole),
            Some(at) => whole.split_at(at),
        };
        rest = Some(
            tail.get(separator.map_or(0, <[u8]>::len)..)
                .unwrap_or_default(),
        );
        Some(part)
    })
}
