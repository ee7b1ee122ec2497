//! JSON, for browsers and for peers that cannot read this build's archives.
use serde::Serialize;
use serde::de::DeserializeOwned;
use straightway_buffer::PooledBuffer;

use crate::codec::Codec;
use crate::error::CodecError;
use crate::sink::append;

/// JSON through serde. Unknown fields are passed over, missing ones take their default where the type says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JsonCodec;

impl JsonCodec {
    /// Appends the text of anything that serde can write.
    ///
    /// # Errors
    /// [`CodecError::Full`], [`CodecError::Json`]; the buffer is then as it was.
    pub fn encode_any<T: Serialize + ?Sized>(
        &self,
        value: &T,
        into: &mut PooledBuffer,
    ) -> Result<usize, CodecError> {
        let (len, done) = append(into, |sink| serde_json::to_writer(sink, value))?;
        let name = std::any::type_name::<T>();
        done.map(|()| len).map_err(|error| CodecError::Json { name, reason: error.to_string() })
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> for JsonCodec {
    type View<'a>
        = T
    where
        T: 'a;

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn encode_into(&self, value: &T, into: &mut PooledBuffer) -> Result<usize, CodecError> {
        self.encode_any(value, into)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(|error| CodecError::Json {
            name: std::any::type_name::<T>(),
            reason: error.to_string(),
        })
    }

    /// Text has to be parsed: the view is the value.
    fn access<'a>(&'a self, bytes: &'a [u8]) -> Result<T, CodecError>
    where
        T: 'a,
    {
        self.decode(bytes)
    }
}
