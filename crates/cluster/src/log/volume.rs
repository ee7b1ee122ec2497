//! The folder that a log lives in, as little of it as the log needs: so that tests can put one in its place that tears, loses
//! and fails.
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use crate::error::ClusterError;

/// A folder.
pub(super) trait Volume: Send + Sync + Debug {
    /// What to call a file in messages.
    fn path(&self, name: &str) -> PathBuf;
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// All of a file, as the medium has it: what a process wrote and never flushed is flushed first, or is not there.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// A new file of `len` zeros, on the medium with its room; it replaces one of that name.
    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn SegmentFile>>;
    /// An existing file, to be written.
    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>>;
    /// Gives a file another name; not durable before [`Volume::sync`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync(&self) -> io::Result<()>;
}

/// A file of fixed length.
pub(super) trait SegmentFile: Send + Debug {
    /// Writes a part of `parts`, from the first on, and answers how many bytes.
    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize>;
    /// Makes everything written durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Lets the system's cache of the file go. The cache keeps what was written or read at once as one piece of up to 1 MiB,
    /// and a flush writes whole pieces: a short batch in it would cost all of it.
    fn forget(&self) {}
}

/// Writes all of `parts`. What was written before an error is said with it.
pub(super) fn write_all(
    file: &dyn SegmentFile,
    parts: &mut [IoSlice<'_>],
    mut at: u64,
) -> Result<u64, (u64, io::Error)> {
    /// As many as the system takes in one call.
    const MAX_PARTS: usize = 1024;
    let begin = at;
    let mut calls = 0;
    let mut rest = parts;
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        calls += 1;
        match file.write_at(&rest[..rest.len().min(MAX_PARTS)], at) {
            Ok(0) => return Err((at - begin, io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((at - begin, error)),
        }
    }
    Ok(calls)
}

/// Whether a write failed because there is no room for it.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Writes real zeros, durably: the first write into room that was only promised would have to be journaled by the file system.
pub(super) fn zero(file: &dyn SegmentFile, from: u64, to: u64) -> io::Result<()> {
    const STEP: usize = 256 << 10;
    /// So that a flush of the log beside it never waits for much of it.
    const FLUSH: u64 = 4 << 20;
    let zeros = vec![0; usize::try_from(to.saturating_sub(from)).map_or(STEP, |len| len.min(STEP))];
    let (mut at, mut flushed) = (from, from);
    while at < to {
        let step = usize::try_from(to - at).unwrap_or(STEP).min(STEP);
        write_all(file, &mut [IoSlice::new(&zeros[..step])], at).map_err(|(_, error)| error)?;
        at += step as u64;
        if at - flushed >= FLUSH || at == to {
            file.sync_data()?;
            flushed = at;
        }
    }
    Ok(())
}

/// Writes zeros to all of a file past the system's cache: nothing has to be flushed or forgotten then, and no batch waits for a
/// flush of them. `false`: the file system does not do that.
#[cfg(target_os = "linux")]
fn zero_past_cache(path: &Path, len: u64) -> io::Result<bool> {
    use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

    const STEP: usize = 1 << 20;
    /// What the hardware writes without help begins at a page.
    #[repr(align(4096))]
    struct Block([u8; STEP]);
    static BLOCK: Block = Block([0; STEP]);

    let refused = |error: &io::Error| {
        let not_known = [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOSYS];
        error.raw_os_error().is_some_and(|code| not_known.map(Errno::raw_os_error).contains(&code))
    };
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or(0);
    let file = match OpenOptions::new().write(true).custom_flags(direct).open(path) {
        Ok(file) => file,
        Err(error) if refused(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut at = 0;
    while at < len {
        let step = usize::try_from(len - at).unwrap_or(STEP).min(STEP);
        match file.write_at(&BLOCK.0[..step], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => at += written as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if refused(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
fn zero_past_cache(_path: &Path, _len: u64) -> io::Result<bool> {
    Ok(false)
}

/// A folder of the file system, held against other processes.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    names: File,
    /// Its lock ends with it.
    _lock: File,
}

impl Folder {
    /// Opens `path`, which is made if it does not exist, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, ClusterError> {
        fs::create_dir_all(path).map_err(ClusterError::file("make the folder", path))?;
        let lock_path = path.join("LOCK");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(ClusterError::file("open the lock", &lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(ClusterError::Locked { path: path.to_owned() }),
            Err(error) => return Err(ClusterError::file("lock", lock_path)(error.into())),
        }
        let folder = File::open(path).map_err(ClusterError::file("open the folder", path))?;
        // The folder's own name, and the lock's.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = File::open(parent.unwrap_or(Path::new(".")));
        let synced = parent.and_then(|parent| parent.sync_all()).and_then(|()| folder.sync_all());
        synced.map_err(ClusterError::file("flush the folder", path))?;
        Ok(Self { path: path.to_owned(), names: folder, _lock: lock })
    }
}

impl Volume for Folder {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // Names that are no text are none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(name))?;
        // Whoever died between writing and flushing left this in the system's cache only: what is read here is believed, and
        // answered for, without another flush.
        file.sync_data()?;
        // A flush that failed in an earlier process leaves pages in the cache that look clean, and are on no disk.
        let file = OnDisk(file);
        file.forget();
        let mut bytes = Vec::new();
        (&file.0).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Box<dyn SegmentFile>> {
        let path = self.path(name);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        // Says at once whether there is room. Where it is not known, the zeros below say it.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        let file = OnDisk(file);
        if !zero_past_cache(&self.path(name), len)? {
            zero(&file, 0, len)?;
        }
        file.0.sync_all()?;
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name))?;
        Ok(Box::new(OnDisk(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.names.sync_all()
    }
}

/// A file of the file system.
#[derive(Debug)]
struct OnDisk(File);

impl SegmentFile for OnDisk {
    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(&self.0, parts, at)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget(&self) {
        // Advice: nothing is wrong if it is not taken.
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed);
    }
}
