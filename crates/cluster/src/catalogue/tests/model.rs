//! Random logs against a model that is too simple to be wrong, on every way that a state can come about.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq)]
struct Simple {
    object: u64,
    tags: Vec<String>,
    expires_ms: u64,
    holders: Vec<u64>,
    copies: u8,
    evicted: u8,
    index: u64,
}

#[derive(Debug, Default)]
struct Model {
    entries: BTreeMap<String, Simple>,
    boots: HashMap<u64, u64>,
    answers: HashMap<RequestId, Outcome>,
}

impl Model {
    fn apply(
        &mut self,
        index: u64,
        RequestId { node, boot, serial }: RequestId,
        op: &Op,
    ) -> Outcome {
        if !(1..=3).contains(&node) {
            return Outcome::Refused(Refusal::NotAMember);
        }
        let newest = self.boots.entry(node).or_insert(boot);
        if boot < *newest {
            return Outcome::Refused(Refusal::OldBoot);
        }
        *newest = boot;
        let request = RequestId { node, boot, serial };
        if let Some(answer) = self.answers.get(&request) {
            return *answer;
        }
        let outcome = self.perform(index, op);
        self.answers.insert(request, outcome);
        outcome
    }

    fn met(&self, key: &str, condition: Condition, now_ms: u64) -> (bool, bool) {
        let live = |entry: &&Simple| entry.expires_ms == 0 || entry.expires_ms > now_ms;
        let entry = self.entries.get(key).filter(live);
        let met = match condition {
            Condition::Any => true,
            Condition::Absent => entry.is_none(),
            Condition::Present => entry.is_some(),
            Condition::Digest(digest) => entry.is_some_and(|e| put("", e.object).digest == digest),
            Condition::Version(index) => entry.is_some_and(|e| e.index == index),
        };
        (entry.is_some(), met)
    }

    fn remove_if(&mut self, gone: impl Fn(&str, &Simple) -> bool) -> u64 {
        let before = self.entries.len();
        self.entries.retain(|key, entry| !gone(key, entry));
        (before - self.entries.len()) as u64
    }

    fn perform(&mut self, index: u64, op: &Op) -> Outcome {
        match op {
            Op::Put(put) => {
                let object = put.object.serial;
                if self.entries.iter().any(|(key, entry)| entry.object == object && *key != put.key)
                {
                    return Outcome::Refused(Refusal::ObjectInUse);
                }
                let holders: Vec<u64> = (1..=3).filter(|id| put.holders.contains(id)).collect();
                if holders.is_empty() {
                    return Outcome::Refused(Refusal::UnknownMember);
                }
                let (replaced, met) = self.met(&put.key, put.condition, put.now_ms);
                if !met {
                    return Outcome::Failed;
                }
                let Put { tags, expires_ms, copies, .. } = put.clone();
                let entry = Simple { object, tags, expires_ms, holders, copies, evicted: 0, index };
                self.entries.insert(put.key.clone(), entry);
                Outcome::Put { replaced }
            }
            Op::Remove(remove) => {
                let (live, met) = self.met(&remove.key, remove.condition, remove.now_ms);
                if !met {
                    return Outcome::Failed;
                }
                self.entries.remove(&remove.key);
                Outcome::Removed(live)
            }
            Op::Purge(Purge { scope, value }) => Outcome::Purged(match scope {
                Scope::Key => self.remove_if(|key, _| key == value),
                Scope::Prefix => self.remove_if(|key, _| key.starts_with(value)),
                Scope::Tag => self.remove_if(|_, entry| entry.tags.contains(value)),
                Scope::All => self.remove_if(|_, _| true),
            }),
            Op::Holders(Holders { node, gained, lost, damaged }) => {
                if !(1..=3).contains(node) {
                    return Outcome::Refused(Refusal::UnknownMember);
                }
                for entry in self.entries.values_mut() {
                    let named = |ids: &[ObjectId]| ids.iter().any(|id| id.serial == entry.object);
                    if named(gained) && !entry.holders.contains(node) {
                        entry.holders.push(*node);
                        let held = u8::try_from(entry.holders.len()).expect("three members");
                        entry.evicted = entry.evicted.min(entry.copies.saturating_sub(held));
                        entry.holders.sort_unstable();
                    }
                    if named(lost) && entry.holders.contains(node) {
                        let had = u8::try_from(entry.holders.len()).expect("three members");
                        entry.evicted += u8::from(had + entry.evicted <= entry.copies);
                        entry.holders.retain(|id| id != node);
                    }
                    if named(damaged) {
                        entry.holders.retain(|id| id != node);
                    }
                }
                self.remove_if(|_, entry| entry.holders.is_empty());
                Outcome::Done
            }
            Op::Expire(Expire { now_ms, objects }) => {
                let named = |entry: &Simple| objects.iter().any(|id| id.serial == entry.object);
                let over = |entry: &Simple| entry.expires_ms != 0 && entry.expires_ms <= *now_ms;
                Outcome::Expired(self.remove_if(|_, entry| named(entry) && over(entry)))
            }
            _ => Outcome::Done,
        }
    }
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "a/", "a/1", "a/1/x", "b", "é", "éa", "z"])
        .prop_map(String::from)
}

