//! What the documents say of settings and statistics is what the program has.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
use std::process::Command;

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const README: &str = include_str!("../../../README.md");

#[test]
fn every_flag_of_serve_is_in_the_operations_document() {
    let output = Command::new(env!("CARGO_BIN_EXE_straightway"))
        .args(["serve", "--help"])
        .output()
        .expect("it runs");
    let help = String::from_utf8(output.stdout).expect("text");
    let flags: Vec<&str> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--"))
        .filter_map(|rest| rest.split([' ', '=', ',']).next())
        .collect();
    assert!(flags.len() > 20, "{help}");
    for flag in flags {
        assert!(
            OPERATIONS.contains(&format!("`--{flag}")),
            "--{flag} is not in docs/operations.md"
        );
    }
}

#[test]
fn the_table_of_metrics_is_the_one_that_the_program_makes() {
    for row in straightway::admin::table::markdown().lines() {
        assert!(OPERATIONS.contains(row), "docs/operations.md lacks: {row}");
    }
}

#[test]
fn the_readme_shows_both_commands() {
    for command in ["cargo run --release -- serve", "cargo xtask test"] {
        assert!(README.contains(command), "{command}");
    }
}
