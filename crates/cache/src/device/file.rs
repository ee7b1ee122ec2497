//! A cache file or block device: one descriptor for reading through the page cache, one for writing past it.
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use rustix::fs::OFlags;
use rustix::fs::{Advice, FallocateFlags, FlockOperation};

use crate::device::{Device, MappedSlice, send};
use crate::error::CacheError;
use crate::sys::mapping::Mapping;
use crate::sys::residency;
use crate::zero_copy::FileRange;

/// How to open the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    /// Nothing but positioned reads and writes.
    pub(crate) portable: bool,
}

/// An open, exclusively locked cache file.
#[derive(Debug)]
pub(crate) struct CacheFile {
    buffered: File,
    direct: Option<File>,
    mapping: Option<Arc<Mapping>>,
    size: u64,
}

/// What opening found.
#[derive(Debug)]
pub(crate) struct OpenedFile {
    pub(crate) file: CacheFile,
    /// It did not exist, or was empty.
    pub(crate) fresh: bool,
}

impl CacheFile {
    /// Opens the file, or makes one of `size` bytes whose blocks are all allocated. What exists is never changed here.
    pub(crate) fn open(path: &Path, size: u64, access: Access) -> Result<OpenedFile, CacheError> {
        let failed = |what: &'static str| {
            let path = path.to_path_buf();
            move |source: io::Error| CacheError::Io { what, path, source }
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let (buffered, created) = match options.open(path) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = options
                    .create(true)
                    .truncate(false)
                    .open(path)
                    .map_err(failed("creating the cache file"))?;
                (file, true)
            }
            Err(error) => return Err(failed("opening the cache file")(error)),
        };
        lock(&buffered, path)?;
        let (len, block_device) = length(&buffered).map_err(failed("measuring the cache file"))?;
        let fresh = len == 0;
        if fresh && size == 0 {
            return Err(CacheError::Foreign { path: path.to_path_buf() });
        }
        if fresh && !block_device {
            preallocate(&buffered, path, size, created)?;
        }
        let len = if fresh && !block_device { size } else { len };
        if len < size && block_device {
            let reason = format!("the device has only {len} bytes");
            return Err(CacheError::Geometry { what: "cache size", value: size, reason });
        }
        let direct = if access.portable { None } else { open_direct(path) };
        if !access.portable {
            // Our own reads are windows of known size: the kernel's guesses about the next ones only cost memory.
            let _advice = rustix::fs::fadvise(&buffered, 0, None, Advice::Random);
        }
        let file = Self { buffered, direct, mapping: None, size: len };
        Ok(OpenedFile { file, fresh })
    }

    /// Opens a file that exists, for a look.
    pub(crate) fn open_existing(path: &Path, access: Access) -> Result<Self, CacheError> {
        if let Err(source) = std::fs::metadata(path) {
            return Err(CacheError::Io {
                what: "opening the cache file",
                path: path.to_path_buf(),
                source,
            });
        }
        Self::open(path, 0, access).map(|opened| opened.file)
    }

    /// Maps the whole file.
    pub(crate) fn map(&mut self) -> io::Result<()> {
        let len = usize::try_from(self.size).map_err(io::Error::other)?;
        self.mapping = Some(Arc::new(Mapping::new(&self.buffered, len)?));
        Ok(())
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.mapping.is_some()
    }

    /// Whether writes bypass the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Writes through the page cache from now on.
    pub(crate) fn give_up_direct(&mut self) {
        self.direct = None;
    }

    /// Part of the file as memory.
    pub(crate) fn slice(&self, offset: u64, len: usize) -> Option<MappedSlice> {
        self.mapping.as_ref()?.slice(usize::try_from(offset).ok()?, len)
    }

    /// Where in the file a slice of memory lies, if it is part of the mapping.
    pub(crate) fn locate(&self, slice: &[u8]) -> Option<FileRange> {
        let offset = self.mapping.as_ref()?.locate(slice)?;
        Some(FileRange { offset: offset as u64, len: slice.len() as u64 })
    }

    /// The descriptors, for a backend that hands them to the kernel itself.
    #[cfg(target_os = "linux")]
    pub(crate) fn descriptors(&self) -> crate::sys::ring::Descriptors {
        use std::os::fd::AsRawFd;
        let write = self.direct.as_ref().unwrap_or(&self.buffered).as_raw_fd();
        crate::sys::ring::Descriptors { read: self.buffered.as_raw_fd(), write }
    }

    /// Whether a range is in the page cache; `None`: the system cannot tell.
    pub(crate) fn resident(&self, offset: u64, len: u64) -> Option<bool> {
        residency::is_resident(self.buffered.as_fd(), offset, len)
    }

    /// Tells the system that a range will be read soon, so that it reads all of it at once and not piece by piece.
    pub(crate) fn will_need(&self, offset: u64, len: u64) {
        let _advice = rustix::fs::fadvise(
            &self.buffered,
            offset,
            std::num::NonZeroU64::new(len),
            Advice::WillNeed,
        );
    }

    /// Sends part of the file to a socket; may send less. Does not wait for a non-blocking socket.
    pub(crate) fn sendfile(&self, socket: BorrowedFd<'_>, range: FileRange) -> io::Result<usize> {
        match send::sendfile(socket, self.buffered.as_fd(), range)? {
            0 if range.len > 0 => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the cache file was truncated"))
            }
            sent => Ok(sent),
        }
    }
}

impl Device for CacheFile {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.buffered.read_exact_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.direct.as_ref().unwrap_or(&self.buffered).write_all_at(buffer, offset)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let file = self.direct.as_ref().unwrap_or(&self.buffered);
        let total: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let written = rustix::io::pwritev(file, buffers, offset)?;
        if written == total {
            return Ok(());
        }
        // Rare: the system took only a part. Writing all of it again, one by one, needs no bookkeeping.
        let mut at = offset;
        for buffer in buffers {
            file.write_all_at(buffer, at)?;
            at += buffer.len() as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.direct.as_ref().unwrap_or(&self.buffered).sync_data()
    }

    fn file(&self) -> Option<&CacheFile> {
        Some(self)
    }
}

fn lock(file: &File, path: &Path) -> Result<(), CacheError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(CacheError::InUse { path: path.to_path_buf() }),
        Err(error) => Err(CacheError::Io {
            what: "locking the cache file",
            path: path.to_path_buf(),
            source: error.into(),
        }),
    }
}

/// Length in bytes, and whether this is a block device (whose end is found by seeking, its metadata says zero).
fn length(file: &File) -> io::Result<(u64, bool)> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_block_device() {
        return Ok((metadata.len(), false));
    }
    Ok((rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))?, true))
}

fn preallocate(file: &File, path: &Path, size: u64, created: bool) -> Result<(), CacheError> {
    let allocated = rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size);
    let result = match allocated {
        // A file system without fallocate: a sparse file may run out of space later, and says so then.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(size),
        other => other.map_err(io::Error::from),
    };
    let Err(source) = result else { return Ok(()) };
    if created {
        // Ours, and of no use to anybody.
        drop(std::fs::remove_file(path));
    } else {
        drop(file.set_len(0));
    }
    let path = path.to_path_buf();
    Err(match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge | io::ErrorKind::QuotaExceeded => {
            CacheError::DiskFull { path, size }
        }
        _ => CacheError::Io { what: "preallocating the cache file", path, source },
    })
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path) -> Option<File> {
    None
}