fn tags() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(vec!["red", "green", "blue"]), 0..3)
        .prop_map(|tags| tags.into_iter().map(String::from).collect())
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        4 => Just(Condition::Any),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Present),
        1 => (0..60_u64).prop_map(|serial| Condition::Digest(put("", serial).digest)),
        1 => (6..60_u64).prop_map(Condition::Version),
    ]
}

fn ids() -> impl Strategy<Value = Vec<ObjectId>> {
    prop::collection::vec((0..60_u64).prop_map(object), 0..12)
}

fn op() -> impl Strategy<Value = Op> {
    let clock = || prop::sample::select(vec![100_u64, 200, 300]);
    let expiry = prop::sample::select(vec![0_u64, 150, 250, 350]);
    let puts = (
        key(),
        0..60_u64,
        tags(),
        condition(),
        (prop::collection::vec(1..5_u64, 0..4), 0..5_u8),
        expiry,
        clock(),
    );
    let puts = puts.prop_map(|(key, serial, tags, condition, held, expires_ms, now_ms)| {
        let (holders, copies) = held;
        Op::Put(Put { tags, expires_ms, now_ms, condition, holders, copies, ..put(&key, serial) })
    });
    let purges = prop_oneof![
        key().prop_map(|value| (Scope::Key, value)),
        prop_oneof![key(), Just(String::new())].prop_map(|value| (Scope::Prefix, value)),
        Just((Scope::Tag, "red".to_owned())),
        Just((Scope::All, String::new())),
    ];
    prop_oneof![
        12 => puts,
        2 => (key(), condition(), clock())
            .prop_map(|(key, condition, now_ms)| Op::Remove(Remove { key, condition, now_ms })),
        1 => purges.prop_map(|(scope, value)| Op::Purge(Purge { scope, value })),
        3 => (1..5_u64, ids(), ids(), ids()).prop_map(|(node, gained, lost, damaged)| {
            Op::Holders(Holders { node, gained, lost, damaged })
        }),
        1 => (clock(), ids()).prop_map(|(now_ms, objects)| Op::Expire(Expire { now_ms, objects })),
        1 => Just(Op::Noop),
    ]
}

/// Requests whose serials repeat now and then.
fn commands() -> impl Strategy<Value = Vec<(RequestId, Op)>> {
    let request = (1..5_u64, prop_oneof![9 => Just(1_u64), 1 => Just(2), 1 => Just(0)], 0..60_u64);
    let request =
        request.prop_map(|(node, boot, serial)| RequestId { node, boot, serial: serial + 100 });
    prop::collection::vec((request, op()), 1..50)
}

