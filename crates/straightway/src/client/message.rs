//! A message of the feed, read where it lies.
use std::sync::Arc;

use bytes::Bytes;
use straightway_codec::event::{Event, Gap, Kind, Stats};
use straightway_codec::{
    Archived, Codec, CodecError, Flags, Header, RkyvCodec, TypeRegistry, WireType, type_id,
};

/// A message, as it came.
#[derive(Debug, Clone)]
pub struct FeedMessage(pub(super) Form);

#[derive(Debug, Clone)]
pub(super) enum Form {
    Archive { header: Header, payload: Bytes, registry: Arc<TypeRegistry> },
    Text(serde_json::Value),
}

/// A message, read where it lies.
pub enum FeedView<'a> {
    /// Something happened to an object, or to many.
    Event(&'a Archived<Event>),
    /// The node's numbers.
    Stats(&'a Archived<Stats>),
    /// Events were left out.
    Gap(&'a Archived<Gap>),
    /// The node speaks JSON with us.
    Json(&'a serde_json::Value),
}

impl FeedMessage {
    /// Its place in the stream.
    pub fn offset(&self) -> u64 {
        match &self.0 {
            Form::Archive { header, .. } => header.offset,
            Form::Text(text) => text["offset"].as_u64().unwrap_or(0),
        }
    }

    /// Milliseconds since the Unix epoch.
    pub fn timestamp(&self) -> u64 {
        match &self.0 {
            Form::Archive { header, .. } => header.time_us / 1000,
            Form::Text(text) => text["timestamp"].as_u64().unwrap_or(0),
        }
    }

    /// Validates and reads it, without copying anything.
    ///
    /// # Errors
    /// Those of [`TypeRegistry::check`].
    pub fn view(&self) -> Result<FeedView<'_>, CodecError> {
        match &self.0 {
            Form::Text(text) => Ok(FeedView::Json(text)),
            Form::Archive { header, payload, registry } => {
                let checked = registry.check(header, payload)?;
                if header.type_id == type_id(Stats::NAME) {
                    checked.view::<Stats>().map(FeedView::Stats)
                } else if header.type_id == type_id(Gap::NAME) {
                    checked.view::<Gap>().map(FeedView::Gap)
                } else {
                    checked.view::<Event>().map(FeedView::Event)
                }
            }
        }
    }

    /// The same as the JSON that the node gives browsers.
    pub fn to_json(&self) -> Result<serde_json::Value, CodecError> {
        let Form::Archive { header, payload, .. } = &self.0 else {
            let Form::Text(text) = &self.0 else { return Ok(serde_json::Value::Null) };
            return Ok(text.clone());
        };
        let (mut body, kind) = match self.view()? {
            FeedView::Stats(_) => {
                (value(&Codec::<Stats>::decode(&RkyvCodec, payload)?), Some(Kind::Stats))
            }
            FeedView::Gap(_) => {
                (value(&Codec::<Gap>::decode(&RkyvCodec, payload)?), Some(Kind::Gap))
            }
            _ => (value(&Codec::<Event>::decode(&RkyvCodec, payload)?), None),
        };
        if let serde_json::Value::Object(fields) = &mut body {
            if kind.is_none() && header.flags.has(Flags::URGENT) {
                fields.insert("urgent".into(), true.into());
            }
            if let Some(kind) = kind {
                fields.insert("kind".into(), kind.name().into());
                fields.entry("key").or_insert_with(|| "".into());
                fields.entry("node").or_insert_with(|| "".into());
            }
            fields.insert("offset".into(), header.offset.into());
            fields.insert("timestamp".into(), (header.time_us / 1000).into());
        }
        Ok(body)
    }
}

fn value(of: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use straightway_codec::event;

    #[test]
    fn what_overtook_says_so_in_json_too() {
        let pool = straightway_buffer::PoolConfig::tiered();
        let pool = straightway_buffer::BufferPool::new(pool).expect("a pool");
        let event = Event { kind: Kind::Purged, key: "a/".into(), ..Event::default() };
        let payload = RkyvCodec.encode(&event, &pool).expect("archived").freeze();
        let registry = Arc::new(event::registry().expect("a registry"));
        for (flags, urgent) in [
            (Flags::URGENT, serde_json::Value::Bool(true)),
            (Flags::default(), serde_json::Value::Null),
        ] {
            let type_id = type_id(Event::NAME);
            let header = Header {
                flags,
                type_id,
                version: 1,
                priority: 2,
                ttl_ms: 0,
                offset: 7,
                time_us: 0,
            };
            let (payload, registry) = (payload.clone(), registry.clone());
            let message = FeedMessage(Form::Archive { header, payload, registry });
            let json = message.to_json().expect("text");
            assert_eq!((&json["offset"], &json["urgent"]), (&7.into(), &urgent));
        }
    }
}
