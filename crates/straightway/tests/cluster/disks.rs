//! A disk of its own for a node: an ext4 in a file, which can be full, and can stand still.
#![allow(unreachable_pub, reason = "a module of each test binary")]
#![allow(dead_code, reason = "each test binary uses its own part of this module")]
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cluster::sh;

/// A small disk, gone when dropped: after the nodes that live on it.
pub struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// `None`, with a visible reason, where none can be made.
    pub fn new(test: &str, mib: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("a sparse file");
        let disk = Self { folder };
        let (image, mount) = (image.display(), disk.path());
        std::fs::create_dir(&mount).expect("made");
        let mount = mount.display();
        let made = sh(&format!("mkfs.ext4 -q -m 0 {image} && mount -o loop {image} {mount}"));
        if let Err(reason) = made {
            println!(
                "SKIP {test}: a disk of its own needs root, mkfs.ext4 and a loop device: {reason}"
            );
            return None;
        }
        Some(disk)
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Leaves no room on it.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file");
        for len in [1 << 20, 4096, 1] {
            let zeros = vec![0; len];
            loop {
                match file.write_all(&zeros) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("the disk fails otherwise: {error}"),
                }
            }
        }
        file.sync_all().expect("it is there");
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.filler()).expect("removed");
    }

    /// Nothing can be written or flushed for so long, again and again: `times` with a moment between. Goes on by itself,
    /// so that no failure leaves a disk that stands still.
    pub fn stall(&self, seconds: f64, times: u32, moment: f64) -> Child {
        let mount = self.path();
        let mount = mount.display();
        let turn =
            format!("fsfreeze -f {mount}; sleep {seconds}; fsfreeze -u {mount}; sleep {moment}");
        let script = format!("for n in $(seq {times}); do {turn}; done");
        Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).spawn().expect("a shell")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mount = self.path();
        if is_mounted(&mount) {
            let mount = mount.display();
            // Fails where it does not stand still.
            drop(sh(&format!("fsfreeze -u {mount}")));
            drop(sh(&format!("umount {mount} || umount -l {mount}")));
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}
