//! Configuration: flags over `STRAIGHTWAY_*` environment over `straightway.toml` over defaults.
//!
//! [`options::ServeOptions`] is the one table of what can be set: it yields the flags, their help, the environment
//! variables and the keys of the file (a flag's long name with underscores). [`settings`] holds the checked result.
pub mod options;
pub mod settings;
pub mod units;
