//! The node as a member of a cluster: the cluster's objects in this node's cache, and its answers over HTTP.
//!
//! The catalogue says what a key has; the cache keeps bytes under the object's own name, which no client can ask for.
mod import;
mod observe;
mod read;
mod store;
mod sweep;
mod write;

pub(crate) use import::run as import;
pub(crate) use observe::ClusterObserver;
pub(crate) use read::{Begun, Found, Rest, bring, find, not_served, part, rest, stream};
pub(crate) use store::{CacheStore, is_object_key, meta_of, object_key, options};
pub(crate) use sweep::run as sweep;
pub(crate) use write::{condition, purge, put, remove};
