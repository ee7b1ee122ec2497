//! The text that lets one node into a cluster, once.
//!
//! `swjoin1` and then, in lower-case base32 without padding: the cluster, where its members are, what the joiner will be, until when
//! the ticket is good, a secret, and a checksum over all of that. The secret never crosses the wire (see [`mod@crate::net::join`]).
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use data_encoding::{Encoding, Specification};
use thiserror::Error;

use super::identity::random_bytes;
use crate::error::ClusterError;
use crate::ids::{ClusterId, NodeKey};

const PREFIX: &str = "swjoin";
const VERSION: &str = "1";
/// Members that a ticket names at most.
pub const MAX_MEMBERS: usize = 3;
/// Addresses of each that it names at most.
pub const MAX_ADDRESSES: usize = 4;
const CHECKSUM: usize = 4;
/// Longer than any ticket: what is longer is not looked at.
const MAX_TEXT: usize = 1024;

/// What a joiner becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JoinRole {
    /// Receives everything, counts for no majority.
    Learner,
    /// A learner that is made a voter once it has caught up.
    Voter,
}

/// A member that a joiner may turn to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketMember {
    /// Its key.
    pub key: NodeKey,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
}

/// What proves that a ticket was given to whoever holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TicketSecret(pub [u8; 32]);

impl TicketSecret {
    /// A new one.
    ///
    /// # Errors
    /// As [`random_bytes`].
    pub fn random() -> Result<Self, ClusterError> {
        random_bytes().map(Self)
    }

    /// Names the ticket without telling its secret.
    pub fn id(&self) -> TicketId {
        TicketId::of(&self.verifier())
    }

    /// What the catalogue keeps to check a joiner's proof by. Whoever knows it can join once, so only members do; the
    /// ticket's text cannot be made from it.
    pub fn verifier(&self) -> [u8; 32] {
        blake3::derive_key("straightway join ticket 1: verifier", &self.0)
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(..)")
    }
}

/// Names a ticket in the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TicketId(pub [u8; 16]);

impl TicketId {
    /// The name of the ticket with this [`TicketSecret::verifier`].
    pub fn of(verifier: &[u8; 32]) -> Self {
        let digest = blake3::derive_key("straightway join ticket 1: id", verifier);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

/// Lets one node in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Into which cluster.
    pub cluster: ClusterId,
    /// Whom to ask: one to [`MAX_MEMBERS`], each with one to [`MAX_ADDRESSES`] addresses.
    pub members: Vec<TicketMember>,
    /// Known to the cluster by its [`TicketSecret::verifier`].
    pub secret: TicketSecret,
    /// Until when, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// As what.
    pub role: JoinRole,
}

/// Why a text is no ticket to be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TicketError {
    /// Something else.
    #[error(
        "this is not a join ticket: one begins with `{PREFIX}{VERSION}`, and is printed by `straightway cluster ticket`"
    )]
    NotATicket,
    /// Of a version that this program does not know.
    #[error(
        "this join ticket is of version {found}, this program knows version {VERSION}: use the same version of straightway on all nodes"
    )]
    OtherVersion {
        /// The version that it says it is of.
        found: String,
    },
    /// Cut short or mistyped.
    #[error("this join ticket is damaged ({reason}): copy it again, whole")]
    Damaged {
        /// What is wrong.
        reason: &'static str,
    },
    /// Too late.
    #[error(
        "this join ticket expired {ago_seconds} s ago: make a new one with `straightway cluster ticket`"
    )]
    Expired {
        /// How long ago.
        ago_seconds: u64,
    },
}

impl Ticket {
    /// Whether it can be used at `now_ms` and written as text at all.
    ///
    /// # Errors
    /// [`TicketError::Expired`], [`TicketError::Damaged`].
    pub fn check(&self, now_ms: u64) -> Result<(), TicketError> {
        self.shape()?;
        match now_ms.checked_sub(self.expires_ms) {
            Some(late) => Err(TicketError::Expired { ago_seconds: late / 1000 }),
            None => Ok(()),
        }
    }

