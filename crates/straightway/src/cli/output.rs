//! What people and programs see: tables, JSON, progress, errors.
use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::client::Progress;

/// Text that somebody else chose, such as a key, as a terminal can be trusted with: control characters are spelled out.
pub(super) fn harmless(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, char| {
        if char.is_control() {
            safe.extend(char.escape_default());
        } else {
            safe.push(char);
        }
        safe
    })
}

/// Prints an error and its causes: one a line for people, a list for programs.
pub(super) fn print_error(error: &(dyn Error + 'static), json: bool) {
    let mut chain = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        chain.push(error.to_string());
        cause = error.source();
    }
    if json {
        eprintln!("{}", serde_json::json!({ "error": chain }));
        return;
    }
    for (depth, line) in chain.iter().enumerate() {
        let line = harmless(line);
        eprintln!("{}{line}", if depth == 0 { "error: " } else { "  because: " });
    }
}

/// Prints a value as JSON on one line.
pub(super) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)
}

/// Prints a line; unlike `println!`, an end of the reader is an error and not a panic.
pub(super) fn print_line(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Prints rows under headings, in columns as wide as they need to be.
pub(super) fn print_table(headings: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| harmless(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut out = io::stdout().lock();
    let mut line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    line(&headings.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    rows.iter().try_for_each(|row| line(row))
}

/// A progress bar with rate and time to go; on a terminal only.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(what: &str, quiet: bool) -> Self {
        if quiet || !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        bar.set_style(Self::style("{msg} {bytes} {binary_bytes_per_sec} {elapsed}"));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }

    fn style(template: &str) -> ProgressStyle {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        self.0.set_style(Self::style(
            "{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
        ));
        self.0.set_length(bytes);
    }

    fn done(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}
