//! A purge rule: which objects are no longer served, told by a prefix or a tag and not one by one.
//!
//! ```text
//! generation u64 | kind u8 (1 prefix, 2 tag) | length u16 | text
//! ```
//! Everything is the empty prefix.
use crate::format::{FormatError, Reader, Writer};

/// What a rule covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    Prefix(Box<str>),
    Tag(Box<str>),
}

/// Objects of this scope that are of an older generation are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) generation: u64,
    pub(crate) scope: Scope,
}

const FIXED_BYTES: usize = 8 + 1 + 2;

impl Rule {
    /// Bytes that [`Self::encode`] writes; a key's length at most, so that a block holds at least one rule.
    pub(crate) fn encoded_len(&self) -> usize {
        FIXED_BYTES + self.text().len()
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        let kind = match self.scope {
            Scope::Prefix(_) => 1,
            Scope::Tag(_) => 2,
        };
        w.u64(self.generation);
        w.u8(kind);
        w.u16(u16::try_from(self.text().len()).unwrap_or(u16::MAX));
        w.put(self.text().as_bytes());
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let (generation, kind, len) = (r.u64()?, r.u8()?, usize::from(r.u16()?));
        let bad = |what, value, reason| FormatError::Field { what, value, reason };
        let text = std::str::from_utf8(r.take(len)?)
            .map_err(|_| bad("a purge rule's text", len as u64, "not UTF-8"))?;
        let scope = match kind {
            1 => Scope::Prefix(text.into()),
            2 => Scope::Tag(text.into()),
            other => return Err(bad("purge rule kind", u64::from(other), "unknown")),
        };
        Ok(Self { generation, scope })
    }

    /// Whether the rule covers an object.
    pub(crate) fn covers(
        &self,
        generation: u64,
        key: &str,
        mut tags: impl Iterator<Item = impl AsRef<str>>,
    ) -> bool {
        generation < self.generation
            && match &self.scope {
                Scope::Prefix(prefix) => key.starts_with(&**prefix),
                Scope::Tag(tag) => tags.any(|of_object| of_object.as_ref() == &**tag),
            }
    }

    fn text(&self) -> &str {
        match &self.scope {
            Scope::Prefix(text) | Scope::Tag(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_what_is_older_and_in_scope_and_nothing_else() {
        let tags = ["red", "reddish"];
        let covers = |scope, generation| {
            let rule = Rule { generation: 5, scope };
            rule.covers(generation, "a/b", tags.iter())
        };
        assert!(covers(Scope::Prefix("a/".into()), 4) && covers(Scope::Prefix("".into()), 0));
        assert!(!covers(Scope::Prefix("a/".into()), 5), "stored after the purge");
        assert!(!covers(Scope::Prefix("b".into()), 4) && !covers(Scope::Prefix("a/b/".into()), 4));
        assert!(covers(Scope::Tag("red".into()), 4) && !covers(Scope::Tag("re".into()), 4));
    }
}
