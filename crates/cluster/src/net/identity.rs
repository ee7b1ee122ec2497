//! Who this node is: its key, and the small record beside it, in a locked data folder.
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use iroh::SecretKey;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::members::{MemberAddress, WrittenMember};
use crate::error::ClusterError;
use crate::ids::{ClusterId, NodeKey, RaftId, StorageId};

const KEY_FILE: &str = "identity";
const RECORD_FILE: &str = "node.json";
const LOCK_FILE: &str = "lock";
/// A record of a few hundred bytes, or, while the members stand in it, of what an answer to a joiner may have; a file that is
/// longer is not one.
const MAX_RECORD_BYTES: u64 = 256 << 10;

/// What a node remembers of itself across starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeRecord {
    /// The cluster that it belongs to; `None` before it has joined.
    pub cluster: Option<ClusterId>,
    /// Its number there; 0 before it has joined.
    pub raft_id: RaftId,
    /// Its log; known before it asks to join, so that it asks as the same node when the answer was lost.
    pub storage: Option<StorageId>,
    /// The members, as it was told when it joined: good until the catalogue has come.
    pub members: Vec<MemberAddress>,
    /// How often it was started, this start included.
    pub boot: u64,
    /// Where it listened last.
    pub listen: Option<SocketAddr>,
    /// What people call it.
    pub name: String,
}

/// The record as it lies in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[serde(default)]
    cluster: Option<String>,
    #[serde(default)]
    raft_id: RaftId,
    #[serde(default)]
    storage: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    members: Vec<WrittenMember>,
    #[serde(default)]
    boot: u64,
    #[serde(default)]
    listen: Option<SocketAddr>,
    #[serde(default)]
    name: String,
}

impl Stored {
    fn of(record: &NodeRecord) -> Self {
        Self {
            cluster: record.cluster.map(|id| id.to_string()),
            raft_id: record.raft_id,
            storage: record.storage.map(|id| id.to_string()),
            members: record.members.iter().map(WrittenMember::from).collect(),
            boot: record.boot,
            listen: record.listen,
            name: record.name.clone(),
        }
    }

    fn into_record(self) -> Result<NodeRecord, String> {
        let bad = |what: &str| format!("`{what}` is no id");
        let cluster = self.cluster.map(|text| text.parse().map_err(|_| bad("cluster")));
        let storage = self.storage.map(|text| text.parse().map_err(|_| bad("storage")));
        Ok(NodeRecord {
            cluster: cluster.transpose()?,
            raft_id: self.raft_id,
            storage: storage.transpose()?,
            members: self.members.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            boot: self.boot,
            listen: self.listen,
            name: self.name,
        })
    }
}

/// A node's key and record. Its data folder is locked as long as this lives.
#[derive(Debug)]
pub struct Identity {
    folder: PathBuf,
    secret: SecretKey,
    record: NodeRecord,
    /// Held for its lock.
    _lock: File,
}

impl Identity {
    /// Opens a data folder, or makes one with a new key. Counts the start, durably.
    ///
    /// # Errors
    /// [`ClusterError::Config`] when another process uses the folder or others may read the key, [`ClusterError::Corrupt`]
    /// when key or record are damaged, [`ClusterError::File`].
    pub fn open(folder: &Path) -> Result<Self, ClusterError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(ClusterError::file("create the data folder", folder))?;
        let lock = lock(folder)?;
        let secret = match read_key(&folder.join(KEY_FILE))? {
            Some(secret) => secret,
            None => make_key(folder)?,
        };
        let record = read_record(&folder.join(RECORD_FILE))?.unwrap_or_default();
        let mut identity = Self { folder: folder.to_path_buf(), secret, record, _lock: lock };
        identity.update(|record| record.boot = record.boot.saturating_add(1))?;
        Ok(identity)
    }

    /// The public key.
    pub fn key(&self) -> NodeKey {
        NodeKey(*self.secret.public().as_bytes())
    }

    /// The key pair.
    pub fn secret(&self) -> &SecretKey {
        &self.secret
    }

    /// Which start this is, from 1 on.
    pub fn boot(&self) -> u64 {
        self.record.boot
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is remembered.
    pub fn record(&self) -> &NodeRecord {
        &self.record
    }

    /// Changes what is remembered, durably: after an error the former record holds.
    ///
    /// # Errors
    /// [`ClusterError::File`].
    pub fn update(&mut self, change: impl FnOnce(&mut NodeRecord)) -> Result<(), ClusterError> {
        let mut changed = self.record.clone();
        change(&mut changed);
        let path = self.folder.join(RECORD_FILE);
        let mut text = serde_json::to_vec_pretty(&Stored::of(&changed))
            .map_err(io::Error::from)
            .map_err(ClusterError::file("write", &path))?;
        text.push(b'\n');
        write_atomically(&self.folder, RECORD_FILE, &text)?;
        self.record = changed;
        Ok(())
    }
}

/// `N` random bytes from the system.
///
/// # Errors
/// [`ClusterError::Invalid`] when the system has none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], ClusterError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| ClusterError::Invalid {
        what: "the system's source of random numbers",
        reason: error.to_string(),
    })?;
    Ok(bytes)
}

fn lock(folder: &Path) -> Result<File, ClusterError> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(ClusterError::file("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ClusterError::Config {
            what: format!(
                "the data folder {} is in use by another process; stop it, or give this node another --data-dir",
                folder.display()
            ),
        }),
        Err(error) => Err(ClusterError::file("lock", path)(error.into())),
    }
}

