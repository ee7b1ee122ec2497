//! Holder and table together.
mod schedule;
mod table;
