//! What waits to be sent on a lane: bounded in messages and in bytes, calls apart from Raft so that neither displaces the other.
use std::collections::VecDeque;

use bytes::Bytes;
use raft::prelude::{Message, MessageType};
use straightway_wire::{RequestId, RpcReply};

/// Bounds of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Raft messages, and calls and answers, each.
    pub messages: usize,
    /// Bytes of each.
    pub bytes: usize,
}

/// What is sent on a lane.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Raft(Box<Message>),
    Request {
        id: RequestId,
        method: Box<str>,
        payload: Bytes,
        deadline_ms: u32,
    },
    Response {
        id: RequestId,
        reply: RpcReply,
    },
    /// What the handler has answered, as frames.
    Frames(Bytes),
    /// The echo of a sign of life, as a frame. The last one is enough: it takes the place of one that waits.
    Echo(Bytes),
}

impl Outgoing {
    /// Bytes that it takes, roughly and never less than its payloads.
    fn weight(&self) -> usize {
        match self {
            Self::Raft(message) => raft_bytes(message),
            Self::Request { method, payload, .. } => 64 + method.len() + payload.len(),
            Self::Response { reply: RpcReply::Ok(payload), .. } => 64 + payload.len(),
            Self::Response { reply: RpcReply::Err(text), .. } => 64 + text.len(),
            Self::Frames(frames) | Self::Echo(frames) => frames.len(),
        }
    }
}

/// Bytes of a Raft message, roughly: what is long in it, and a share for the rest.
pub(crate) fn raft_bytes(message: &Message) -> usize {
    let entries = message.get_entries().iter();
    let entries = entries.map(|entry| 32 + entry.data.len() + entry.context.len()).sum::<usize>();
    64 + entries + message.context.len() + message.get_snapshot().data.len()
}

/// What became of a message that was put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It waits.
    Queued,
    /// It waits, in the place of an older heartbeat.
    Replaced,
    /// There was no room.
    Full,
}

#[derive(Debug)]
struct Bounded {
    items: VecDeque<(usize, Outgoing)>,
    bytes: usize,
    limits: QueueLimits,
}

impl Bounded {
    fn new(limits: QueueLimits) -> Self {
        Self { items: VecDeque::new(), bytes: 0, limits }
    }

    /// A single message may be larger than the bound on bytes: it waits alone.
    fn push(&mut self, item: Outgoing) -> bool {
        let weight = item.weight();
        let fits = self.bytes.saturating_add(weight) <= self.limits.bytes || self.items.is_empty();
        if !fits || self.items.len() >= self.limits.messages {
            return false;
        }
        self.bytes += weight;
        self.items.push_back((weight, item));
        true
    }

    fn pop(&mut self) -> Option<(usize, Outgoing)> {
        let (weight, item) = self.items.pop_front()?;
        self.bytes -= weight;
        Some((weight, item))
    }
}