    fn shape(&self) -> Result<(), TicketError> {
        if !(1..=MAX_MEMBERS).contains(&self.members.len()) {
            return Err(TicketError::Damaged { reason: "it names no member, or too many" });
        }
        let fits = |member: &TicketMember| (1..=MAX_ADDRESSES).contains(&member.addresses.len());
        if !self.members.iter().all(fits) {
            return Err(TicketError::Damaged { reason: "a member has no address, or too many" });
        }
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(match self.role {
            JoinRole::Learner => 0,
            JoinRole::Voter => 1,
        });
        bytes.extend_from_slice(&self.cluster.0);
        bytes.extend_from_slice(&self.secret.0);
        bytes.extend_from_slice(&self.expires_ms.to_le_bytes());
        // What is too many is cut off here; `check` tells of it.
        let members = &self.members[..self.members.len().min(MAX_MEMBERS)];
        bytes.push(u8::try_from(members.len()).unwrap_or(0));
        for member in members {
            bytes.extend_from_slice(&member.key.0);
            let addresses = &member.addresses[..member.addresses.len().min(MAX_ADDRESSES)];
            bytes.push(u8::try_from(addresses.len()).unwrap_or(0));
            for address in addresses {
                match address.ip() {
                    IpAddr::V4(ip) => {
                        bytes.push(4);
                        bytes.extend_from_slice(&ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        bytes.push(6);
                        bytes.extend_from_slice(&ip.octets());
                    }
                }
                bytes.extend_from_slice(&address.port().to_le_bytes());
            }
        }
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, TicketError> {
        let damaged = |reason| TicketError::Damaged { reason };
        let Some((body, sum)) = bytes.split_last_chunk::<CHECKSUM>() else {
            return Err(damaged("it is too short"));
        };
        if checksum(body) != *sum {
            return Err(damaged("its checksum does not match"));
        }
        let mut rest = Rest(body);
        let ticket = rest.ticket().ok_or(damaged("its content makes no sense"))?;
        ticket.shape()?;
        if rest.0.is_empty() { Ok(ticket) } else { Err(damaged("something follows its end")) }
    }
}

/// What is left to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn ticket(&mut self) -> Option<Ticket> {
        let role = match self.byte()? {
            0 => JoinRole::Learner,
            1 => JoinRole::Voter,
            _ => return None,
        };
        let cluster = ClusterId(self.take()?);
        let secret = TicketSecret(self.take()?);
        let expires_ms = u64::from_le_bytes(self.take()?);
        let members = (0..self.byte()?).map(|_| self.member()).collect::<Option<_>>()?;
        Some(Ticket { cluster, members, secret, expires_ms, role })
    }

    fn member(&mut self) -> Option<TicketMember> {
        let key = NodeKey(self.take()?);
        let addresses = (0..self.byte()?).map(|_| self.address()).collect::<Option<_>>()?;
        Some(TicketMember { key, addresses })
    }

    fn address(&mut self) -> Option<SocketAddr> {
        let ip: IpAddr = match self.byte()? {
            4 => self.take::<4>()?.into(),
            6 => self.take::<16>()?.into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_le_bytes(self.take()?)))
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let digest = blake3::derive_key("straightway join ticket 1: checksum", bytes);
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&digest[..CHECKSUM]);
    sum
}

fn base32() -> Result<Encoding, TicketError> {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    // A constant: it cannot fail, and if it did no ticket would be read.
    specification.encoding().map_err(|_| TicketError::Damaged { reason: "base32 is broken" })
}

impl fmt::Display for Ticket {
    /// The text, secret included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base32 = base32().map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{VERSION}{}", base32.encode(&self.to_bytes()))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let Some(rest) = text.strip_prefix(PREFIX).filter(|_| text.len() <= MAX_TEXT) else {
            return Err(TicketError::NotATicket);
        };
        // Base32 has no digits 0, 1, 8 and 9; a version is one digit.
        let Some(body) = rest.strip_prefix(VERSION) else {
            let found = rest.chars().take_while(char::is_ascii_digit).take(3).collect::<String>();
            return Err(if found.is_empty() {
                TicketError::NotATicket
            } else {
                TicketError::OtherVersion { found }
            });
        };
        let decoded = base32()?.decode(body.as_bytes());
        let bytes =
            decoded.map_err(|_| TicketError::Damaged { reason: "it holds what is no base32" })?;
        Self::from_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests;
