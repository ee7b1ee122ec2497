//! Taking and giving back buffers: the pool beside glibc's malloc, mimalloc, object-pool, opool and `BytesMut::reserve`.
//!
//! Single buffers, and batches of 8 and 64 held together with every page touched; one thread, two threads at once, and
//! one that takes while the other gives back. Each figure comes from a process of its own, so that no contestant finds the
//! heap as another has left it; contestants take turns in changing order, 11 rounds; medians. Every
//! allocator is called directly in the same process, so that the rest of the program does not change with it.
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use bytes::BytesMut;
use mimalloc::MiMalloc;
use straightway_buffer::packet::{PacketBuffer, take_buffer};
use straightway_buffer::{BufferPool, PoolConfig, PooledBuffer};

const ROUNDS: usize = 11;

/// What a contestant hands out.
trait Buffer: Send {
    fn memory(&mut self) -> *mut u8;
}

trait Contestant: Sync {
    type Held: Buffer;
    fn name(&self) -> String;
    fn take(&self) -> Self::Held;
    /// Once on every thread before it is measured.
    fn warm(&self) {}
}

struct Ours(BufferPool, usize);
impl Buffer for PooledBuffer {
    fn memory(&mut self) -> *mut u8 {
        self.as_mut_capacity().as_mut_ptr()
    }
}
impl Contestant for Ours {
    type Held = PooledBuffer;
    fn name(&self) -> String {
        "straightway BufferPool".into()
    }
    fn take(&self) -> PooledBuffer {
        self.0.acquire(self.1).expect("a buffer")
    }
}

struct OurPackets(usize);
struct LocalPacket(PacketBuffer);
impl Buffer for LocalPacket {
    fn memory(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}
impl Contestant for OurPackets {
    type Held = LocalPacket;
    fn name(&self) -> String {
        "straightway packet::take_buffer".into()
    }
    fn take(&self) -> LocalPacket {
        LocalPacket(take_buffer(self.0))
    }
}

struct Malloc<A>(&'static str, A, Layout);
struct Block<A: GlobalAlloc + Copy + 'static>(*mut u8, A, Layout);
// SAFETY: a heap block has no thread affinity.
unsafe impl<A: GlobalAlloc + Copy> Send for Block<A> {}
impl<A: GlobalAlloc + Copy> Buffer for Block<A> {
    fn memory(&mut self) -> *mut u8 {
        self.0
    }
}
impl<A: GlobalAlloc + Copy> Drop for Block<A> {
    fn drop(&mut self) {
        // SAFETY: allocated below with this layout.
        unsafe { self.1.dealloc(black_box(self.0), self.2) }
    }
}
impl<A: GlobalAlloc + Copy + Sync + 'static> Contestant for Malloc<A> {
    type Held = Block<A>;
    fn name(&self) -> String {
        self.0.into()
    }
    fn take(&self) -> Block<A> {
        // SAFETY: the layout is not empty.
        Block(unsafe { self.1.alloc(black_box(self.2)) }, self.1, self.2)
    }
}

#[derive(Clone, Copy)]
struct Mi;
// SAFETY: passed on.
unsafe impl GlobalAlloc for Mi {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { MiMalloc.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }
}

struct ObjectPool(&'static object_pool::Pool<Vec<u8>>);
impl Buffer for object_pool::Reusable<'static, Vec<u8>> {
    fn memory(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }
}
impl Contestant for ObjectPool {
    type Held = object_pool::Reusable<'static, Vec<u8>>;
    fn name(&self) -> String {
        "object-pool 0.6".into()
    }
    fn take(&self) -> Self::Held {
        self.0.try_pull().expect("filled at the start")
    }
}

struct Allocator(usize);
impl opool::PoolAllocator<Vec<u8>> for Allocator {
    fn allocate(&self) -> Vec<u8> {
        Vec::with_capacity(self.0)
    }
}
struct Opool(&'static opool::Pool<Allocator, Vec<u8>>);
impl Buffer for opool::RefGuard<'static, Allocator, Vec<u8>> {
    fn memory(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }
}
impl Contestant for Opool {
    type Held = opool::RefGuard<'static, Allocator, Vec<u8>>;
    fn name(&self) -> String {
        "opool 0.2".into()
    }
    fn take(&self) -> Self::Held {
        self.0.get()
    }
}

/// One large `BytesMut` a thread, of which pieces are split off; `reserve` finds the space again once they are gone.
struct Reserve(usize);
thread_local! {
    static LARGE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}
impl Buffer for BytesMut {
    fn memory(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }
}
impl Contestant for Reserve {
    type Held = BytesMut;
    fn name(&self) -> String {
        "BytesMut::reserve and split".into()
    }
    fn take(&self) -> BytesMut {
        LARGE.with(|large| {
            let mut large = large.borrow_mut();
            if large.capacity() < self.0 {
                large.reserve(64 * self.0);
            }
            // SAFETY: never read before it is written.
            unsafe { large.set_len(self.0) };
            large.split()
        })
    }
}

/// Nanoseconds a buffer.
fn batches<C: Contestant>(contestant: &C, size: usize, held: usize, touch: bool) -> f64 {
    contestant.warm();
    let rounds = (1_000_000 / (held * if touch { size / 4096 + 1 } else { 1 })).max(20);
    let mut buffers = Vec::with_capacity(held);
    let mut started = Instant::now();
    for round in 0..rounds + rounds / 4 {
        if round == rounds / 4 {
            started = Instant::now();
        }
        for _ in 0..held {
            let mut buffer = contestant.take();
            let memory = black_box(buffer.memory());
            if touch {
                for page in (0..size).step_by(4096) {
                    // SAFETY: within the buffer.
                    unsafe { memory.add(page).write(1) };
                }
            }
            buffers.push(buffer);
        }
        buffers.clear();
    }
    started.elapsed().as_nanos() as f64 / (rounds * held) as f64
}

fn two_threads<C: Contestant>(contestant: &C, size: usize) -> f64 {
    let barrier = Barrier::new(2);
    let one = || {
        barrier.wait();
        batches(contestant, size, 1, true)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(one);
        let mine = one();
        (mine + other.join().expect("measured")) / 2.0
    })
}