/// A lane's queue.
#[derive(Debug)]
pub(crate) struct Queue {
    raft: Bounded,
    calls: Bounded,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self { raft: Bounded::new(limits), calls: Bounded::new(limits) }
    }

    /// Puts a message in. A heartbeat takes the place of one that still waits, which says nothing more than it does.
    pub(crate) fn put(&mut self, item: Outgoing) -> Put {
        let Outgoing::Raft(message) = item else {
            if let Outgoing::Echo(_) = item
                && let Some((_, older)) =
                    self.calls.items.iter_mut().find(|(_, item)| matches!(item, Outgoing::Echo(_)))
            {
                *older = item;
                return Put::Replaced;
            }
            return if self.calls.push(item) { Put::Queued } else { Put::Full };
        };
        if message.get_msg_type() == MessageType::MsgHeartbeat
            && let Some(older) = self.raft.items.iter_mut().find_map(|(_, item)| match item {
                Outgoing::Raft(older) if covers(&message, older) => Some(older),
                _ => None,
            })
        {
            *older = message;
            return Put::Replaced;
        }
        if self.raft.push(Outgoing::Raft(message)) { Put::Queued } else { Put::Full }
    }

    /// Takes everything out that fits into `bytes`, one message at least: Raft's first.
    pub(crate) fn drain_into(&mut self, batch: &mut Vec<Outgoing>, bytes: usize) {
        let mut taken = 0_usize;
        while taken < bytes
            && let Some((weight, item)) = self.raft.pop().or_else(|| self.calls.pop())
        {
            taken = taken.saturating_add(weight);
            batch.push(item);
        }
    }

    /// Takes out what may go between the chunks of a long message, up to `bytes`: acknowledgements of entries, whose order
    /// with entries that this node sends itself does not matter, and all that is not Raft's.
    pub(crate) fn drain_passing(&mut self, batch: &mut Vec<Outgoing>, bytes: usize) {
        let mut taken = 0_usize;
        let mut at = 0;
        while let Some((weight, item)) = self.raft.items.get(at) {
            let passes = matches!(item, Outgoing::Raft(message)
                if message.get_msg_type() == MessageType::MsgAppendResponse);
            if !passes || taken.saturating_add(*weight) > bytes {
                at += 1;
                continue;
            }
            if let Some((weight, item)) = self.raft.items.remove(at) {
                self.raft.bytes -= weight;
                taken += weight;
                batch.push(item);
            }
        }
        while taken < bytes
            && let Some((weight, item)) = self.calls.pop()
        {
            taken = taken.saturating_add(weight);
            batch.push(item);
        }
    }

    /// Forgets everything; how many Raft messages and calls that were.
    pub(crate) fn clear(&mut self) -> usize {
        let messages = self.messages();
        let (raft, calls) = (self.raft.limits, self.calls.limits);
        (self.raft, self.calls) = (Bounded::new(raft), Bounded::new(calls));
        messages
    }

    pub(crate) fn messages(&self) -> usize {
        self.raft.items.len() + self.calls.items.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.raft.bytes + self.calls.bytes
    }
}

