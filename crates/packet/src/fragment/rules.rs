//! What fragments have to keep to, whether they are made or received.
use crate::error::PacketError;
use crate::view::{ExtensionHeader, ExtensionHeaders, protocol};

/// The most that the length field of a packet can say: of IPv4 header and payload, of IPv6 what follows its header.
pub(super) const MAX_LEN: usize = 65_535;

/// Checks where a fragment belongs. `counted`: bytes of its header that count for the packet's length.
pub(super) fn check_extent(
    offset: usize,
    len: usize,
    more: bool,
    counted: usize,
) -> Result<(), PacketError> {
    if len == 0 {
        return Err(broken("length", len, "must be at least one byte"));
    }
    if more && !len.is_multiple_of(8) {
        return Err(broken(
            "length",
            len,
            "must be a multiple of eight in all fragments but the last",
        ));
    }
    if counted + offset + len > MAX_LEN {
        return Err(broken("end", offset + len, "is beyond the longest packet"));
    }
    Ok(())
}

/// Bytes of the header chain of an IPv6 packet behind the headers that every fragment repeats: extension headers, and
/// the upper layer's header if it is one of those that are known here. What is behind headers that are not followed (see
/// [`ExtensionHeaders`]) is not asked for.
///
/// The first fragment has to hold all of it (RFC 7112, RFC 8200 §4.5), or filters that see only fragments could not
/// tell what they let through.
///
/// # Errors
/// [`PacketError::BadField`] when the bytes end before the chain does, and for a fragment within a fragment.
pub(super) fn header_chain(mut headers: ExtensionHeaders<'_>) -> Result<usize, PacketError> {
    let all = headers.rest().len();
    let cut = || broken("header chain", all, "ends before the upper layer's header does");
    for header in headers.by_ref() {
        match header {
            Ok(ExtensionHeader::Fragment(_)) => {
                return Err(broken("next header", 44, "must not be a fragment header again"));
            }
            Ok(_) => {}
            Err(PacketError::Truncated { .. }) => return Err(cut()),
            Err(error) => return Err(error),
        }
    }
    let rest = headers.rest();
    let upper = match headers.next_header() {
        // Its length with options is in it, if it is there.
        protocol::TCP => rest.get(12).map_or(20, |offset| usize::from(offset >> 4) * 4).max(20),
        protocol::UDP | protocol::ICMPV6 => 8,
        _ => 0,
    };
    if upper > rest.len() { Err(cut()) } else { Ok(all - rest.len() + upper) }
}

#[cold]
pub(super) fn broken(field: &'static str, value: usize, rule: &'static str) -> PacketError {
    PacketError::BadField { layer: "fragment", field, value: value as u64, rule }
}
