//! What is in the log: one change of the catalogue a command.
//!
//! ```text
//!  0  0xC7   1 version = 1   2 kind   3 layout of archives   4 fingerprint u32      8 rkyv archive of a `Command`
//! ```
//! Validation is not type checking: the same bytes can be valid archives of two types. So version and fingerprint (a
//! checksum of all limits and of one archived example of each operation) stand in front, and kind says again what the archive should be.
use std::cell::RefCell;
use std::sync::LazyLock;

use bytes::Bytes;
use straightway_wire::crc32c;

use super::archive::{FORMAT, append, view};
use super::limits;
use super::op::{ArchivedCommand, Command, RequestId, examples};
use crate::error::ClusterError;

/// Bytes in front of the archive.
pub const HEADER_BYTES: usize = 8;
const MAGIC: u8 = 0xC7;
/// The version of commands that this build writes and reads.
pub const VERSION: u8 = 1;

/// Why bytes are not a command.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// Every build of this version sees the same: refused alike everywhere.
    Malformed(&'static str),
    /// Another build may understand it: going on without it would part this node from the others.
    Foreign(String),
}

impl From<Unreadable> for ClusterError {
    fn from(why: Unreadable) -> Self {
        let reason = match why {
            Unreadable::Malformed(reason) => reason.into(),
            Unreadable::Foreign(reason) => reason,
        };
        Self::Invalid { what: "a command", reason }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Command {
    /// Header and archive, in memory of exactly their size: log and entry cache keep them.
    ///
    /// # Errors
    /// [`ClusterError::Invalid`], if a part is over its limit.
    pub fn encode(&self) -> Result<Bytes, ClusterError> {
        SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => self.encode_by(&mut scratch),
            Err(_) => self.encode_by(&mut Vec::new()),
        })
    }

    /// As it would be if nobody had looked at its limits.
    #[cfg(test)]
    pub(super) fn encode_unchecked(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append_to(&mut bytes);
        bytes
    }

    fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&[MAGIC, VERSION, self.op.kind(), FORMAT]);
        bytes.extend_from_slice(&FINGERPRINT.to_le_bytes());
        append(self, bytes);
    }

    fn encode_by(&self, scratch: &mut Vec<u8>) -> Result<Bytes, ClusterError> {
        scratch.clear();
        self.append_to(scratch);
        // The limits are those of the archive: what the log will hold is what is checked.
        limits::check(Self::open(scratch)?)?;
        let bytes = Bytes::copy_from_slice(scratch);
        scratch.shrink_to(64 * 1024);
        Ok(bytes)
    }

    /// The command in its bytes, valid and within its limits. Ask this of what peers propose, before it is in the log.
    ///
    /// # Errors
    /// [`ClusterError::Invalid`].
    pub fn view(bytes: &[u8]) -> Result<&ArchivedCommand, ClusterError> {
        let command = Self::open(bytes)?;
        limits::check(command)?;
        Ok(command)
    }

    /// Whose request the bytes are; `None`: they are no command.
    #[cfg(test)]
    pub(super) fn request_of(bytes: &[u8]) -> Option<RequestId> {
        Self::open(bytes).ok().map(|command| command.request.get())
    }

    /// The command in its bytes, whatever its parts' sizes.
    pub(super) fn open(bytes: &[u8]) -> Result<&ArchivedCommand, Unreadable> {
        let malformed = |reason| Err(Unreadable::Malformed(reason));
        if bytes.len() > limits::COMMAND {
            return malformed("it is longer than a command may be");
        }
        let Some((&[magic, version, kind, format, a, b, c, d], archive)) =
            bytes.split_first_chunk::<HEADER_BYTES>()
        else {
            return malformed("it is shorter than a command's header");
        };
        if magic != MAGIC {
            return malformed("it does not begin like a command");
        }
        if version != VERSION {
            return Err(Unreadable::Foreign(format!(
                "its version is {version}, this build knows {VERSION}; bring all members to the same release"
            )));
        }
        let fingerprint = u32::from_le_bytes([a, b, c, d]);
        if (format, fingerprint) != (FORMAT, *FINGERPRINT) {
            return Err(Unreadable::Foreign(format!(
                "its layout is {format:#04x} {fingerprint:#010x}, this build's {FORMAT:#04x} {:#010x}; bring all \
                 members to the same release",
                *FINGERPRINT
            )));
        }
        match view::<ArchivedCommand>(archive) {
            Some(command) if command.op.kind() == kind => Ok(command),
            Some(_) => malformed("its header names another operation than its archive"),
            None => malformed("its archive is damaged"),
        }
    }
}

/// Differs when the layout of any operation does, or what a command is refused for: members that refuse different ones part.
/// Frozen by a test.
static FINGERPRINT: LazyLock<u32> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    for limit in limits::ALL {
        bytes.extend_from_slice(&(limit as u64).to_le_bytes());
    }
    for op in examples() {
        append(&Command { request: RequestId { node: 1, boot: 2, serial: 3 }, op }, &mut bytes);
    }
    crc32c(&bytes)
});

/// The fingerprint of commands.
#[cfg(test)]
pub(super) fn fingerprint() -> u32 {
    *FINGERPRINT
}
