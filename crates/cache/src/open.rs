//! Opening: the file, its superblocks, what the system can do, recovery, and the parts put together.
use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use straightway_buffer::{LargeBufferPool, PoolConfig};

use crate::cache::CacheInfo;
use crate::checkpoint;
use crate::commit::Committer;
use crate::config::CacheBuilder;
use crate::core::{BLOCK_BYTES, Core, Space};
use crate::device::file::Access;
use crate::device::{CacheFile, Device};
use crate::error::CacheError;
use crate::format::layout::{Layout, PROBE_BYTES};
use crate::format::superblock::Superblock;
use crate::format::{BLOCK_BYTES as BLOCK, FormatError};
use crate::io::pool::BlockingPool;
use crate::io::probe::{Hazard, rewrite_hazard};
use crate::io::standard::StandardEngine;
use crate::io::{IoEngine, IoMode};
use crate::meta::Entries;
use crate::pack::PackQueue;
use crate::purge::Rules;
use crate::reclaim::Reclaim;
use crate::recover::{Purges, Recovered, recover};
use crate::scrub::Scrub;
use crate::segment::pin::PinTable;
use crate::segment::space::SpaceMap;
use crate::stats::Counters;
use crate::threads::Queues;
use crate::zero_copy::ZeroCopyManager;

/// A cache whose threads are not started yet.
pub(crate) struct Opened {
    pub(crate) core: Arc<Core>,
    pub(crate) queues: Queues,
    pub(crate) info: CacheInfo,
}

/// Threads for reads and writes that block.
const IO_THREADS: usize = 8;

/// Opens a cache. Blocks.
pub(crate) fn open(builder: CacheBuilder) -> Result<Opened, CacheError> {
    let started = Instant::now();
    let planned = Layout::plan(builder.size, builder.block_size, builder.average_object)
        .map_err(|error| geometry(&error))?;
    let portable = builder.io == IoMode::Portable;
    let opened = CacheFile::open(&builder.path, builder.size, Access { portable })?;
    let (mut file, fresh) = (opened.file, opened.fresh);
    let buffers = LargeBufferPool::new(PoolConfig { name: "cache", ..PoolConfig::default() });
    let failed = |what| {
        let path = builder.path.clone();
        move |source: io::Error| CacheError::Io { what, path, source }
    };
    let found = read_superblock(&file, &builder, &planned, fresh)?;
    let formatted = found.is_none();
    let mut superblock = match found {
        Some((found, differs)) => {
            let found = matching(found, &planned, &builder)?;
            if differs {
                tracing::warn!(path = %builder.path.display(), "one copy of the superblock was damaged or stale; writing it anew");
                write_superblock(&file, &found, &buffers)
                    .map_err(failed("writing the superblock"))?;
            }
            found
        }
        None => format(&file, planned, &builder, &buffers)?,
    };
    let hazard = probe(&mut file, &buffers, superblock.layout.probe, portable);
    if !portable && hazard.coherent {
        file.map().map_err(failed("mapping the cache file"))?;
    }
    let recovered = recover(&file, &superblock.layout, superblock.epoch)
        .map_err(failed("recovering the index"))?;
    for what in recovered.damage.iter().filter(|_| !formatted) {
        tracing::warn!(path = %builder.path.display(), what, "damaged metadata");
    }
    if recovered.journal.lost && !formatted {
        superblock.epoch += 1;
        write_superblock(&file, &superblock, &buffers).map_err(failed("writing the superblock"))?;
    }
    assemble(builder, file, buffers, superblock, hazard, recovered, started)
}

fn geometry(error: &FormatError) -> CacheError {
    match error {
        FormatError::Field { what, value, reason } => {
            CacheError::Geometry { what, value: *value, reason: (*reason).to_owned() }
        }
        other => CacheError::Geometry { what: "cache size", value: 0, reason: other.to_string() },
    }
}