fn check(catalogue: &Catalogue, model: &Model) -> Result<(), TestCaseError> {
    let found: BTreeMap<String, Simple> = catalogue
        .list("", None, usize::MAX)
        .iter()
        .map(|entry| {
            let simple = Simple {
                object: entry.object.serial,
                tags: entry.tags.iter().map(ToString::to_string).collect(),
                expires_ms: entry.expires_ms,
                holders: entry.holders.to_vec(),
                copies: entry.copies,
                evicted: entry.evicted,
                index: entry.index,
            };
            (entry.key.to_string(), simple)
        })
        .collect();
    prop_assert_eq!(&found, &model.entries);
    prop_assert_eq!(catalogue.bytes(), 10 * found.len() as u64);
    let mut over: Vec<u64> =
        found.values().map(|e| e.expires_ms).filter(|ms| (1..=250).contains(ms)).collect();
    over.sort_unstable();
    let listed = catalogue.expired(250, usize::MAX);
    let listed: Vec<_> =
        listed.iter().filter_map(|id| catalogue.by_object(*id)).map(|e| e.expires_ms).collect();
    prop_assert_eq!(listed, over);
    let few = |e: &&Simple| usize::from(e.copies - e.evicted) > e.holders.len();
    let few: BTreeSet<u64> = found.values().filter(few).map(|entry| entry.index).collect();
    let listed = catalogue.short(.., usize::MAX);
    prop_assert_eq!(catalogue.short_len(), few.len());
    prop_assert!(listed.iter().map(|entry| entry.index).eq(few));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn all_ways_lead_to_the_same_state(commands in commands(), batch in 1..20_usize, reopened in 0..60_usize, synced: bool) {
        let mut log = Log::of_three();
        let mut model = Model::default();
        // The requests that let members 2 and 3 in.
        model.boots.insert(1, 1);
        let begun = log.entries.len();
        for (request, op) in &commands {
            log.push_as(*request, op.clone());
        }
        let (memory, applied) = log.replayed();
        let mut live: Vec<ObjectId> = Vec::new();
        for ((request, op), applied) in commands.iter().zip(&applied[begun..]) {
            let known = model.answers.contains_key(request);
            let outcome = model.apply(applied.index, *request, op);
            prop_assert_eq!(applied.outcome, outcome);
            prop_assert_eq!(applied.request, Some(*request));
            if applied.duplicate {
                prop_assert!(known && applied.events.is_empty() && applied.forget.is_empty());
            }
            // Whatever came and is not there any more was forgotten by the command that took it away.
            let now: Vec<ObjectId> = model.entries.values().map(|e| object(e.object)).collect();
            for gone in live.iter().filter(|id| !now.contains(id)) {
                prop_assert!(applied.forget.contains(gone));
            }
            prop_assert!(applied.forget.iter().all(|id| !now.contains(id)));
            live = now;
        }
        check(&memory, &model)?;
        let digest = memory.state_digest();

        // The same log on a disk, in other batches, with a stop in the middle.
        let folder = tempfile::tempdir().expect("a folder");
        let disk = started(Catalogue::open(folder.path()).expect("a catalogue"));
        let cut = reopened.min(log.entries.len());
        Log { serial: 0, entries: log.entries[..cut].to_vec() }.feed(&disk, batch);
        if synced {
            prop_assert_eq!(disk.sync().expect("synced"), cut as u64 + 1);
        }
        drop(disk);
        let disk = Catalogue::open(folder.path()).expect("opened again");
        prop_assert_eq!(disk.applied().index, cut as u64 + 1);
        log.feed(&disk, batch);
        prop_assert_eq!(disk.state_digest(), digest);
        drop(disk);
        let disk = Catalogue::open(folder.path()).expect("opened again");
        check(&disk, &model)?;
        prop_assert_eq!(disk.state_digest(), digest);

        // Through a snapshot, into an empty catalogue and over an older one.
        let (bytes, manifest) = bytes_of(disk.snapshot().expect("a snapshot"));
        prop_assert_eq!(manifest.mark.index, log.entries.len() as u64 + 1);
        let other = Catalogue::volatile().expect("a catalogue");
        install(&other, &bytes, 1 + batch * 100).expect("installed");
        prop_assert_eq!(other.state_digest(), digest);
        let folder = tempfile::tempdir().expect("a folder");
        let older = started(Catalogue::open(folder.path()).expect("a catalogue"));
        Log { serial: 0, entries: log.entries[..cut.min(log.entries.len() - 1)].to_vec() }.feed(&older, batch);
        let before = older.list("", None, usize::MAX);
        let installed = install(&older, &bytes, usize::MAX).expect("installed");
        prop_assert_eq!(older.state_digest(), digest);
        for entry in before {
            prop_assert_eq!(installed.forget.contains(&entry.object), older.by_object(entry.object).is_none());
        }
        check(&older, &model)?;
    }
}
