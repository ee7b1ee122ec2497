//! The `straightway` program: parses its arguments, runs one command, and turns the outcome into an exit code.
#![forbid(unsafe_code)]
use std::process::ExitCode;

fn main() -> ExitCode {
    straightway::cli::main()
}
