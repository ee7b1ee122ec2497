//! `cargo xtask test`: every step in order, each timed, with one closing line.
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What may be skipped even where CI runs, and why.
const MAY_SKIP: &[(&str, &str)] =
    &[("cargo-deny", "takes minutes to build; run by those who release")];

/// A step: its name, and what it does.
type Step = (&'static str, fn(&mut Tally, bool));

const STEPS: &[Step] = &[
    ("packages", packages),
    ("fmt", |tally, _| tally.cargo("fmt", &["fmt", "--all", "--check"], &[])),
    ("clippy", |tally, _| {
        tally.cargo(
            "clippy",
            &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
            &[],
        );
    }),
    ("tests", tests),
    ("count", |tally, _| {
        // The allocation counts again as production runs: optimised, without debug assertions.
        let args = [
            "test",
            "--profile",
            "testrelease",
            "--package",
            "straightway-cache",
            "--package",
            "straightway-buffer",
        ];
        tally.cargo(
            "count",
            &[&args[..], &["--test", "hand_out", "--test", "alloc_count"]].concat(),
            &[],
        );
    }),
    ("doctests", |tally, _| tally.cargo("doctests", &["test", "--workspace", "--doc"], &[])),
    ("doc", |tally, _| {
        let args = ["doc", "--workspace", "--no-deps", "--document-private-items"];
        tally.cargo("doc", &args, &[("RUSTDOCFLAGS", "-D warnings")]);
    }),
    ("models", |tally, _| {
        let environment = [("RUSTFLAGS", "--cfg loom"), ("CARGO_TARGET_DIR", "target/loom")];
        tally.cargo("models", &["test", "--release", "--package", "models"], &environment);
    }),
    ("tidy", |tally, _| tally.note("tidy", crate::tidy::run())),
    ("deny", deny),
];

/// Runs the steps; `true` when all went well.
pub(crate) fn run(slow: bool, only: Option<&str>) -> bool {
    let mut tally = Tally::default();
    for (name, step) in STEPS.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        println!("==> {name}");
        let started = Instant::now();
        step(&mut tally, slow);
        println!("==> {name} took {:.0} s", started.elapsed().as_secs_f64());
    }
    tally.close()
}

#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skips: BTreeSet<String>,
}

impl Tally {
    fn cargo(&mut self, name: &str, args: &[&str], environment: &[(&str, &str)]) {
        let mut command = Command::new("cargo");
        command.args(args).envs(environment.iter().copied());
        self.command(name, &mut command);
    }

    /// Runs a command, shows what it prints, and counts the tests that it tells of (or itself, if it tells of none).
    fn command(&mut self, name: &str, command: &mut Command) {
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut child) = spawned else { return self.note(name, false) };
        let stderr = child.stderr.take();
        let errors =
            std::thread::spawn(move || stderr.map(|pipe| follow(pipe, true)).unwrap_or_default());
        let mut seen = child.stdout.take().map(|pipe| follow(pipe, false)).unwrap_or_default();
        seen.add(errors.join().unwrap_or_default());
        let good = child.wait().is_ok_and(|status| status.success());
        self.skips.extend(seen.skips);
        self.passed += seen.passed;
        self.failed += seen.failed;
        if seen.passed + seen.failed == 0 || (!good && seen.failed == 0) {
            self.note(name, good);
        }
    }

    fn note(&mut self, name: &str, good: bool) {
        if good {
            self.passed += 1;
        } else {
            self.failed += 1;
            println!("FAILED {name}");
        }
    }

    fn close(mut self) -> bool {
        let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        for skip in self.skips.clone() {
            let allowed = MAY_SKIP.iter().any(|(what, _)| skip.contains(what));
            println!("{skip}{}", if allowed { "" } else { " (must not be skipped where CI runs)" });
            if ci && !allowed {
                self.failed += 1;
            }
        }
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skips.len());
        self.failed == 0
    }
}

#[derive(Debug, Default)]
struct Seen {
    passed: u64,
    failed: u64,
    skips: Vec<String>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skips.extend(other.skips);
    }

    /// Takes note of a line: a skipped test, or the closing line of nextest or of cargo's own runner.
    fn line(&mut self, line: &str) {
        let text = line.trim();
        if text.starts_with("SKIP ") {
            self.skips.push(text.to_owned());
        }
        // Indented result lines are a test's own output, repeated by nextest; its summary counts them.
        if line.starts_with("test result:")
            || (text.starts_with("Summary [") && text.contains(" run:"))
        {
            self.passed += number_before(line, " passed");
            self.failed += number_before(line, " failed");
        }
    }
}

fn number_before(line: &str, word: &str) -> u64 {
    let before = line.split(word).next().filter(|before| before.len() < line.len());
    before
        .and_then(|before| before.rsplit(|c: char| !c.is_ascii_digit()).next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn follow(pipe: impl std::io::Read, error: bool) -> Seen {
    let mut seen = Seen::default();
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        if error {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
        seen.line(&line);
    }
    seen
}

fn has(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn packages(tally: &mut Tally, _slow: bool) {
    if has("strace") {
        return tally.note("packages", true);
    }
    println!("installing strace (apt-get install strace): the tests count system calls with it");
    let apt = |args: &[&str]| {
        Command::new("apt-get").args(args).status().is_ok_and(|status| status.success())
    };
    if apt(&["update", "-q"]) && apt(&["install", "-y", "-q", "strace"]) {
        tally.note("packages", true);
    } else {
        tally.skips.insert("SKIP strace could not be installed; install it by hand".to_owned());
    }
}

fn tests(tally: &mut Tally, slow: bool) {
    let environment: &[(&str, &str)] = if slow { &[("STRAIGHTWAY_SLOW", "1")] } else { &[] };
    // The models are built for loom, in a step of their own.
    let common = ["--workspace", "--exclude", "models", "--no-fail-fast"];
    if has("cargo-nextest") {
        let args = [&["nextest", "run", "--success-output", "final"][..], &common].concat();
        tally.cargo("tests", &args, environment);
    } else {
        tally.cargo(
            "tests",
            &[&["test", "--lib", "--bins", "--tests"][..], &common].concat(),
            environment,
        );
    }
}

fn deny(tally: &mut Tally, _slow: bool) {
    if has("cargo-deny") {
        tally.cargo("deny", &["deny", "check"], &[]);
    } else {
        let skip = "SKIP cargo-deny is not installed; licences and advisories were not checked";
        tally.skips.insert(skip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_both_runners_are_counted() {
        let mut seen = Seen::default();
        seen.line("     Summary [   5.953s] 57 tests run: 55 passed, 2 failed, 0 skipped");
        seen.line("     Summary [   5.953s] 1 test run: 1 passed, 0 skipped");
        seen.line("test result: ok. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s");
        seen.line("  SKIP no loop device");
        assert_eq!((seen.passed, seen.failed, seen.skips.len()), (59, 3, 1));
    }
}
