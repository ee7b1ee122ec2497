//! Which events a subscriber wants.
use percent_encoding::percent_decode_str;
use straightway_codec::event::{Kind, OnLag, Scope, Subscribe};
use thiserror::Error;

use super::ring::Slot;

/// Longest prefix, in bytes.
const MAX_PREFIX_BYTES: usize = 512;
/// Most tags.
const MAX_TAGS: usize = 16;

/// A subscription that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BadFilter(String);

/// Kinds, and a prefix or tags of objects. Equal filters are judged once an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    kinds: u16,
    prefix: String,
    tags: Vec<String>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { kinds: u16::MAX, prefix: String::new(), tags: Vec::new() }
    }
}

impl Filter {
    /// The filter that a subscription describes.
    pub fn of(wanted: &Subscribe) -> Result<Self, BadFilter> {
        let mut kinds = 0;
        for name in &wanted.kinds {
            let kind = Kind::from_name(name).ok_or_else(|| {
                let known: Vec<_> = Kind::ALL.into_iter().map(Kind::name).collect();
                BadFilter(format!("{name:?} is no kind of event; choose of {}", known.join(", ")))
            })?;
            kinds |= kind.bit();
        }
        if wanted.prefix.len() > MAX_PREFIX_BYTES {
            return Err(BadFilter(format!("the prefix is longer than {MAX_PREFIX_BYTES} bytes")));
        }
        if wanted.tags.len() > MAX_TAGS || wanted.tags.iter().any(|tag| tag.len() > 1024) {
            return Err(BadFilter(format!(
                "more than {MAX_TAGS} tags, or one of more than 1024 bytes"
            )));
        }
        // A gap is always told: without it what follows would mean something else.
        let kinds = if kinds == 0 { u16::MAX } else { kinds | Kind::Gap.bit() };
        Ok(Self { kinds, prefix: wanted.prefix.clone(), tags: wanted.tags.clone() })
    }

    /// Whether this kind is wanted at all.
    pub(crate) fn wants(&self, kind: Kind) -> bool {
        self.kinds & kind.bit() != 0
    }

    /// Whether an event is wanted.
    pub(crate) fn matches(&self, slot: &Slot) -> bool {
        if !self.wants(slot.kind) {
            return false;
        }
        if self.prefix.is_empty() && self.tags.is_empty() {
            return true;
        }
        let Some(subject) = slot.subject() else { return true };
        let tagged = |tag: &str| self.tags.iter().any(|wanted| wanted == tag);
        match subject.purge() {
            // A purge concerns whoever watches something that it may cover.
            Some(Scope::All) => true,
            Some(Scope::Prefix) => {
                subject.key().starts_with(&self.prefix) || self.prefix.starts_with(subject.key())
            }
            Some(Scope::Tag) => self.tags.is_empty() || tagged(subject.key()),
            Some(Scope::Key) => subject.key().starts_with(&self.prefix),
            None => {
                subject.key().starts_with(&self.prefix)
                    // What left the cache is told without its tags.
                    && (self.tags.is_empty() || slot.kind != Kind::Stored || subject.tags().any(tagged))
            }
        }
    }
}

/// Reads a subscription from a query: `kind` (several, or comma-separated), `prefix`, `tag`, `from`, `epoch`, `on_lag`.
pub(crate) fn from_query(query: &str) -> Result<Subscribe, BadFilter> {
    let mut wanted = Subscribe::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = value.replace('+', " ");
        let value = percent_decode_str(&value)
            .decode_utf8()
            .map_err(|_| BadFilter(format!("{name} is not UTF-8")))?
            .into_owned();
        let number = |value: &str| {
            value.parse().map(Some).map_err(|_| BadFilter(format!("{name} is not a number")))
        };
        match name {
            "kind" => wanted.kinds.extend(value.split(',').map(|kind| kind.trim().to_owned())),
            "prefix" => wanted.prefix = value,
            "tag" => wanted.tags.push(value),
            "from" => wanted.from = number(&value)?,
            "epoch" => wanted.epoch = number(&value)?,
            "on_lag" => {
                wanted.on_lag = match &*value {
                    "drop" => OnLag::Drop,
                    "disconnect" => OnLag::Disconnect,
                    _ => return Err(BadFilter("on_lag is drop or disconnect".to_owned())),
                }
            }
            _ => {
                return Err(BadFilter(format!(
                    "{name:?} is not known here; use kind, prefix, tag, from, epoch and on_lag"
                )));
            }
        }
    }
    Ok(wanted)
}
