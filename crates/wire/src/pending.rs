//! Requests that wait for their answers.
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::WireError;
use crate::header::RequestId;
use crate::rpc::RpcResponseView;

type Answer = Result<RpcResponseView, WireError>;

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<RequestId, (u64, oneshot::Sender<Answer>)>,
    /// Tells requests apart that have had the same id, one after the other.
    serial: u64,
}

/// A bounded table of requests that wait for their answers. Clones are the same table.
#[derive(Debug, Clone)]
pub struct Pending {
    table: Arc<Mutex<Table>>,
    most: usize,
}

impl Pending {
    /// A table for at most `most` requests.
    pub fn new(most: usize) -> Self {
        Self { table: Arc::default(), most }
    }

    /// Waits for the answer to `id`, which is to be sent after this.
    ///
    /// # Errors
    /// [`WireError::Full`]; [`WireError::Invalid`] for an id that waits already.
    pub fn register(&self, id: RequestId) -> Result<PendingReply, WireError> {
        let mut table = self.lock();
        if table.waiting.len() >= self.most {
            return Err(WireError::Full { what: "the table of requests under way" });
        }
        if table.waiting.contains_key(&id) {
            let reason = "another request waits under it".to_owned();
            return Err(WireError::Invalid { what: "a request's id", reason });
        }
        let (sender, answer) = oneshot::channel();
        table.serial += 1;
        let serial = table.serial;
        table.waiting.insert(id, (serial, sender));
        Ok(PendingReply { id, serial, answer, pending: self.clone() })
    }

    /// Gives an answer to whoever waits for it; `false`: nobody does (any more).
    pub fn complete(&self, id: RequestId, answer: Answer) -> bool {
        let waiting = self.lock().waiting.remove(&id);
        waiting.is_some_and(|(_, waiting)| waiting.send(answer).is_ok())
    }

    /// Ends the waiting of all, because no answer will come.
    pub fn fail_all(&self, reason: &'static str) {
        let all = std::mem::take(&mut self.lock().waiting);
        for (_, waiting) in all.into_values() {
            // Who has stopped waiting does not mind.
            drop(waiting.send(Err(WireError::GivenUp { reason })));
        }
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to come. Dropping it forgets the request: an answer that comes later is nobody's.
#[derive(Debug)]
#[must_use = "the answer is lost"]
pub struct PendingReply {
    id: RequestId,
    serial: u64,
    answer: oneshot::Receiver<Answer>,
    pending: Pending,
}

impl Future for PendingReply {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|answer| {
            answer.unwrap_or(Err(WireError::GivenUp { reason: "nobody is left who could answer" }))
        })
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        let mut table = self.pending.lock();
        if table.waiting.get(&self.id).is_some_and(|(serial, _)| *serial == self.serial) {
            table.waiting.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn answer() -> Answer {
        RpcResponseView::decode(Bytes::from_static(&[1, 0, 0, 0]))
    }

    #[tokio::test]
    async fn answers_find_their_requests() {
        let pending = Pending::new(2);
        let first = pending.register([1; 16]).expect("room");
        let second = pending.register([2; 16]).expect("room");
        assert!(matches!(pending.register([3; 16]), Err(WireError::Full { .. })));
        assert!(pending.complete([2; 16], answer()));
        assert!(!pending.complete([2; 16], answer()), "answered already");
        assert!(second.await.expect("answered").success());
        assert!(matches!(pending.register([1; 16]), Err(WireError::Invalid { .. })));
        drop(first);
        assert!(pending.is_empty(), "forgotten");
        assert!(!pending.complete([1; 16], answer()));
    }

    #[tokio::test]
    async fn a_request_that_is_over_takes_no_other_with_it() {
        let pending = Pending::new(2);
        let first = pending.register([1; 16]).expect("room");
        assert!(pending.complete([1; 16], answer()));
        let second = pending.register([1; 16]).expect("the id is free again");
        drop(first);
        assert!(pending.complete([1; 16], answer()), "it still waits");
        assert!(second.await.expect("answered").success());
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let pending = Pending::new(2);
        let reply = pending.register([1; 16]).expect("room");
        pending.fail_all("the connection was lost");
        let error = reply.await.expect_err("given up");
        assert!(error.to_string().contains("the connection was lost"));
    }
}
