//! `cargo xtask test`: every step in order, each timed, with one closing line.
mod autobahn;
mod output;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Instant;

use output::Seen;

/// What may be skipped even where CI runs: how its line begins, and why.
const MAY_SKIP: &[(&str, &str)] = &[
    ("SKIP cargo-deny ", "takes minutes to build; run by those who release"),
    (
        "SKIP autobahn ",
        "the suite is written for Python 2.7; the same cases are tests of the codec",
    ),
    ("SKIP miri ", "needs a nightly toolchain, which users need not have"),
];

/// A step: its name, and what it does.
type Step = (&'static str, fn(&mut Tally, bool));

const STEPS: &[Step] = &[
    ("packages", packages),
    ("fmt", |tally, _| tally.cargo("fmt", &["fmt", "--all", "--check"], &[])),
    ("clippy", |tally, _| {
        let args =
            ["clippy", "--workspace", "--all-features", "--all-targets", "--", "-D", "warnings"];
        tally.cargo("clippy", &args, &[]);
    }),
    ("tests", tests),
    ("count", count),
    ("doctests", |tally, _| {
        tally.cargo("doctests", &["test", "--workspace", "--all-features", "--doc"], &[]);
    }),
    ("doc", |tally, _| {
        let args =
            ["doc", "--workspace", "--all-features", "--no-deps", "--document-private-items"];
        tally.cargo("doc", &args, &[("RUSTDOCFLAGS", "-D warnings")]);
    }),
    ("loom", |tally, _| {
        let environment = [("RUSTFLAGS", "--cfg loom"), ("CARGO_TARGET_DIR", "target/loom")];
        tally.tests(
            "loom",
            &[
                "test",
                "--release",
                "--lib",
                "--package",
                "models",
                "--package",
                "straightway-buffer",
            ],
            &environment,
        );
    }),
    ("autobahn", autobahn),
    ("miri", miri),
    ("fuzz", fuzz),
    ("tidy", |tally, _| tally.note("tidy", crate::tidy::run())),
    ("deny", deny),
];

/// The names of the steps, in order.
pub(crate) fn names() -> Vec<&'static str> {
    STEPS.iter().map(|(name, _)| *name).collect()
}

/// Runs the steps, or only one; `true` when all went well.
pub(crate) fn run(slow: bool, only: Option<&str>) -> bool {
    let mut tally = Tally::default();
    for (name, step) in STEPS.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        println!("==> {name}");
        let started = Instant::now();
        step(&mut tally, slow);
        println!("==> {name} took {:.0} s", started.elapsed().as_secs_f64());
    }
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    let (lines, good) = tally.close(ci);
    for line in lines {
        println!("{line}");
    }
    good
}

#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    skips: BTreeSet<String>,
    /// The steps that failed, by name.
    broken: BTreeSet<&'static str>,
}

impl Tally {
    /// Runs a check, which counts as one, or as the tests that it tells of.
    fn cargo(&mut self, name: &'static str, args: &[&str], environment: &[(&str, &str)]) {
        self.command(name, args, environment, true);
    }

    /// Runs tests: none at all is a failure, because a cfg or a name has lost them.
    fn tests(&mut self, name: &'static str, args: &[&str], environment: &[(&str, &str)]) {
        self.command(name, args, environment, false);
    }