/// Whether `newer` says everything that `older` does. One that carries a read request's mark is only replaced by one that carries a
/// mark too: the answer to a later mark confirms the earlier ones.
fn covers(newer: &Message, older: &Message) -> bool {
    older.get_msg_type() == MessageType::MsgHeartbeat
        && older.term <= newer.term
        && older.commit <= newer.commit
        && (older.context.is_empty() || !newer.context.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::prelude::Entry;

    const LIMITS: QueueLimits = QueueLimits { messages: 4, bytes: 10_000 };

    fn message(kind: MessageType, term: u64, commit: u64, context: &'static [u8]) -> Outgoing {
        let mut message = Message { term, commit, ..Message::default() };
        message.set_msg_type(kind);
        message.context = Bytes::from_static(context);
        Outgoing::Raft(Box::new(message))
    }

    fn append(bytes: usize) -> Outgoing {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        let entry = Entry { data: vec![0; bytes].into(), ..Entry::default() };
        message.set_entries(vec![entry].into());
        Outgoing::Raft(Box::new(message))
    }

    fn call(bytes: usize) -> Outgoing {
        Outgoing::Response { id: [0; 16], reply: RpcReply::Ok(vec![0; bytes].into()) }
    }

    fn drained(queue: &mut Queue, bytes: usize) -> Vec<Outgoing> {
        let mut batch = Vec::new();
        queue.drain_into(&mut batch, bytes);
        batch
    }

    #[test]
    fn a_newer_heartbeat_takes_the_place_of_an_older_one() {
        let mut queue = Queue::new(LIMITS);
        let heartbeat = MessageType::MsgHeartbeat;
        assert_eq!(queue.put(message(heartbeat, 3, 7, b"")), Put::Queued);
        assert_eq!(queue.put(message(MessageType::MsgRequestVote, 3, 0, b"")), Put::Queued);
        assert_eq!(queue.put(message(heartbeat, 3, 9, b"read")), Put::Replaced);
        assert_eq!(queue.put(message(heartbeat, 3, 9, b"")), Put::Queued, "it confirms no read");
        assert_eq!(queue.put(message(heartbeat, 3, 9, b"later")), Put::Replaced);
        let commits = drained(&mut queue, usize::MAX)
            .into_iter()
            .map(|item| match item {
                Outgoing::Raft(message) => (message.commit, message.context),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>();
        let expected = [(9, &b"later"[..]), (0, b""), (9, b"")];
        assert_eq!(commits, expected.map(|(commit, mark)| (commit, Bytes::from_static(mark))));
    }

    #[test]
    fn messages_and_bytes_are_bounded_and_calls_have_room_of_their_own() {
        let mut queue = Queue::new(LIMITS);
        assert_eq!(queue.put(append(20_000)), Put::Queued, "alone, whatever its size");
        assert_eq!(queue.put(append(1)), Put::Full);
        assert_eq!(queue.put(call(5000)), Put::Queued);
        assert_eq!(queue.put(call(6000)), Put::Full);
        assert_eq!(drained(&mut queue, usize::MAX).len(), 2);
        assert_eq!((queue.messages(), queue.bytes()), (0, 0));
        for _ in 0..4 {
            assert_eq!(queue.put(append(1)), Put::Queued);
        }
        assert_eq!(queue.put(append(1)), Put::Full);
        assert_eq!(queue.clear(), 4);
        assert_eq!((queue.messages(), queue.bytes()), (0, 0));
    }

    #[test]
    fn acknowledgements_and_calls_pass_entries_and_entries_pass_nothing() {
        let mut queue = Queue::new(QueueLimits { messages: 8, bytes: 10_000 });
        let acknowledgement = |index| {
            let mut message = Message { index, ..Message::default() };
            message.set_msg_type(MessageType::MsgAppendResponse);
            Outgoing::Raft(Box::new(message))
        };
        for item in [append(1), acknowledgement(1), append(2), acknowledgement(2), call(3)] {
            assert_eq!(queue.put(item), Put::Queued);
        }
        let mut passing = Vec::new();
        queue.drain_passing(&mut passing, usize::MAX);
        let indices: Vec<_> = passing
            .iter()
            .map(|item| match item {
                Outgoing::Raft(message) => message.index,
                _ => 0,
            })
            .collect();
        assert_eq!(indices, [1, 2, 0], "in order");
        let rest = drained(&mut queue, usize::MAX);
        assert!(matches!(rest[..], [Outgoing::Raft(_), Outgoing::Raft(_)]), "{rest:?}");
        assert_eq!((queue.messages(), queue.bytes()), (0, 0));
    }

    #[test]
    fn an_echo_takes_the_place_of_one_that_waits() {
        let mut queue = Queue::new(LIMITS);
        assert_eq!(queue.put(call(1)), Put::Queued);
        assert_eq!(queue.put(Outgoing::Echo(Bytes::from_static(b"1"))), Put::Queued);
        for _ in 0..1000 {
            assert_eq!(queue.put(Outgoing::Echo(Bytes::from_static(b"2"))), Put::Replaced);
        }
        let batch = drained(&mut queue, usize::MAX);
        assert!(matches!(&batch[..], [_, Outgoing::Echo(last)] if last == "2"), "{batch:?}");
    }

    #[test]
    fn a_batch_is_bounded_and_raft_goes_first() {
        let mut queue = Queue::new(LIMITS);
        assert_eq!(queue.put(call(10)), Put::Queued);
        assert_eq!(queue.put(append(3000)), Put::Queued);
        assert_eq!(queue.put(append(3000)), Put::Queued);
        let first = drained(&mut queue, 3000);
        assert!(matches!(first[..], [Outgoing::Raft(_)]), "{first:?}");
        let rest = drained(&mut queue, usize::MAX);
        assert!(matches!(rest[..], [Outgoing::Raft(_), Outgoing::Response { .. }]), "{rest:?}");
    }
}
