//! Names of things, as the wire and the disk know them.
use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

/// A member's number in Raft. Never given twice in the life of a cluster; 0 is nobody.
pub type RaftId = u64;

/// Which cluster: random, made by its first node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub [u8; 16]);

/// Which log: random, made with it. A node that lost its log has another one, and is another member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageId(pub [u8; 16]);

/// A node's public key (Ed25519), by which its connections are recognised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeKey(pub [u8; 32]);

/// One version of one object: given by the node that took it in, never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// The member that took it in.
    pub node: RaftId,
    /// Counts that member's objects; the upper 24 bits count its starts.
    pub serial: u64,
}

impl ObjectId {
    /// As 16 bytes, little-endian, node first.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.node.to_le_bytes());
        bytes[8..].copy_from_slice(&self.serial.to_le_bytes());
        bytes
    }

    /// The reverse of [`ObjectId::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let (mut node, mut serial) = ([0; 8], [0; 8]);
        node.copy_from_slice(&bytes[..8]);
        serial.copy_from_slice(&bytes[8..]);
        Self { node: u64::from_le_bytes(node), serial: u64::from_le_bytes(serial) }
    }
}

/// Text that is not the hexadecimal form of the id that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is {expected} hexadecimal digits")]
pub struct BadId {
    /// Digits that it should have had.
    pub expected: usize,
}

macro_rules! hexadecimal {
    ($name:ident, $len:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = BadId { expected: 2 * $len };
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| bad)?;
                bytes.try_into().map(Self).map_err(|_| bad)
            }
        }
    };
}
hexadecimal!(ClusterId, 16);
hexadecimal!(StorageId, 16);
hexadecimal!(NodeKey, 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_and_bytes() {
        let cluster = ClusterId([0xa5; 16]);
        assert_eq!(cluster.to_string().parse(), Ok(cluster));
        assert_eq!("zz".parse::<NodeKey>(), Err(BadId { expected: 64 }));
        let object = ObjectId { node: 3, serial: u64::MAX - 7 };
        assert_eq!(ObjectId::from_bytes(object.to_bytes()), object);
    }
}