    fn command(&mut self, name: &'static str, args: &[&str], set: &[(&str, &str)], bare: bool) {
        println!("cargo {}", args.join(" "));
        let mut command = Command::new("cargo");
        command.args(args).envs(set.iter().copied());
        let mut child = match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => {
                println!("{name} did not start: {error}");
                return self.note(name, false);
            }
        };
        let stderr = child.stderr.take();
        let errors = std::thread::spawn(move || {
            stderr.map(|pipe| output::follow(pipe, std::io::stderr())).unwrap_or_default()
        });
        let stdout = child.stdout.take();
        let mut seen =
            stdout.map(|pipe| output::follow(pipe, std::io::stdout())).unwrap_or_default();
        seen.add(errors.join().unwrap_or_default());
        self.take(name, seen, child.wait().is_ok_and(|status| status.success()), bare);
    }

    /// Counts what a command told. `bare`: it is fine without having told of a test.
    fn take(&mut self, name: &'static str, seen: Seen, good: bool, bare: bool) {
        self.passed += seen.passed;
        self.failed += seen.failed;
        self.ignored += seen.ignored;
        self.skips.extend(seen.skips);
        let ran = seen.passed + seen.failed > 0;
        if good && !ran {
            self.note(name, bare);
        } else if !good && seen.failed == 0 {
            // It did not compile, say.
            self.note(name, false);
        } else if !good {
            self.broken.insert(name);
        }
    }

    fn note(&mut self, name: &'static str, good: bool) {
        if good {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.broken.insert(name);
        }
    }

    /// The last lines, and whether all went well.
    fn close(mut self, ci: bool) -> (Vec<String>, bool) {
        let mut lines = Vec::new();
        for skip in &self.skips {
            let reason = MAY_SKIP.iter().find(|(start, _)| skip.starts_with(start));
            let why = reason.map_or("must not be skipped where CI runs", |(_, why)| why);
            lines.push(format!("{skip} ({why})"));
            self.failed += u64::from(ci && reason.is_none());
        }
        lines.extend(
            self.broken
                .iter()
                .map(|name| format!("FAILED {name}; again with: cargo xtask test --only {name}")),
        );
        let skipped = self.ignored + self.skips.len() as u64;
        lines.push(format!("{} passed, {} failed, {skipped} skipped", self.passed, self.failed));
        (lines, self.failed == 0)
    }
}

/// Whether the program is there and answers.
fn answers(program: &str, arguments: &str) -> Option<String> {
    let output =
        Command::new(program).args(arguments.split(' ')).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Programs that the tests call, the Debian package of each, and what for.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("strace", "strace", "counts system calls"),
    ("tshark", "tshark", "reads what we capture"),
    ("ip", "iproute2", "makes network namespaces"),
    ("ping", "iputils-ping", "crosses the relay"),
    ("ethtool", "ethtool", "sets offloads of test cables"),
    ("c++", "g++", "builds the fuzzer's library"),
    ("chromium", "chromium", "shows the dashboard"),
    ("chromedriver", "chromium-driver", "acts on it"),
];

fn packages(tally: &mut Tally, _slow: bool) {
    let is_there = |program: &str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        found.is_ok_and(|output| output.status.success())
    };
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, ..)| !is_there(program)).collect();
    if missing.is_empty() {
        return tally.note("packages", true);
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
    if answers("id", "-u").as_deref() != Some("0") {
        let list = packages.join(" ");
        tally.skips.insert(format!("SKIP {list}: not installed, and only root may install them"));
        return;
    }
    for (program, package, purpose) in missing {
        println!("installing {package} (apt-get install -y {package}): {program} {purpose}");
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        // A mirror that does not answer is asked again, and another apt-get is waited for.
        command.args(["-o", "Acquire::Retries=5", "-o", "DPkg::Lock::Timeout=300"]);
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command.status().is_ok_and(|status| status.success())
    };
    let install = [&["install", "-y", "-q", "--no-install-recommends"][..], &packages].concat();
    if !apt(&["update", "-q"]) {
        println!(
            "the lists of packages could not all be brought up to date; those that are there are tried"
        );
    }
    if apt(&install) {
        tally.note("packages", true);
    } else {
        let list = packages.join(" ");
        tally.skips.insert(format!("SKIP {list}: could not be installed; see what apt-get said"));
    }
}