/// The superblock of whichever copy is sound, and whether the other copy differs; `None`: the file is to be formatted.
fn read_superblock(
    file: &CacheFile,
    builder: &CacheBuilder,
    planned: &Layout,
    fresh: bool,
) -> Result<Option<(Superblock, bool)>, CacheError> {
    if fresh {
        return Ok(None);
    }
    let path = || builder.path.clone();
    let mut ours = false;
    let mut newer = None;
    let mut blank = true;
    let mut sound: Vec<Superblock> = Vec::new();
    for offset in [0, BLOCK_BYTES] {
        let mut block = [0; BLOCK];
        if file.len() >= offset + BLOCK_BYTES
            && let Err(error) = file.read_at(&mut block, offset)
        {
            // There is another copy; without it this is no file to be formatted for being blank.
            tracing::warn!(path = %builder.path.display(), %error, "a superblock cannot be read");
            (blank, ours) = (false, true);
            continue;
        }
        blank &= block.iter().all(|byte| *byte == 0);
        ours |= Superblock::is_ours(&block);
        match Superblock::decode(&block) {
            Ok(superblock) => sound.push(superblock),
            Err(
                error @ (FormatError::NewerVersion { .. } | FormatError::UnknownFeature { .. }),
            ) => newer = Some(error.to_string()),
            Err(_) => {}
        }
    }
    let differs = sound.len() < 2 || sound.first() != sound.last();
    if builder.format {
        // Only what cannot be used as it is: an option that was left in place must not empty the cache at every start.
        let usable = sound.into_iter().next().filter(|found| {
            newer.is_none()
                && (found.layout.size, found.layout.block_size)
                    == (planned.size, planned.block_size)
        });
        if usable.is_none() {
            tracing::warn!(path = %builder.path.display(), "formatting a file that is no cache of these sizes");
        }
        return Ok(usable.map(|found| (found, differs)));
    }
    match (newer, ours) {
        (None, _) if !sound.is_empty() => Ok(Some((sound.swap_remove(0), differs))),
        // Even if the other copy is sound: a newer program has begun to make this file its own.
        (Some(found), _) => Err(CacheError::NewerFormat { path: path(), found }),
        (None, true) => Err(CacheError::Damaged { path: path() }),
        // Preallocated by a start that was killed before it wrote anything: nothing in it is anybody's.
        (None, false) if blank && is_all_zero(file).unwrap_or(false) => Ok(None),
        (None, false) => Err(CacheError::Foreign { path: path() }),
    }
}

/// Whether the first MiB is empty: what a foreign file is not.
fn is_all_zero(file: &CacheFile) -> io::Result<bool> {
    let mut chunk = vec![0; usize::try_from(file.len().min(1 << 20)).unwrap_or(0)];
    file.read_at(&mut chunk, 0)?;
    Ok(chunk.iter().all(|byte| *byte == 0))
}

/// Refuses a file that was made with other sizes than asked for.
fn matching(
    found: Superblock,
    planned: &Layout,
    builder: &CacheBuilder,
) -> Result<Superblock, CacheError> {
    let differs = |what, value: u64, on_disk: u64| {
        let path = builder.path.display();
        let reason = format!(
            "{path} was made with {on_disk}; give that value, name another file, or pass --format to start empty"
        );
        Err(CacheError::Geometry { what, value, reason })
    };
    let layout = &found.layout;
    if layout.size != planned.size {
        return differs("cache size", planned.size, layout.size);
    }
    if layout.block_size != planned.block_size {
        return differs("block size", u64::from(planned.block_size), u64::from(layout.block_size));
    }
    Ok(found)
}

/// Writes superblocks, and a checkpoint area and journal that say nothing.
fn format(
    file: &CacheFile,
    layout: Layout,
    builder: &CacheBuilder,
    buffers: &LargeBufferPool,
) -> Result<Superblock, CacheError> {
    let failed = |source| CacheError::Io {
        what: "formatting the cache file",
        path: builder.path.clone(),
        source,
    };
    if file.len() < layout.size {
        let reason = format!(
            "{} has only {} bytes; give that size, or remove the file",
            builder.path.display(),
            file.len()
        );
        return Err(CacheError::Geometry { what: "cache size", value: layout.size, reason });
    }
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(|error| failed(io::Error::other(error)))?;
    // An epoch that no journal block of an earlier life of this file bears.
    let epoch = builder.clock.now_ms().max(1);
    let superblock = Superblock {
        epoch,
        secret,
        created_ms: epoch,
        average_object: builder.average_object,
        layout,
    };
    write_superblock(file, &superblock, buffers).map_err(failed)?;
    Ok(superblock)
}

fn write_superblock(
    file: &CacheFile,
    superblock: &Superblock,
    buffers: &LargeBufferPool,
) -> io::Result<()> {
    let mut buffer = buffers.acquire(BLOCK).map_err(io::Error::other)?;
    buffer.set_len(BLOCK).map_err(io::Error::other)?;
    buffer.copy_from_slice(&superblock.encode());
    for offset in [0, BLOCK_BYTES] {
        file.write_at(&buffer, offset)?;
        file.sync()?;
    }
    Ok(())
}

/// Finds out what may be used on this very file, and gives up what may not.
fn probe(file: &mut CacheFile, buffers: &LargeBufferPool, scratch: u64, portable: bool) -> Hazard {
    let none = Hazard { coherent: false, sendfile_safe: false };
    if portable {
        return none;
    }
    let probe_len = usize::try_from(PROBE_BYTES).unwrap_or(BLOCK);
    let attempt = |file: &CacheFile| {
        let mut buffer = buffers.acquire(probe_len).map_err(io::Error::other)?;
        rewrite_hazard(file, &mut buffer, scratch)
    };
    match attempt(file) {
        Ok(hazard) => hazard,
        // A descriptor that refuses direct writes only when they are made (some network and overlay file systems).
        Err(error) if file.is_direct() => {
            tracing::warn!(%error, "direct writes are refused here; writing through the page cache");
            file.give_up_direct();
            attempt(file).unwrap_or(none)
        }
        Err(error) => {
            tracing::warn!(%error, "the zero-copy probe failed; serving by copy");
            none
        }
    }
}

