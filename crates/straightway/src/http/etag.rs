//! Entity tags (RFC 9110 §8.8.3): made from the digest of the body, compared strongly or weakly.
use straightway_cache::ObjectMeta;

/// Bytes of the digest that go into a tag: 128 bits, as 32 hex digits.
const TAG_DIGEST_BYTES: usize = 16;

/// An entity tag as it stands in a header, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag<'a> {
    /// Whether it is marked `W/`.
    pub weak: bool,
    /// What stands between the quotes.
    pub opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// Parses exactly one tag.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let (tag, rest) = split_tag(text.trim_ascii())?;
        rest.is_empty().then_some(tag)
    }

    /// Whether two tags are equal under a comparison.
    pub fn matches(&self, other: &EntityTag<'_>, how: Comparison) -> bool {
        self.opaque == other.opaque && (how == Comparison::Weak || !self.weak && !other.weak)
    }
}

/// How tags are compared (§8.8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal, and neither is weak: the bytes are the same.
    Strong,
    /// Equal opaque parts: the content is equivalent.
    Weak,
}

/// The tags of a list such as `"a", W/"b"`; stops at the first thing that is not a tag.
pub fn list(text: &[u8]) -> impl Iterator<Item = EntityTag<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        while let [b' ' | b'\t' | b',', tail @ ..] = rest {
            rest = tail;
        }
        let (tag, tail) = split_tag(rest)?;
        rest = tail;
        Some(tag)
    })
}

fn split_tag(text: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    let (weak, quoted) = match text.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, text),
    };
    let inside = quoted.strip_prefix(b"\"")?;
    let end = inside.iter().position(|byte| *byte == b'"')?;
    let opaque = &inside[..end];
    // etagc is %x21 / %x23-7E / obs-text.
    opaque
        .iter()
        .all(|byte| *byte >= 0x21 && *byte != 0x7f)
        .then_some((EntityTag { weak, opaque }, &inside[end + 1..]))
}

/// The tag of a stored object, quotes included: strong and made from the digest, or weak and made from time and length
/// where the object was stored without a digest (a weak tag never lets two versions be put together).
pub fn of(meta: &ObjectMeta) -> String {
    meta.digest
        .as_ref()
        .map_or_else(|| format!("W/\"{:x}-{:x}\"", meta.stored_ms, meta.len), of_digest)
}

/// The strong tag of a body with this SHA-256.
pub fn of_digest(digest: &[u8; 32]) -> String {
    let mut tag = String::with_capacity(2 * TAG_DIGEST_BYTES + 2);
    tag.push('"');
    for byte in &digest[..TAG_DIGEST_BYTES] {
        for nibble in [byte >> 4, byte & 15] {
            tag.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    tag.push('"');
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_to_the_first_thing_that_is_no_tag() {
        let read = |text: &'static str| {
            list(text.as_bytes()).map(|tag| (tag.weak, tag.opaque.to_vec())).collect::<Vec<_>>()
        };
        assert_eq!(
            read(r#""a", W/"b",,"""#),
            [(false, b"a".to_vec()), (true, b"b".to_vec()), (false, vec![])]
        );
        assert_eq!(read(r#""a", b, "c""#), [(false, b"a".to_vec())]);
        assert_eq!(read(r#""a b""#), [], "a space is not allowed inside a tag");
        assert_eq!(read(r#"w/"a""#), [], "W/ is case-sensitive");
        assert_eq!(EntityTag::parse(br#""a" x"#), None);
    }

    #[test]
    fn a_weak_tag_matches_only_weakly() {
        let strong = EntityTag { weak: false, opaque: b"x" };
        let weak = EntityTag { weak: true, opaque: b"x" };
        assert!(
            strong.matches(&strong, Comparison::Strong) && strong.matches(&weak, Comparison::Weak)
        );
        assert!(
            !strong.matches(&weak, Comparison::Strong) && !weak.matches(&weak, Comparison::Strong)
        );
    }

    #[test]
    fn tags_come_from_the_first_half_of_the_digest() {
        let mut digest = [0xab; 32];
        digest[15] = 0x01;
        assert_eq!(of_digest(&digest), format!("\"{}01\"", "ab".repeat(15)));
    }
}
