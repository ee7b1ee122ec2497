//! `fsck`: checks a cache file offline.
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use straightway_cache::FsckReport;

use crate::cli::output::{Bar, print_json, print_line};
use crate::cli::{Failure, Global};
use crate::client::Progress;
use crate::config::units::human_bytes;

/// Arguments of `fsck`.
#[derive(Debug, Args)]
pub(super) struct Fsck {
    /// The cache file or block device
    file: PathBuf,
}

impl Fsck {
    pub(super) fn run(&self, global: &Global) -> Result<(), Failure> {
        let bar = Bar::new("checking", global.quiet);
        let report = straightway_cache::fsck(&self.file, |progress| bar.done(progress.bytes));
        bar.finish();
        let report = report?;
        if global.json {
            print_json(&as_json(&report))?;
        } else {
            self.tell(&report, global.quiet)?;
        }
        if report.is_clean() { Ok(()) } else { Err(Failure::Told) }
    }

    fn tell(&self, report: &FsckReport, quiet: bool) -> std::io::Result<()> {
        for what in &report.metadata_damage {
            print_line(&format!("metadata: {what}"))?;
        }
        for damage in &report.damaged {
            let key = damage.key.as_deref().unwrap_or("(key unreadable)");
            print_line(&format!("object {key} at byte {}: {}", damage.offset, damage.what))?;
        }
        if quiet {
            return Ok(());
        }
        let verdict =
            if report.is_clean() { "clean" } else { "DAMAGED: what is listed is served as a miss" };
        print_line(&format!(
            "{}: {verdict}; {} objects of {}, {} of {} regions in use",
            self.file.display(),
            report.objects,
            human_bytes(report.bytes),
            report.regions_used,
            report.regions,
        ))
    }
}

fn as_json(report: &FsckReport) -> serde_json::Value {
    let damaged =
        report.damaged.iter().map(|d| json!({ "key": d.key, "offset": d.offset, "what": d.what }));
    json!({
        "clean": report.is_clean(),
        "objects": report.objects,
        "bytes": report.bytes,
        "damaged": damaged.collect::<Vec<_>>(),
        "metadata_damage": report.metadata_damage,
        "capacity": report.capacity,
        "regions": report.regions,
        "regions_used": report.regions_used,
    })
}
