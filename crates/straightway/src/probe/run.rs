//! The side that asks.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use straightway_buffer::{BufferPool, PoolConfig, SharedPacket};
use straightway_packet::MacAddr;
use straightway_packet::batch::{
    BatchReceiver, BatchSender, Pacer, ReceiveOptions, SendOptions, never_fragment,
};
use straightway_packet::overlay::{Control, Heartbeat, Message, PacketType};

use super::{MIN_PROBE, ProbeError, RoundTrips, Tally, bind};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Lengths of the probes, in bytes of UDP payload.
    pub sizes: Vec<usize>,
    /// Probes of each size, one after the other.
    pub count: u32,
    /// Probes a second.
    pub rate: u64,
    /// How long to ask as fast as answers come, for each size.
    pub flood: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long it may take while the path MTU is looked for, where many a probe gets none.
    pub mtu_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sizes: vec![64, 512, 1200, 1472, 4096, 16_384, 65_507],
            count: 100,
            rate: 1000,
            flood: Duration::from_millis(300),
            timeout: Duration::from_secs(1),
            mtu_timeout: Duration::from_millis(150),
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// By size.
    pub sizes: Vec<SizeReport>,
    /// The longest packet that arrives in one piece, IP header included, if it could be found.
    pub path_mtu: Option<usize>,
}

/// What was measured of one size.
#[derive(Debug, Clone)]
pub struct SizeReport {
    /// Bytes of UDP payload.
    pub size: usize,
    /// The probes sent one after the other.
    pub tally: Tally,
    /// Probes answered a second when asked as fast as answers come.
    pub pps: f64,
    /// Their bytes a second.
    pub bytes_per_second: f64,
}

impl Report {
    /// Round trips of all sizes.
    pub fn round_trips(&self) -> RoundTrips {
        let all = self.sizes.iter().flat_map(|size| size.tally.round_trips().sorted_ns().to_vec());
        RoundTrips::new(all.collect())
    }

    /// A sum over all sizes.
    pub fn total(&self, of: impl Fn(&Tally) -> u64) -> u64 {
        self.sizes.iter().map(|size| of(&size.tally)).sum()
    }
}

/// Probes that may be out at once when asking fast.
const WINDOW: u64 = 64;
/// How long all of them may stay out before they count as lost.
const STALLED: Duration = Duration::from_millis(100);
/// What IP and UDP add.
const HEADERS: [usize; 2] = [28, 48];

/// Measures the path to `target`; `told` hears what is being done and how far it is.
///
/// # Errors
/// [`ProbeError`].
pub fn probe(
    target: SocketAddr,
    options: &Options,
    mut told: impl FnMut(&str),
) -> Result<Report, ProbeError> {
    // An IPv4 address in IPv6's clothes has IPv4's headers and rules on its way.
    let target = match target.ip().to_canonical() {
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, target.port()),
        IpAddr::V6(_) => target,
    };
    let mut prober = Prober::new(target)?;
    told("looking for the listener");
    prober.greet(options.timeout)?;
    let mut report =
        Report { path_mtu: prober.path_mtu(options.mtu_timeout, &mut told)?, ..Report::default() };
    for &size in &options.sizes {
        let size = size.clamp(MIN_PROBE, 65_507);
        let tally = prober.one_by_one(size, options, &mut told)?;
        told(&format!("{size} bytes: as fast as answers come"));
        let pps = prober.flood(size, options.flood)?;
        report.sizes.push(SizeReport { size, tally, pps, bytes_per_second: pps * size as f64 });
    }
    Ok(report)
}

struct Prober {
    target: SocketAddr,
    sender: BatchSender<SharedPacket>,
    receiver: BatchReceiver,
    pool: BufferPool,
    /// Tells our answers from anybody's.
    session: MacAddr,
    next_id: u32,
    started: Instant,
}

