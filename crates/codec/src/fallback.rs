//! Who gets which encoding, and what happens when one does not work out.
//!
//! Encodings are agreed on, never guessed from bytes: by WebSocket subprotocol, by HTTP content type, by the opcode of a
//! frame. A peer whose archives do not validate is answered in JSON until one does again.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::envelope::Encoding;

/// Subprotocol of the rkyv feed.
pub const RKYV_SUBPROTOCOL: &str = "straightway.v1.rkyv";
/// Subprotocol of the rkyv feed with messages compressed against the bundled dictionary.
pub const RKYV_ZSTD_SUBPROTOCOL: &str = "straightway.v1.rkyv+zstd";
/// Subprotocol of the JSON feed.
pub const JSON_SUBPROTOCOL: &str = "straightway.v1.json";

/// Why JSON was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallbackReason {
    /// The peer did not say what it reads.
    NoOffer,
    /// The peer does not offer rkyv.
    PeerLacksRkyv,
    /// An archive did not validate, or was of an unknown type or version.
    InvalidPayload,
}

/// How often each reason held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FallbackStats {
    /// [`FallbackReason::NoOffer`].
    pub no_offer: u64,
    /// [`FallbackReason::PeerLacksRkyv`].
    pub peer_lacks_rkyv: u64,
    /// [`FallbackReason::InvalidPayload`].
    pub invalid_payload: u64,
    /// Peers that went back to rkyv.
    pub recovered: u64,
}

/// Negotiates, and counts what came of it. Shared by all connections.
#[derive(Debug, Default)]
pub struct FallbackManager {
    reasons: [AtomicU64; 3],
    recovered: AtomicU64,
}

/// What was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The subprotocol to name in the answer; `None`: none was offered, and none is named.
    pub subprotocol: Option<&'static str>,
    /// The encoding.
    pub encoding: Encoding,
    /// Whether messages may be compressed with the bundled dictionary.
    pub zstd: bool,
}

impl FallbackManager {
    /// Picks a subprotocol from a peer's offers (RFC 6455 §4.2.2), ours in order of preference. Without any offer the
    /// peer gets JSON.
    ///
    /// `None`: it offered only what is not spoken here.
    ///
    /// ```
    /// use straightway_codec::{Encoding, FallbackManager};
    ///
    /// let manager = FallbackManager::default();
    /// let agreed = manager.negotiate(["chat", "straightway.v1.json"].into_iter()).unwrap();
    /// assert_eq!((agreed.encoding, agreed.subprotocol), (Encoding::Json, Some("straightway.v1.json")));
    /// assert_eq!(manager.stats().peer_lacks_rkyv, 1);
    /// assert!(manager.negotiate(["chat"].into_iter()).is_none());
    /// ```
    pub fn negotiate<'a>(
        &self,
        mut offers: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<Agreed> {
        let all = offers.clone();
        if offers.next().is_none() {
            self.count(FallbackReason::NoOffer);
            return Some(Agreed { subprotocol: None, encoding: Encoding::Json, zstd: false });
        }
        let known = [
            (RKYV_ZSTD_SUBPROTOCOL, Encoding::Rkyv, true),
            (RKYV_SUBPROTOCOL, Encoding::Rkyv, false),
            (JSON_SUBPROTOCOL, Encoding::Json, false),
        ];
        let (name, encoding, zstd) =
            known.into_iter().find(|(name, ..)| all.clone().any(|offer| offer == *name))?;
        if encoding == Encoding::Json {
            self.count(FallbackReason::PeerLacksRkyv);
        }
        Some(Agreed { subprotocol: Some(name), encoding, zstd })
    }

    /// Picks a content type from an HTTP `Accept` header: rkyv only where it is named.
    pub fn negotiate_accept(&self, accept: Option<&str>) -> Encoding {
        let mut types = accept.unwrap_or_default().split(',');
        let refuses = |parameters: &str| {
            parameters.split(';').map(str::trim).any(|parameter| {
                parameter.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()) == Some(0.0)
            })
        };
        let named = types.any(|range| {
            let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
            name.trim().eq_ignore_ascii_case(Encoding::Rkyv.content_type()) && !refuses(parameters)
        });
        if named { Encoding::Rkyv } else { Encoding::Json }
    }

    /// Counts a use of JSON that nobody asked for.
    pub fn count(&self, reason: FallbackReason) {
        self.reasons[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often each reason held.
    pub fn stats(&self) -> FallbackStats {
        let [no_offer, peer_lacks_rkyv, invalid_payload] =
            self.reasons.each_ref().map(|count| count.load(Ordering::Relaxed));
        let recovered = self.recovered.load(Ordering::Relaxed);
        FallbackStats { no_offer, peer_lacks_rkyv, invalid_payload, recovered }
    }
}

/// One peer's encoding at the moment. One valid archive is enough for it to be trusted to read and write them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    agreed: Encoding,
    fallen: bool,
}

impl Peer {
    /// A peer with which this encoding was agreed on.
    pub fn new(agreed: Encoding) -> Self {
        Self { agreed, fallen: false }
    }

    /// What to write to it now.
    pub fn encoding(&self) -> Encoding {
        if self.fallen { Encoding::Json } else { self.agreed }
    }

    /// An archive of the peer's did not work out: it is written to in JSON from now on.
    pub fn failed(&mut self, manager: &FallbackManager, reason: FallbackReason) {
        if self.agreed == Encoding::Rkyv {
            manager.count(reason);
            self.fallen = true;
        }
    }

    /// An archive of the peer's was valid.
    pub fn succeeded(&mut self, manager: &FallbackManager) {
        if std::mem::take(&mut self.fallen) {
            manager.recovered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_comes_first_whatever_the_order_of_the_offers() {
        let manager = FallbackManager::default();
        let agreed = manager.negotiate([JSON_SUBPROTOCOL, RKYV_SUBPROTOCOL].into_iter());
        assert_eq!(agreed.and_then(|agreed| agreed.subprotocol), Some(RKYV_SUBPROTOCOL));
        let none = manager.negotiate([].into_iter()).expect("JSON");
        assert_eq!((none.subprotocol, none.encoding), (None, Encoding::Json));
        assert_eq!(manager.stats(), FallbackStats { no_offer: 1, ..FallbackStats::default() });
    }

    #[test]
    fn content_types_are_negotiated_by_name() {
        let manager = FallbackManager::default();
        for (accept, expected) in [
            (None, Encoding::Json),
            (Some("*/*"), Encoding::Json),
            (Some("application/json, Application/RKYV;q=0.5"), Encoding::Rkyv),
            (Some("application/rkyv;q=0"), Encoding::Json),
        ] {
            assert_eq!(manager.negotiate_accept(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn a_peer_falls_back_and_recovers_and_both_are_counted() {
        let manager = FallbackManager::default();
        let mut peer = Peer::new(Encoding::Rkyv);
        peer.failed(&manager, FallbackReason::InvalidPayload);
        assert_eq!(peer.encoding(), Encoding::Json);
        peer.succeeded(&manager);
        assert_eq!((peer.encoding(), manager.stats().recovered), (Encoding::Rkyv, 1));
        let mut browser = Peer::new(Encoding::Json);
        browser.failed(&manager, FallbackReason::InvalidPayload);
        browser.succeeded(&manager);
        assert_eq!((manager.stats().invalid_payload, manager.stats().recovered), (1, 1));
    }
}
