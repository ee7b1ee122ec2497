//! The tests once more, with threads that are late at random: what holds only when the machine is quick fails here.
use std::path::Path;
use std::process::Command;

/// What is preloaded.
const SOURCE: &str = "xtask/stress/late.c";
const LIBRARY: &str = "target/stress/late.so";
/// Deliveries by the ten thousand take too long when one call in so many is late.
const WITHOUT: &str = "not binary(feed_many)";
/// Most of the time nothing runs.
const AT_A_TIME: &str = "6";

/// `one_in` system calls is late by up to `most_ms` milliseconds; `filter` is nextest's. Whether all passed, so many times.
pub(crate) fn run(times: u32, one_in: u32, most_ms: u32, filter: &str) -> bool {
    let made = Path::new(LIBRARY).parent().is_some_and(|at| std::fs::create_dir_all(at).is_ok());
    let compile = ["-Wall", "-Wextra", "-O2", "-shared", "-fPIC", "-o", LIBRARY, SOURCE, "-ldl"];
    if !made || !Command::new("cc").args(compile).status().is_ok_and(|status| status.success()) {
        println!(
            "{SOURCE} could not be compiled; this needs Linux with glibc and a C compiler, `cc`"
        );
        return false;
    }
    let (Ok(library), Some(runner)) = (std::fs::canonicalize(LIBRARY), runner()) else {
        println!("{LIBRARY} cannot be found, or `rustc` does not say what it builds for");
        return false;
    };
    let preload = format!("env LD_PRELOAD={}", library.display());
    let filter = format!("({WITHOUT}) and ({filter})");
    let tests = ["nextest", "run", "--workspace", "--all-features", "--exclude", "models"];
    let options = ["--no-fail-fast", "--test-threads", AT_A_TIME, "-E", &filter];
    (1..=times).all(|round| {
        println!("==> round {round} of {times}: one call in {one_in} late by up to {most_ms} ms");
        let mut command = Command::new("cargo");
        command.args(tests).args(options).env(&runner, &preload);
        command.env("LATE_ONE_IN", one_in.to_string()).env("LATE_MOST_MS", most_ms.to_string());
        command.status().is_ok_and(|status| status.success())
    })
}

/// The variable that names what tests are run by.
fn runner() -> Option<String> {
    let asked = Command::new("rustc").args(["--print", "host-tuple"]).output().ok()?;
    let host = String::from_utf8(asked.stdout).ok()?.trim().to_uppercase().replace(['-', '.'], "_");
    (!host.is_empty()).then(|| format!("CARGO_TARGET_{host}_RUNNER"))
}
