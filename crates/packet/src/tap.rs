//! TAP devices: an Ethernet cable whose other end is this program (Linux).
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use crate::error::PacketError;
use crate::sys::{sockopt, tun};

/// A TAP device. It exists as long as this value; frames carry no extra header and no offload is asked of the reader.
///
/// Every call carries one frame. Needs root, or `CAP_NET_ADMIN` and access to `/dev/net/tun`.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

/// Frames that may wait for the kernel to take them: the default of 212 KB drops bursts.
const SEND_BUFFER_BYTES: i32 = 4 << 20;

impl Tap {
    /// Makes a device; the kernel chooses its name if none is given. It is down: bring it up, and give it addresses,
    /// with `ip link` and `ip addr`. Reads and writes do not wait; [`Self::wait_readable`] does.
    ///
    /// # Errors
    /// [`PacketError::Io`]: without permission, when the driver is missing, or when the name is taken.
    pub fn create(name: Option<&str>) -> Result<Self, PacketError> {
        let failed = |source: io::Error| {
            let hint = match source.kind() {
                io::ErrorKind::PermissionDenied => "run as root, or with CAP_NET_ADMIN",
                io::ErrorKind::NotFound => "load the tun driver: modprobe tun",
                io::ErrorKind::ResourceBusy => "the name is taken, choose another",
                _ => "see the system's answer",
            };
            let name = name.unwrap_or("tap%d");
            PacketError::Io {
                operation: format!("making TAP device {name} failed; {hint}"),
                source,
            }
        };
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun");
        let file = opened.map_err(failed)?;
        let name = tun::attach(&file, name.unwrap_or("")).map_err(failed)?;
        tun::no_offload(&file).map_err(failed)?;
        tun::set_send_buffer(&file, SEND_BUFFER_BYTES).map_err(failed)?;
        Ok(Self { file, name })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one frame into `into`; gives its length, `None` when there is none now. A frame longer than `into` is cut.
    ///
    /// # Errors
    /// [`PacketError::Io`]: the device is down, or gone.
    pub fn try_read(&self, into: &mut [u8]) -> Result<Option<usize>, PacketError> {
        match (&self.file).read(into) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(source) => Err(self.failed("reading from", source)),
        }
    }

    /// Writes one frame, in one piece or several; `false`: the kernel does not take it now.
    ///
    /// # Errors
    /// [`PacketError::Io`]: the device is down, or gone, or this is no frame.
    pub fn try_write(&self, frame: &[IoSlice<'_>]) -> Result<bool, PacketError> {
        match (&self.file).write_vectored(frame) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(source) => Err(self.failed("writing to", source)),
        }
    }

    /// Waits until there is a frame to read, for so long at the most; `false`: there is none yet.
    ///
    /// # Errors
    /// [`PacketError::Io`].
    pub fn wait_readable(&self, at_most: Duration) -> Result<bool, PacketError> {
        sockopt::poll(self.as_fd(), false, Some(at_most))
            .map_err(|source| self.failed("waiting for", source))
    }

    fn failed(&self, what: &str, source: io::Error) -> PacketError {
        let operation = format!(
            "{what} TAP device {} failed; is it up? (ip link set {} up)",
            self.name, self.name
        );
        PacketError::Io { operation, source }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