fn tests(tally: &mut Tally, slow: bool) {
    let environment: &[(&str, &str)] = if slow { &[("STRAIGHTWAY_SLOW", "1")] } else { &[] };
    // The program that tests start and kill is built with them, by the same features: not everything twice.
    // The models are built for loom, in a step of their own.
    let which = ["--workspace", "--all-features", "--exclude", "models", "--no-fail-fast"];
    // Both runners are asked to show what passing tests print: the SKIP lines are among it.
    if answers("cargo-nextest", "--version").is_some() {
        let args = [&["nextest", "run"][..], &which, &["--success-output", "final"]].concat();
        tally.tests("tests", &args, environment);
    } else {
        let targets = ["--lib", "--bins", "--tests", "--", "--show-output"];
        let args = [&["test"][..], &which, &targets].concat();
        tally.tests("tests", &args, environment);
    }
}

/// The allocation counts again as production runs: optimised, without debug assertions.
fn count(tally: &mut Tally, _slow: bool) {
    let profile = ["test", "--profile", "testrelease"];
    let hand_out = ["--package", "straightway-cache", "--test", "hand_out"];
    tally.tests("count", &[&profile[..], &hand_out].concat(), &[]);
    let pool = ["--package", "straightway-buffer", "--test", "alloc_count"];
    tally.tests("count", &[&profile[..], &pool].concat(), &[]);
    let codec = ["--package", "straightway-codec", "--test", "alloc_count"];
    tally.tests("count", &[&profile[..], &codec].concat(), &[]);
    let wire = ["--package", "straightway-wire", "--test", "alloc_count"];
    tally.tests("count", &[&profile[..], &wire].concat(), &[]);
    let mesh = ["--package", "straightway-cluster", "--test", "mesh"];
    tally.tests("count", &[&profile[..], &mesh].concat(), &[]);
    let packets = ["--package", "straightway-packet", "--test", "overlay_alloc"];
    let more = ["--test", "packets_alloc", "--test", "batch"];
    tally.tests("count", &[&profile[..], &packets, &more].concat(), &[]);
}

/// Fuzz targets, and how many seconds each is run here; whoever hunts for more gives the programs more.
const FUZZ: &[&str] =
    &["frame", "reassemble", "overlay", "pcap", "pcapng", "websocket", "archive", "raft", "wire"];
const FUZZ_SECONDS: u32 = 4;

/// Builds the targets with the compiler's own coverage (no nightly, no further tool), and runs each from its corpus.
fn fuzz(tally: &mut Tally, _slow: bool) {
    const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Ccodegen-units=1 --cfg fuzzing";
    let environment = [("RUSTFLAGS", COVERAGE), ("CARGO_TARGET_DIR", "target/fuzz")];
    // A target of its own for the flags, or build scripts would be instrumented too.
    let host = answers("rustc", "-vV").unwrap_or_default();
    let host =
        host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default().to_owned();
    let build = ["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", &host];
    tally.cargo("fuzz build", &build, &environment);
    for target in FUZZ {
        // New findings go to a folder of their own: the corpus in the repository is chosen by hand.
        let found = format!("target/fuzz/found/{target}");
        let made = std::fs::create_dir_all(&found);
        let seconds = format!("-max_total_time={FUZZ_SECONDS}");
        let prefix = format!("-artifact_prefix=target/fuzz/found/{target}-");
        let run = Command::new(format!("target/fuzz/{host}/release/{target}"))
            .args([&found, &format!("fuzz/corpus/{target}"), &seconds, &prefix])
            .args(["-max_len=2048", "-print_final_stats=1", "-verbosity=0"])
            .output();
        let good = run.as_ref().is_ok_and(|output| output.status.success());
        let said = run.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
        let said = said.unwrap_or_else(|error| error.to_string());
        // What it found when it failed; otherwise how much it tried.
        let shown = |line: &&str| !good || line.starts_with("stat::number_of_executed");
        said.lines().filter(shown).for_each(|line| println!("{target}: {line}"));
        tally.note(target, made.is_ok() && good);
    }
}