fn read_key(path: &Path) -> Result<Option<SecretKey>, ClusterError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ClusterError::file("open", path)(error)),
    };
    let read = |error| ClusterError::file("read", path)(error);
    let mode = file.metadata().map_err(read)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ClusterError::Config {
            what: format!(
                "the key {0} may be read by others (mode {mode:04o}); if nobody has, run `chmod 600 {0}`, otherwise remove this node from the cluster and let it join anew",
                path.display()
            ),
        });
    }
    // One byte more than a key takes, so that what is longer is seen to be.
    let mut text = Vec::with_capacity(68);
    Read::by_ref(&mut file).take(67).read_to_end(&mut text).map_err(read)?;
    let key = HEXLOWER.decode(text.trim_ascii_end()).ok().and_then(|key| key.try_into().ok());
    let Some(key): Option<[u8; 32]> = key else {
        return Err(ClusterError::Corrupt {
            path: path.to_path_buf(),
            offset: 0,
            reason: "a key is 64 hexadecimal digits".to_owned(),
        });
    };
    Ok(Some(SecretKey::from_bytes(&key)))
}

fn make_key(folder: &Path) -> Result<SecretKey, ClusterError> {
    let secret = SecretKey::from_bytes(&random_bytes()?);
    let mut text = HEXLOWER.encode(&secret.to_bytes()).into_bytes();
    text.push(b'\n');
    write_atomically(folder, KEY_FILE, &text)?;
    Ok(secret)
}

fn read_record(path: &Path) -> Result<Option<NodeRecord>, ClusterError> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file
            .take(MAX_RECORD_BYTES)
            .read_to_end(&mut text)
            .map_err(ClusterError::file("read", path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ClusterError::file("open", path)(error)),
    };
    let parsed = serde_json::from_slice::<Stored>(&text).map_err(|error| error.to_string());
    let record = parsed.and_then(Stored::into_record);
    record.map(Some).map_err(|reason| ClusterError::Corrupt {
        path: path.to_path_buf(),
        offset: 0,
        reason,
    })
}

/// The file has its old content or its new one, whenever the power fails; only its owner can read it.
fn write_atomically(folder: &Path, name: &str, content: &[u8]) -> Result<(), ClusterError> {
    let path = folder.join(name);
    let temporary = folder.join(format!("{name}.new"));
    let write = || -> io::Result<()> {
        // Left over from a start that was cut short.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(ClusterError::file("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_counted_and_the_rest_is_kept() {
        let place = tempfile::tempdir().expect("folder");
        let folder = place.path().join("deep/data");
        let mut first = Identity::open(&folder).expect("made");
        assert_eq!((first.boot(), first.record().cluster), (1, None));
        let (cluster, storage) = (ClusterId([7; 16]), StorageId([9; 16]));
        let member = |id: u8, storage| MemberAddress {
            id: id.into(),
            key: NodeKey([id; 32]),
            addresses: vec![([127, 0, 0, 1], 4000 + u16::from(id)).into()],
            storage,
        };
        let members = vec![member(1, Some(StorageId([3; 16]))), member(2, None)];
        first
            .update(|record| {
                record.cluster = Some(cluster);
                record.storage = Some(storage);
                record.members.clone_from(&members);
                record.raft_id = 3;
                record.listen = Some(([127, 0, 0, 1], 4000).into());
                record.name = "north".to_owned();
            })
            .expect("written");
        let key = first.key();
        drop(first);
        let second = Identity::open(&folder).expect("opened");
        let expected = NodeRecord {
            cluster: Some(cluster),
            raft_id: 3,
            storage: Some(storage),
            members,
            boot: 2,
            listen: Some(([127, 0, 0, 1], 4000).into()),
            name: "north".to_owned(),
        };
        assert_eq!((second.key(), second.record()), (key, &expected));
        let mode = fs::metadata(folder.join(KEY_FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_folder_is_used_once_at_a_time() {
        let place = tempfile::tempdir().expect("folder");
        let held = Identity::open(place.path()).expect("made");
        let second = Identity::open(place.path()).expect_err("in use");
        assert!(second.to_string().contains("in use by another process"), "{second}");
        drop(held);
        assert_eq!(Identity::open(place.path()).expect("free").boot(), 2);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_way_out() {
        let place = tempfile::tempdir().expect("folder");
        drop(Identity::open(place.path()).expect("made"));
        let key = place.path().join(KEY_FILE);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("changed");
        let refused = Identity::open(place.path()).expect_err("readable").to_string();
        assert!(refused.contains(&format!("chmod 600 {}", key.display())), "{refused}");
    }

    #[test]
    fn damage_is_told_from_absence() {
        for (file, content) in [
            (KEY_FILE, &b"too short"[..]),
            (KEY_FILE, &[b'a'; 80]),
            (RECORD_FILE, b"{"),
            (RECORD_FILE, br#"{"cluster": "xyz"}"#),
            (RECORD_FILE, br#"{"members": [{"id": 1, "key": "xyz", "addresses": []}]}"#),
        ] {
            let place = tempfile::tempdir().expect("folder");
            drop(Identity::open(place.path()).expect("made"));
            let path = place.path().join(file);
            fs::write(&path, content).expect("written");
            let found = Identity::open(place.path());
            assert!(
                matches!(&found, Err(ClusterError::Corrupt { path: named, .. }) if *named == path),
                "{file}: {found:?}"
            );
        }
    }
}
