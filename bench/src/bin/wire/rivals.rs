//! The messages as prost has them, with byte strings of their own and with shared ones.
use raft::prelude as raft;

macro_rules! prost_messages {
    ($module:ident, $kind:tt, $bytes:ty) => {
        pub mod $module {
            #[derive(Clone, PartialEq, prost::Message)]
            pub struct Entry {
                #[prost(int32, tag = "1")]
                pub entry_type: i32,
                #[prost(uint64, tag = "2")]
                pub term: u64,
                #[prost(uint64, tag = "3")]
                pub index: u64,
                #[prost(bytes = $kind, tag = "4")]
                pub data: $bytes,
                #[prost(bytes = $kind, tag = "6")]
                pub context: $bytes,
                #[prost(bool, tag = "5")]
                pub sync_log: bool,
            }

            #[derive(Clone, PartialEq, prost::Message)]
            pub struct ConfState {
                #[prost(uint64, repeated, packed = "false", tag = "1")]
                pub voters: Vec<u64>,
                #[prost(uint64, repeated, packed = "false", tag = "2")]
                pub learners: Vec<u64>,
                #[prost(uint64, repeated, packed = "false", tag = "3")]
                pub voters_outgoing: Vec<u64>,
                #[prost(uint64, repeated, packed = "false", tag = "4")]
                pub learners_next: Vec<u64>,
                #[prost(bool, tag = "5")]
                pub auto_leave: bool,
            }

            #[derive(Clone, PartialEq, prost::Message)]
            pub struct SnapshotMetadata {
                #[prost(message, optional, tag = "1")]
                pub conf_state: Option<ConfState>,
                #[prost(uint64, tag = "2")]
                pub index: u64,
                #[prost(uint64, tag = "3")]
                pub term: u64,
            }

            #[derive(Clone, PartialEq, prost::Message)]
            pub struct Snapshot {
                #[prost(bytes = $kind, tag = "1")]
                pub data: $bytes,
                #[prost(message, optional, tag = "2")]
                pub metadata: Option<SnapshotMetadata>,
            }

            #[derive(Clone, PartialEq, prost::Message)]
            pub struct Message {
                #[prost(int32, tag = "1")]
                pub msg_type: i32,
                #[prost(uint64, tag = "2")]
                pub to: u64,
                #[prost(uint64, tag = "3")]
                pub from: u64,
                #[prost(uint64, tag = "4")]
                pub term: u64,
                #[prost(uint64, tag = "5")]
                pub log_term: u64,
                #[prost(uint64, tag = "6")]
                pub index: u64,
                #[prost(message, repeated, tag = "7")]
                pub entries: Vec<Entry>,
                #[prost(uint64, tag = "8")]
                pub commit: u64,
                #[prost(uint64, tag = "15")]
                pub commit_term: u64,
                #[prost(message, optional, tag = "9")]
                pub snapshot: Option<Snapshot>,
                #[prost(uint64, tag = "13")]
                pub request_snapshot: u64,
                #[prost(bool, tag = "10")]
                pub reject: bool,
                #[prost(uint64, tag = "11")]
                pub reject_hint: u64,
                #[prost(bytes = $kind, tag = "12")]
                pub context: $bytes,
                #[prost(uint64, tag = "14")]
                pub deprecated_priority: u64,
                #[prost(int64, tag = "16")]
                pub priority: i64,
            }

            impl From<&super::raft::Message> for Message {
                fn from(m: &super::raft::Message) -> Self {
                    let entry = |entry: &super::raft::Entry| Entry {
                        entry_type: entry.entry_type as i32,
                        term: entry.term,
                        index: entry.index,
                        data: <$bytes>::from(entry.data.clone()),
                        ..Entry::default()
                    };
                    Self {
                        msg_type: m.msg_type as i32,
                        to: m.to,
                        from: m.from,
                        term: m.term,
                        log_term: m.log_term,
                        index: m.index,
                        entries: m.entries.iter().map(entry).collect(),
                        commit: m.commit,
                        ..Self::default()
                    }
                }
            }
        }
    };
}
prost_messages!(owned, "vec", Vec<u8>);
prost_messages!(shared, "bytes", bytes::Bytes);
