//! What the consensus library logs (by slog) goes where everything else goes.
use std::fmt::Write as _;

use slog::{Drain, KV as _, Key, Level, Logger, Never, OwnedKVList, Record, Serializer};

/// A logger that speaks through `tracing`. Its lines are about elections and configurations: `debug`, but for what is wrong.
pub(super) fn tracing() -> Logger {
    Logger::root(ToTracing, slog::o!())
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), Never> {
        if record.level().is_at_least(Level::Warning) {
            tracing::warn!(target: "raft", "{}", Line(record));
        } else if record.level().is_at_least(Level::Info) {
            tracing::debug!(target: "raft", "{}", Line(record));
        } else {
            tracing::trace!(target: "raft", "{}", Line(record));
        }
        Ok(())
    }
}

struct Line<'a, 'r>(&'a Record<'r>);

impl std::fmt::Display for Line<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.msg())?;
        let mut pairs = Pairs(String::new());
        if self.0.kv().serialize(self.0, &mut pairs).is_ok() {
            f.write_str(&pairs.0)?;
        }
        Ok(())
    }
}

struct Pairs(String);

impl Serializer for Pairs {
    fn emit_arguments(&mut self, key: Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(slog::Error::from)
    }
}
