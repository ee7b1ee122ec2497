//! Values as payloads, in [postcard](https://postcard.jamesmunns.com/wire-format): compact, and stable since its 1.0.
use bytes::BytesMut;
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use crate::error::WireError;

/// Appends a value to a buffer: nothing in between, and no allocation if the buffer has room.
///
/// ```
/// use bytes::BytesMut;
/// use straightway_wire::{RpcResponse, deserialize_payload, serialize_payload_zero_copy};
///
/// let mut buffer = BytesMut::with_capacity(64);
/// let response = RpcResponse { success: true, payload: None, error: None };
/// serialize_payload_zero_copy(&response, &mut buffer)?;
/// assert_eq!(deserialize_payload::<RpcResponse>(&buffer)?, response);
/// # Ok::<(), straightway_wire::WireError>(())
/// ```
///
/// # Errors
/// [`WireError::Payload`]: the value refused, and what was appended of it is taken back.
pub fn serialize_payload_zero_copy<T: Serialize + ?Sized>(
    payload: &T,
    buf: &mut BytesMut,
) -> Result<(), WireError> {
    let start = buf.len();
    postcard::serialize_with_flavor(payload, Append(&mut *buf)).map_err(|error| {
        buf.truncate(start);
        WireError::Payload { act: "written", reason: error.to_string() }
    })
}

/// Reads a value, which may borrow from the bytes: `&str`, `&[u8]` (with `serde_bytes`) and what holds them.
///
/// # Errors
/// [`WireError::Payload`], also for bytes that are left over.
pub fn deserialize_payload<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    let failed = |reason: String| WireError::Payload { act: "read", reason };
    let (value, rest) =
        postcard::take_from_bytes(bytes).map_err(|error| failed(error.to_string()))?;
    match rest.len() {
        0 => Ok(value),
        left => Err(failed(format!("{left} bytes are left over"))),
    }
}

struct Append<'a>(&'a mut BytesMut);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample<'a> {
        number: u64,
        name: &'a str,
        list: Vec<Option<i32>>,
    }

    proptest! {
        #[test]
        fn values_come_back_and_borrow(number: u64, name: String, list: Vec<Option<i32>>) {
            let mut buffer = BytesMut::from(&b"before"[..]);
            let sample = Sample { number, name: &name, list };
            serialize_payload_zero_copy(&sample, &mut buffer).expect("written");
            prop_assert_eq!(&buffer[..6], b"before");
            let back: Sample = deserialize_payload(&buffer[6..]).expect("sound");
            let within = buffer.as_ptr_range();
            prop_assert!(name.is_empty() || within.contains(&back.name.as_ptr()));
            prop_assert_eq!(back, sample);
        }

        #[test]
        fn any_bytes_are_a_value_or_refused(bytes: Vec<u8>) {
            let _ = deserialize_payload::<Sample>(&bytes);
        }
    }

    #[test]
    fn a_value_that_refuses_leaves_nothing_behind() {
        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("no"))
            }
        }
        let mut buffer = BytesMut::from(&b"before"[..]);
        let refused = serialize_payload_zero_copy(&("begun", Refuses), &mut buffer);
        assert!(matches!(refused, Err(WireError::Payload { act: "written", .. })));
        assert_eq!(&buffer[..], b"before");
        assert!(deserialize_payload::<u8>(&[1, 2]).is_err(), "left over");
    }
}