fn handed_over<C: Contestant>(contestant: &C) -> f64
where
    C::Held: 'static,
{
    const BATCHES: usize = 4000;
    const HELD: usize = 32;
    let (sender, receiver) = sync_channel::<Vec<C::Held>>(4);
    let (back, empty) = sync_channel::<Vec<C::Held>>(8);
    let consumer = std::thread::spawn(move || {
        for mut batch in receiver {
            batch.clear();
            if back.send(batch).is_err() {
                return;
            }
        }
    });
    for _ in 0..4 {
        sender.send(Vec::with_capacity(HELD)).expect("alive");
    }
    let started = Instant::now();
    for _ in 0..BATCHES {
        let mut batch = empty.recv().expect("alive");
        batch.extend((0..HELD).map(|_| contestant.take()));
        sender.send(batch).expect("alive");
    }
    let spent = started.elapsed();
    drop((sender, empty));
    consumer.join().expect("done");
    spent.as_nanos() as f64 / (BATCHES * HELD) as f64
}

#[derive(Clone, Copy)]
enum Pattern {
    Single,
    Held(usize),
    TwoThreads,
    HandedOver,
}

type Arm = (String, Box<dyn Fn(Pattern) -> f64>);

fn arm<C: Contestant + 'static>(contestant: C, size: usize) -> Arm
where
    C::Held: 'static,
{
    (contestant.name(), Box::new(move |pattern| match pattern {
        Pattern::Single => batches(&contestant, size, 1, false),
        Pattern::Held(count) => batches(&contestant, size, count, true),
        Pattern::TwoThreads => two_threads(&contestant, size),
        Pattern::HandedOver => handed_over(&contestant),
    }))
}

fn arms(size: usize) -> Vec<Arm> {
    let layout = Layout::from_size_align(size, 16).expect("a layout");
    let config = PoolConfig { classes: vec![size], align: 64, max_bytes_held: 256 << 20, max_bytes: 1 << 30, thread_cache: 128, ..PoolConfig::packets() };
    let object_pool: &'static _ = Box::leak(Box::new(object_pool::Pool::new(256, || Vec::<u8>::with_capacity(size))));
    let opool: &'static _ = Box::leak(Box::new(opool::Pool::new(256, Allocator(size))));
    let mut arms = vec![
        arm(Ours(BufferPool::new(config).expect("a pool"), size), size),
        arm(Malloc("glibc malloc", System, layout), size),
        arm(Malloc("mimalloc", Mi, layout), size),
        arm(ObjectPool(object_pool), size),
        arm(Opool(opool), size),
        arm(Reserve(size), size),
    ];
    if size <= 1500 {
        arms.insert(1, arm(OurPackets(size), size));
    }
    arms
}

const PATTERNS: [(&str, Pattern); 5] = [
    ("one, untouched", Pattern::Single),
    ("8 held, every page touched", Pattern::Held(8)),
    ("64 held, every page touched", Pattern::Held(64)),
    ("two threads, one each, touched", Pattern::TwoThreads),
    ("taken here, given back there (32 at a time)", Pattern::HandedOver),
];

/// One figure, from a process of its own.
fn apart(size: usize, pattern: usize, arm: usize) -> f64 {
    let program = std::env::current_exe().expect("this program");
    let arguments = [size, pattern, arm].map(|number| number.to_string());
    let output = std::process::Command::new(program).args(arguments).output().expect("runs");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a figure")
}

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    if let [size, pattern, arm] = arguments[..] {
        println!("{}", arms(size).swap_remove(arm).1(PATTERNS[pattern].1));
        return;
    }
    println!("nanoseconds a buffer, median of {ROUNDS} rounds");
    for size in [256, 512, 1500, 4096, 16 << 10, 64 << 10, 256 << 10] {
        println!("\n### {size} bytes\n");
        let names: Vec<_> = arms(size).into_iter().map(|(name, _)| name).collect();
        println!("| pattern | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
        for (pattern, (what, _)) in PATTERNS.iter().enumerate() {
            let mut seen = vec![Vec::new(); names.len()];
            for round in 0..ROUNDS {
                for n in 0..names.len() {
                    // Forwards and backwards in turn, so that nobody always follows the same one.
                    let n = if round % 2 == 0 { n } else { names.len() - 1 - n };
                    seen[n].push(apart(size, pattern, n));
                }
            }
            let medians = seen.into_iter().map(|mut times| {
                times.sort_by(f64::total_cmp);
                format!("{:.1}", times[times.len() / 2])
            });
            println!("| {what} | {} |", medians.collect::<Vec<_>>().join(" | "));
        }
    }
}