impl Prober {
    fn new(target: SocketAddr) -> Result<Self, ProbeError> {
        let any: SocketAddr =
            if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = Arc::new(bind(any)?);
        let pool = BufferPool::new(PoolConfig { name: "probe", ..PoolConfig::packets() })?;
        let sender = BatchSender::new(socket.clone(), SendOptions::default())?;
        let options = ReceiveOptions {
            socket_buffer: Some(8 << 20),
            pool: Some(pool.clone()),
            ..ReceiveOptions::default()
        };
        let receiver = BatchReceiver::new(socket, options)?;
        let mut session = [0; 6];
        // Without randomness answers of another run could be taken for ours; nothing worse.
        let _random = getrandom::fill(&mut session);
        let session = MacAddr(session);
        Ok(Self { target, sender, receiver, pool, session, next_id: 0, started: Instant::now() })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Queues a probe. One that finds no room has its number all the same, and counts as lost: the socket takes none.
    fn queue(&mut self, size: usize) -> Result<(), ProbeError> {
        let duration_ms = self.started.elapsed().as_millis();
        let heartbeat = Heartbeat { duration_ms, id: self.next_id, hops: 0, source: self.session };
        let packet = PacketType::Control(Control::Heartbeat(heartbeat));
        let mut buffer = self.pool.acquire(size)?;
        Message::new(self.session, MacAddr::BROADCAST, packet)
            .write_to(buffer.as_mut_capacity())?;
        // What follows the message is padding; a pooled buffer may hold anything there.
        buffer.set_len(size)?;
        drop(self.sender.push(self.target, buffer.share()));
        self.next_id = self.next_id.wrapping_add(1);
        Ok(())
    }

    /// Waits for answers, for so long at the most; hands over the number of each.
    fn answers(
        &mut self,
        at_most: Duration,
        mut each: impl FnMut(u32, u64),
    ) -> Result<(), ProbeError> {
        self.receiver.receive(at_most)?;
        let now = self.now_ns();
        for datagram in self.receiver.datagrams() {
            if let Ok(PacketType::Control(Control::HeartbeatReply(reply))) =
                Message::parse(datagram.bytes).map(|message| message.packet)
                && reply.heartbeat.source == self.session
            {
                each(reply.heartbeat.id, now);
            }
        }
        Ok(())
    }

    /// Three probes, one of which has to be answered.
    fn greet(&mut self, timeout: Duration) -> Result<(), ProbeError> {
        const TRIES: u64 = 3;
        for _ in 0..TRIES {
            if self.is_answered(MIN_PROBE, timeout)? {
                return Ok(());
            }
        }
        Err(ProbeError::Silent { target: self.target, sent: TRIES })
    }

    /// Whether a probe of that size is answered in time.
    fn is_answered(&mut self, size: usize, timeout: Duration) -> Result<bool, ProbeError> {
        let wanted = self.next_id;
        self.queue(size)?;
        self.sender.flush(timeout)?;
        if !self.sender.take_refused().is_empty() {
            return Ok(false);
        }
        let deadline = Instant::now() + timeout;
        let mut found = false;
        while !found && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            self.answers(left, |id, _| found |= id == wanted)?;
        }
        Ok(found)
    }

    /// Finds the longest packet that arrives in one piece, by halving.
    fn path_mtu(
        &mut self,
        timeout: Duration,
        told: &mut impl FnMut(&str),
    ) -> Result<Option<usize>, ProbeError> {
        const TRIES: usize = 2;
        let mut apart = Self::new(self.target)?;
        if never_fragment(apart.sender.socket()).is_err() {
            return Ok(None);
        }
        let headers = HEADERS[usize::from(self.target.is_ipv6())];
        let (mut good, mut bad) = (MIN_PROBE, 65_508);
        while good + 1 < bad {
            // First what most paths have, then halves.
            let size = match (good, bad) {
                (MIN_PROBE, 65_508) => 1500 - headers,
                (good, 65_508) if good == 1500 - headers => good + 1,
                _ => usize::midpoint(good, bad),
            };
            told(&format!("path MTU: {} to {} bytes", good + headers, bad + headers - 1));
            let mut passed = false;
            for _ in 0..TRIES {
                passed = passed || apart.is_answered(size, timeout)?;
            }
            if passed { good = size } else { bad = size }
        }
        Ok((good > MIN_PROBE).then_some(good + headers))
    }

    /// A series at an even pace.
    fn one_by_one(
        &mut self,
        size: usize,
        options: &Options,
        told: &mut impl FnMut(&str),
    ) -> Result<Tally, ProbeError> {
        let mut tally = Tally::starting_at(self.next_id);
        let mut pacer = Pacer::new(options.rate, 1);
        let mut last_sent = Instant::now();
        loop {
            let all_sent = tally.sent_count() >= u64::from(options.count);
            if all_sent && (tally.lost() == 0 || last_sent.elapsed() >= options.timeout) {
                return Ok(tally);
            }
            let now = self.started.elapsed();
            if !all_sent && pacer.take(now, 1) == 1 {
                tally.sent(self.now_ns());
                last_sent = Instant::now();
                self.queue(size)?;
                self.sender.try_flush()?;
                // One that is refused counts as lost: it does not arrive.
                drop(self.sender.take_refused());
            }
            let wait = if all_sent { options.timeout } else { pacer.wait(self.started.elapsed()) };
            self.answers(wait.min(Duration::from_millis(50)), |id, at| {
                tally.answered(id, at);
            })?;
            told(&format!("{size} bytes: {} of {} answered", tally.received(), tally.sent_count()));
        }
    }

    /// Answers a second, with a window of probes always out.
    fn flood(&mut self, size: usize, time: Duration) -> Result<f64, ProbeError> {
        let started = Instant::now();
        // Knows an answer from a second one, and from one to nothing that was asked.
        let mut tally = Tally::starting_at(self.next_id);
        let (mut given_up, mut last_answer) = (0, Instant::now());
        while started.elapsed() < time {
            while tally.lost().saturating_sub(given_up) < WINDOW {
                tally.sent(self.now_ns());
                self.queue(size)?;
            }
            self.sender.try_flush()?;
            drop(self.sender.take_refused());
            let before = tally.received();
            self.answers(Duration::from_millis(5), |id, at| {
                tally.answered(id, at);
            })?;
            if tally.received() > before {
                last_answer = Instant::now();
            } else if last_answer.elapsed() > STALLED {
                (given_up, last_answer) = (tally.lost(), Instant::now());
            }
        }
        Ok(tally.received() as f64 / started.elapsed().as_secs_f64())
    }
}
