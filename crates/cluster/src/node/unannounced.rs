//! Objects whose bytes may be on disks before the catalogue knows of them: those of puts under way.
//!
//! Only the node that gave an object its number knows whether it may still be announced; whoever finds bytes that no key has
//! asks it before removing them.
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use super::{Cluster, Shared, rpc};
use crate::error::ClusterError;
use crate::ids::{ObjectId, RaftId};

/// Objects asked after at once.
const MAX_IDS: usize = 2048;
/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
const ID_BYTES: usize = 16;

/// Numbers that have been given to objects of puts under way.
#[derive(Debug, Default)]
pub(super) struct Unannounced(Mutex<HashSet<ObjectId>>);

/// A number for an object that is to be put. As long as this is there, its bytes are left alone wherever they are.
pub struct NewObject {
    shared: Arc<Shared>,
    id: ObjectId,
}

impl std::fmt::Debug for NewObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NewObject").field(&self.id).finish()
    }
}

impl NewObject {
    /// The number.
    pub fn id(&self) -> ObjectId {
        self.id
    }
}

impl Drop for NewObject {
    fn drop(&mut self) {
        self.shared.unannounced.0.lock().remove(&self.id);
    }
}

impl Cluster {
    /// A name for an object that is about to be stored here.
    pub fn new_object(&self) -> NewObject {
        let shared = self.0.clone();
        let serial = shared.serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = ObjectId { node: shared.id, serial };
        shared.unannounced.0.lock().insert(id);
        NewObject { shared, id }
    }

    /// Which of these objects no put will announce any more. Those of members that cannot be asked are not among them.
    pub async fn abandoned(&self, objects: impl IntoIterator<Item = ObjectId>) -> Vec<ObjectId> {
        let mut by_node: BTreeMap<RaftId, Vec<ObjectId>> = BTreeMap::new();
        for object in objects {
            by_node.entry(object.node).or_default().push(object);
        }
        let mut abandoned = Vec::new();
        for (node, objects) in by_node {
            if node == self.0.id {
                let under_way = self.0.unannounced.0.lock();
                abandoned.extend(objects.into_iter().filter(|id| !under_way.contains(id)));
            } else if self.0.catalogue.member(node).is_none() {
                abandoned.extend(objects);
            } else {
                for some in objects.chunks(MAX_IDS) {
                    match self.0.ask_unannounced(node, some).await {
                        Ok(under_way) => {
                            abandoned.extend(some.iter().filter(|id| !under_way.contains(id)));
                        }
                        Err(error) => {
                            tracing::debug!(%error, node, "bytes of its puts are left for now");
                            break;
                        }
                    }
                }
            }
        }
        // What has been announced meanwhile is everybody's business. Its member may know that before this one does.
        if abandoned.is_empty() || self.0.barrier(PATIENCE).await.is_err() {
            return Vec::new();
        }
        abandoned.retain(|id| self.0.catalogue.by_object(*id).is_none());
        abandoned
    }
}

impl Shared {
    async fn ask_unannounced(
        &self,
        node: RaftId,
        objects: &[ObjectId],
    ) -> Result<HashSet<ObjectId>, ClusterError> {
        let answer = self.call(node, rpc::UNANNOUNCED, encode(objects.iter().copied()), PATIENCE);
        Ok(decode(&answer.await?)?.collect())
    }

    /// Another member asks which of these objects may still be announced.
    pub(super) fn unannounced(&self, payload: &[u8]) -> Result<Bytes, ClusterError> {
        let under_way = self.unannounced.0.lock();
        Ok(encode(decode(payload)?.filter(|id| under_way.contains(id))))
    }
}

fn encode(objects: impl Iterator<Item = ObjectId>) -> Bytes {
    let mut bytes = BytesMut::new();
    objects.for_each(|object| bytes.put_slice(&object.to_bytes()));
    bytes.freeze()
}

fn decode(bytes: &[u8]) -> Result<impl Iterator<Item = ObjectId>, ClusterError> {
    let (ids, rest) = bytes.as_chunks::<ID_BYTES>();
    if !rest.is_empty() {
        let reason = format!("{} bytes are no list of objects", bytes.len());
        return Err(ClusterError::Invalid { what: "a question after objects", reason });
    }
    Ok(ids.iter().map(|id| ObjectId::from_bytes(*id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_objects_are_read_as_written_or_refused() {
        let objects = [ObjectId { node: 1, serial: 2 }, ObjectId { node: 3, serial: u64::MAX }];
        let bytes = encode(objects.into_iter());
        assert_eq!(decode(&bytes).unwrap().collect::<Vec<_>>(), objects);
        assert_eq!(decode(&[]).unwrap().count(), 0);
        assert!(decode(&bytes[1..]).is_err());
    }
}