/// The Autobahn suite, where there is a Python that runs it.
fn autobahn(tally: &mut Tally, slow: bool) {
    match autobahn::run(slow) {
        autobahn::Outcome::Skipped(line) => drop(tally.skips.insert(line)),
        autobahn::Outcome::Broken(why) => {
            println!("autobahn: {why}");
            tally.note("autobahn", false);
        }
        autobahn::Outcome::Judged(counts, failed) => {
            println!("autobahn: {counts:?}");
            for case in &failed {
                println!("autobahn: {case}");
            }
            tally.passed += counts.values().sum::<usize>() as u64 - failed.len() as u64;
            tally.failed += failed.len() as u64;
            if !failed.is_empty() {
                tally.broken.insert("autobahn");
            }
        }
    }
}

/// The unsafe code of the pool under Miri, where there is one.
fn miri(tally: &mut Tally, _slow: bool) {
    if answers("cargo", "+nightly miri --version").is_none() {
        let skip = "SKIP miri is not installed (rustup +nightly component add miri rust-src)";
        tally.skips.insert(skip.to_owned());
        return;
    }
    let environment = [
        ("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-strict-provenance"),
        ("CARGO_TARGET_DIR", "target/miri"),
        ("PROPTEST_CASES", "4"),
    ];
    let tests = ["--package", "straightway-buffer", "--test", "presets", "--test", "alloc_count"];
    tally.tests("miri", &[&["+nightly", "miri", "test"][..], &tests].concat(), &environment);
    // Validated access to archives that were tampered with; rkyv's relative pointers leave the field that they stand in,
    // which only the newer of the two models of borrowing knows.
    let trees = [
        ("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-tree-borrows"),
        environment[1],
        environment[2],
    ];
    let archives = ["--package", "straightway-codec", "--test", "hostile", "ten_thousand"];
    tally.tests("miri", &[&["+nightly", "miri", "test"][..], &archives].concat(), &trees);
}

fn deny(tally: &mut Tally, _slow: bool) {
    if answers("cargo-deny", "--version").is_some() {
        tally.cargo("deny", &["deny", "check"], &[]);
    } else {
        let skip = "SKIP cargo-deny is not installed; licences and advisories were not checked";
        tally.skips.insert(skip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closing(tally: Tally, ci: bool) -> (String, bool) {
        let (lines, good) = tally.close(ci);
        (lines.last().cloned().unwrap_or_default(), good)
    }

    #[test]
    fn a_check_counts_as_one_and_tests_as_many() {
        let mut tally = Tally::default();
        tally.take("fmt", Seen::default(), true, true);
        let seen = Seen { passed: 7, failed: 2, ignored: 1, skips: Vec::new() };
        tally.take("tests", seen, false, false);
        assert_eq!(closing(tally, true), ("8 passed, 2 failed, 1 skipped".to_owned(), false));
    }

    #[test]
    fn what_fails_without_a_failed_test_is_a_failure() {
        let mut tally = Tally::default();
        tally.take("tests", Seen { passed: 7, ..Seen::default() }, false, false);
        assert_eq!(closing(tally, true), ("7 passed, 1 failed, 0 skipped".to_owned(), false));
    }

    #[test]
    fn tests_that_were_lost_are_a_failure() {
        let mut tally = Tally::default();
        tally.take("loom", Seen::default(), true, false);
        assert_eq!(closing(tally, true), ("0 passed, 1 failed, 0 skipped".to_owned(), false));
    }

    #[test]
    fn where_ci_runs_only_what_is_listed_may_be_skipped() {
        let with = |skip: &str| Tally { skips: [skip.to_owned()].into(), ..Tally::default() };
        assert!(closing(with("SKIP cargo-deny is not installed"), true).1);
        assert!(closing(with("SKIP no loop device here"), false).1);
        let (last, good) = closing(with("SKIP no loop device here"), true);
        assert_eq!((last.as_str(), good), ("0 passed, 1 failed, 1 skipped", false));
        assert!(!closing(with("SKIP what only speaks of cargo-deny "), true).1);
    }
}
