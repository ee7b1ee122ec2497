//! Messages through a pipe, all on one thread.
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use raft::prelude::Message;
use tokio::io::{DuplexStream, duplex};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, server::Connected};

use crate::arms::{self, Pipe, decode_owned, decode_shared};
use crate::count::{allocated, worked};
use crate::rivals::{owned, shared};
use crate::{median, messages, tonics};

const ROUNDS: usize = 7;
/// What is written at once while more waits.
pub const BATCH_BYTES: usize = 256 << 10;

trait Pair: Pipe + Connected + Sized {
    const NAME: &'static str;
    fn pair() -> (Self, Self);
}

impl Pair for DuplexStream {
    const NAME: &'static str = "tokio duplex";
    fn pair() -> (Self, Self) {
        duplex(1 << 20)
    }
}

impl Pair for UnixStream {
    const NAME: &'static str = "Unix socket pair";
    fn pair() -> (Self, Self) {
        UnixStream::pair().expect("a pair")
    }
}

#[derive(Clone, Copy)]
enum Arm {
    Ours { sums: bool },
    DelimitedVec,
    DelimitedBytes,
    Direct,
    TonicVec,
    TonicBytes,
}

const ARMS: [(Arm, &str); 7] = [
    (Arm::Ours { sums: true }, "ours"),
    (Arm::Ours { sums: false }, "ours, payloads without sums"),
    (Arm::DelimitedVec, "LengthDelimitedCodec + prost, Vec"),
    (Arm::DelimitedBytes, "LengthDelimitedCodec + prost, Bytes"),
    (Arm::Direct, "own tokio-util codec + prost, Bytes"),
    (Arm::TonicVec, "tonic stream, Vec"),
    (Arm::TonicBytes, "tonic stream, Bytes"),
];

/// Nanoseconds, CPU nanoseconds, allocations and bytes allocated for one message.
type Cost = [f64; 4];

struct Forms {
    raft: Message,
    owned: Arc<owned::Message>,
    shared: Arc<shared::Message>,
}

/// All contestants, with the messages that have `which` in their name.
pub fn run(which: &str) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    println!("\n| pipe | message | written | contestant | messages/s | CPU ns | of ours | allocations | bytes allocated |\n|---|---|---|---|---|---|---|---|---|");
    for one_by_one in [false, true] {
        through::<UnixStream>(&runtime, one_by_one, which);
        through::<DuplexStream>(&runtime, one_by_one, which);
    }
}

/// One contestant's messages through the in-memory pipe: what a profiler looks at.
pub fn repeat(message: usize, arm: usize, times: usize) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (_, raft, _) = messages().into_iter().nth(message).expect("a message");
    let forms = Forms { owned: Arc::new((&raft).into()), shared: Arc::new((&raft).into()), raft };
    let count = u32::try_from(times).expect("a count");
    runtime.block_on(once::<DuplexStream>(ARMS[arm].0, &forms, count, false));
}

fn through<P: Pair>(runtime: &Runtime, one_by_one: bool, which: &str) {
    for (name, raft, count) in messages().into_iter().filter(|(name, ..)| name.contains(which)) {
        let forms = Forms { owned: Arc::new((&raft).into()), shared: Arc::new((&raft).into()), raft };
        let mut costs = vec![Vec::new(); ARMS.len()];
        for round in 0..ROUNDS {
            for turn in 0..ARMS.len() {
                let at = (turn + round) % ARMS.len();
                costs[at].push(runtime.block_on(once::<P>(ARMS[at].0, &forms, count, one_by_one)));
            }
        }
        let medians: Vec<Cost> = costs.iter().map(|costs| std::array::from_fn(|of| median(costs.iter().map(|cost| cost[of]).collect()))).collect();
        for ((arm, contestant), [wall, cpu, calls, bytes]) in ARMS.iter().zip(&medians) {
            // A stream of tonic writes as it sees fit.
            if one_by_one && matches!(arm, Arm::TonicVec | Arm::TonicBytes) {
                continue;
            }
            let written = if one_by_one { "one by one" } else { "together" };
            println!(
                "| {} | {name} | {written} | {contestant} | {:.0} | {cpu:.0} | {:.2} | {calls:.1} | {bytes:.0} |",
                P::NAME, 1e9 / wall, cpu / medians[0][1],
            );
        }
    }
}

async fn once<P: Pair>(arm: Arm, forms: &Forms, count: u32, one_by_one: bool) -> Cost {
    // Connected and warm before the clock runs.
    let channel = match arm {
        Arm::TonicVec | Arm::TonicBytes if one_by_one => return [0.0; 4],
        Arm::TonicVec => Some(channel::<owned::Message, P>().await),
        Arm::TonicBytes => Some(channel::<shared::Message, P>().await),
        _ => None,
    };
    send::<P>(arm, forms, channel.as_ref(), count / 10, one_by_one).await;
    measured(count, send::<P>(arm, forms, channel.as_ref(), count, one_by_one)).await
}

async fn channel<M: tonics::Rival, P: Pair>() -> Channel {
    let (client, server) = P::pair();
    tonics::connect::<M, P>(client, server).await
}

async fn send<P: Pair>(arm: Arm, forms: &Forms, channel: Option<&Channel>, n: u32, one_by_one: bool) {
    match (arm, channel) {
        (Arm::TonicVec, Some(channel)) => tonics::send(channel, &forms.owned, n).await,
        (Arm::TonicBytes, Some(channel)) => tonics::send(channel, &forms.shared, n).await,
        _ => {
            let (write, read) = P::pair();
            match arm {
                Arm::Ours { sums } => arms::ours(write, read, &forms.raft, n, one_by_one, sums).await,
                Arm::DelimitedVec => arms::delimited(write, read, &*forms.owned, n, one_by_one, decode_owned).await,
                Arm::DelimitedBytes => arms::delimited(write, read, &*forms.shared, n, one_by_one, decode_shared).await,
                _ => arms::direct(write, read, &forms.shared, n, one_by_one).await,
            }
        }
    }
}

async fn measured(count: u32, act: impl Future<Output = ()>) -> Cost {
    let (before, worked_before, started) = (allocated(), worked(), Instant::now());
    act.await;
    let (wall, cpu, after) = (started.elapsed(), worked() - worked_before, allocated());
    let of = f64::from(count);
    [wall.as_nanos() as f64 / of, cpu / of, (after.0 - before.0) as f64 / of, (after.1 - before.1) as f64 / of]
}