fn start_engine(
    mode: IoMode,
    file: &Arc<CacheFile>,
    pool: &Arc<BlockingPool>,
) -> Result<Arc<dyn IoEngine>, CacheError> {
    let standard = |name| {
        Ok(Arc::new(StandardEngine::new(name, file.clone(), pool.clone())) as Arc<dyn IoEngine>)
    };
    match mode {
        IoMode::Standard => standard("standard"),
        IoMode::Portable => standard("portable"),
        IoMode::Auto | IoMode::IoUring => match start_uring(file) {
            Ok(engine) => Ok(engine),
            Err(source) if mode == IoMode::IoUring => {
                Err(CacheError::EngineUnavailable { engine: "io_uring", source })
            }
            Err(error) => {
                tracing::info!(%error, "no io_uring here; using the standard backend");
                standard("standard")
            }
        },
    }
}

#[cfg(target_os = "linux")]
fn start_uring(file: &Arc<CacheFile>) -> io::Result<Arc<dyn IoEngine>> {
    crate::io::uring::UringEngine::start(file.clone())
        .map(|engine| Arc::new(engine) as Arc<dyn IoEngine>)
}

#[cfg(not(target_os = "linux"))]
fn start_uring(_file: &Arc<CacheFile>) -> io::Result<Arc<dyn IoEngine>> {
    Err(io::ErrorKind::Unsupported.into())
}

fn pin_words(map: &SpaceMap, regions: u32) -> PinTable {
    let pins = PinTable::new(regions);
    for segment in map.segments() {
        pins.open(segment.first, segment.regions, segment.seq);
        if !segment.open {
            pins.seal(segment.first);
        }
    }
    pins
}

fn assemble(
    builder: CacheBuilder,
    file: CacheFile,
    buffers: LargeBufferPool,
    superblock: Superblock,
    hazard: Hazard,
    recovered: Recovered,
    started: Instant,
) -> Result<Opened, CacheError> {
    let Superblock { epoch, secret, layout, .. } = superblock;
    let (mapped, direct) = (file.is_mapped(), file.is_direct());
    let file = Arc::new(file);
    let thread_failed =
        |source| CacheError::Io { what: "starting a thread", path: builder.path.clone(), source };
    let blocking = Arc::new(BlockingPool::new(IO_THREADS).map_err(thread_failed)?);
    let io = start_engine(builder.io, &file, &blocking)?;
    let (committer, commits) = Committer::new(epoch, &recovered.journal);
    let (packer, needles) = PackQueue::new();
    let sendfile = mapped && hazard.sendfile_safe;
    let recovered_objects = recovered.index.len() as u64;
    let Purges { generation, rules } = recovered.purges;
    let core = Arc::new(Core {
        pins: pin_words(&recovered.map, layout.regions),
        rules: Rules::new(generation, rules, layout.rule_bytes()),
        align: layout.align(),
        max_object: builder.max_object.unwrap_or(layout.size / 4).min(layout.capacity() / 2),
        zero_copy: ZeroCopyManager::new(builder.zero_copy, mapped, sendfile),
        entries: Entries::new(builder.metadata_cache),
        space: Mutex::new(Space { map: recovered.map, opens: Vec::new() }),
        index: recovered.index,
        path: builder.path,
        device: file,
        io,
        blocking,
        buffers,
        secret,
        layout,
        reclaim: Reclaim::new(),
        committer,
        packer,
        counters: Counters::default(),
        clock: builder.clock,
        observer: builder.observer,
        ttl: builder.ttl,
        verify_ahead: builder.verify_ahead,
        pin_wait: builder.pin_wait,
        scrub_rate: builder.scrub_rate,
        scrub: Scrub::default(),
        opened: started,
    });
    if recovered.journal.gap {
        // Into both slots: neither may start before the gap.
        for _ in 0..2 {
            checkpoint::write(&core)
                .map_err(|source| core.io_error("writing a checkpoint", source))?;
        }
    }
    let info = CacheInfo {
        engine: core.io.name(),
        direct,
        mapped,
        sendfile,
        capacity: core.layout.capacity(),
        region_size: core.layout.region_size,
        regions: core.layout.regions,
        index_slots: core.index.slots() as u64,
        index_bytes: core.index.memory_bytes() as u64,
        max_object: core.max_object,
        recovered_objects,
        recovery_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
    };
    Ok(Opened { core, queues: Queues { commits, needles }, info })
}
