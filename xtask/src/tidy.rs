//! `cargo xtask tidy`: the rules of the house, checked by a program. Each message says how to mend what it found.
use std::fs;
use std::path::Path;
use std::process::Command;

use cargo_metadata::MetadataCommand;

/// Checks everything; prints what it found. `true`: nothing.
pub(crate) fn run() -> bool {
    let found = findings();
    for finding in &found {
        println!("tidy: {finding}");
    }
    found.is_empty()
}

fn findings() -> Vec<String> {
    let mut found = arrows();
    for path in tracked_files() {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        found.extend(words(&path, &text));
        if has_extension(&path, "rs") {
            found.extend(source(&path, &text));
        }
        if has_extension(&path, "md") {
            found.extend(links(&path, &text, |target| Path::new(target).exists()));
        }
    }
    found
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

fn tracked_files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output();
    let text = listed
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// What each crate may depend on of ours: arrows point down only.
const ARROWS: &[(&str, &[&str])] = &[
    ("straightway-buffer", &[]),
    ("straightway-cache", &["straightway-buffer"]),
    ("straightway-packet", &["straightway-buffer"]),
    ("straightway", &["straightway-buffer", "straightway-cache", "straightway-packet"]),
];

fn arrows() -> Vec<String> {
    let metadata = match MetadataCommand::new().no_deps().exec() {
        Ok(metadata) => metadata,
        Err(error) => return vec![format!("cargo metadata failed: {error}")],
    };
    let mut found = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some((_, allowed)) = ARROWS.iter().find(|(crate_name, _)| *crate_name == name) else {
            continue;
        };
        let ours = package
            .dependencies
            .iter()
            .map(|d| d.name.as_str())
            .filter(|d| d.starts_with("straightway"));
        for dependency in ours.filter(|d| !allowed.contains(d)) {
            found.push(format!("{name} depends on {dependency}; arrows point down only: move what it needs into a lower crate"));
        }
    }
    found
}

const MAX_LINES: usize = 600;
const UNSAFE_HOMES: &[&str] = &["crates/buffer/src/raw/", "crates/cache/src/sys/", "crates/packet/src/sys/"];
/// Files on the hot path: bytes are copied only by the counted function.
const HOT: &[&str] = &[
    "crates/straightway/src/server/socket.rs",
    "crates/straightway/src/http/body.rs",
    "crates/cache/src/read.rs",
];

fn source(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push(format!(
            "{path}: begins without a module doc; say in a //! line what the file is for"
        ));
    }
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > MAX_LINES {
        found.push(format!(
            "{path}: {} lines; find the seam and split it below {MAX_LINES}",
            lines.len()
        ));
    }
    let tests_from = lines
        .iter()
        .position(|l| l.starts_with("#[cfg(test)]") || l.starts_with("#[cfg(all(test"))
        .unwrap_or(lines.len());
    let in_tests = path.contains("/tests/")
        || path.contains("/examples/")
        || path.starts_with("xtask")
        || path.starts_with("bench/")
        || path.starts_with("models");
    for (number, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        let at = format!("{path}:{}", number + 1);
        found.extend(unsafety(&at, path, code, &lines[number.saturating_sub(6)..=number]));
        let tested = in_tests || number > tests_from;
        if !tested
            && (code.contains(concat!(".unw", "rap()")) || code.contains(concat!(".exp", "ect(")))
        {
            found.push(format!("{at}: may panic; turn the failure into an error"));
        }
        if path.contains("/tests/") && code.contains(concat!("sle", "ep(")) {
            found.push(format!("{at}: sleeps; wait for the event instead"));
        }
        let copies = [
            concat!("copy_from_", "slice"),
            concat!(".to_", "vec()"),
            concat!("extend_from_", "slice"),
        ];
        if HOT.contains(&path)
            && number < tests_from
            && copies.iter().any(|copy| code.contains(copy))
        {
            found
                .push(format!("{at}: copies on the hot path; borrow, or use buffer::copy_counted"));
        }
    }
    found
}

fn unsafety(at: &str, path: &str, code: &str, above: &[&str]) -> Option<String> {
    let marks = [concat!("unsa", "fe {"), concat!("unsa", "fe impl"), concat!("unsa", "fe fn")];
    if !marks.iter().any(|mark| code.contains(mark)) || path.starts_with("xtask") {
        return None;
    }
    let home = UNSAFE_HOMES.iter().any(|home| path.starts_with(home)) || path.contains("/tests/");
    if !home {
        return Some(format!(
            "{at}: unsafe outside {UNSAFE_HOMES:?}; move it there behind a safe function"
        ));
    }
    let argued = above.iter().any(|line| line.contains("SAFETY"));
    // A function's contract is its caller's to argue; its body is checked by its own blocks.
    let declared = code.contains(marks[2]);
    (!argued && !declared)
        .then(|| format!("{at}: unsafe without a SAFETY argument; say which guarantee it rests on"))
}

/// What does not belong into the repository; split here so that this file does not find itself.
const WORDS: &[&str] = &[
    concat!("/wor", "k/"),
    concat!("/roo", "t/"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("sub", "agent"),
    concat!("un", "implemented!"),
];

fn words(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let hits = lines.flat_map(|(number, line)| {
        WORDS.iter().filter(|word| line.contains(**word)).map(move |word| (number + 1, word))
    });
    hits.filter(|_| !path.ends_with("Cargo.lock"))
        .map(|(number, word)| format!("{path}:{number}: {word} does not belong into the repository; say it in another way or finish it"))
        .collect()
}

fn links(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| {
            !target.contains("://") && !target.starts_with('#') && !target.starts_with("mailto:")
        })
        .filter_map(|target| {
            let file = folder.join(target.split('#').next().unwrap_or_default());
            let file = file.to_string_lossy();
            (!exists(&file))
                .then(|| format!("{path}: links to {target}, which is not there; mend the link"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_bad_sample() {
        let bad = |path: &str, text: &str, word: &str| {
            let found = source(path, text);
            assert!(found.iter().any(|finding| finding.contains(word)), "{word}: {found:?}");
        };
        bad("crates/a/src/b.rs", "fn a() {}", "module doc");
        bad("crates/a/src/b.rs", &"//! x\n".repeat(601), "split it");
        bad("crates/a/src/b.rs", concat!("//! x\nlet y = x.unw", "rap();"), "may panic");
        bad("crates/a/src/b.rs", concat!("//! x\nunsa", "fe { f() }"), "outside");
        bad("crates/cache/src/sys/b.rs", concat!("//! x\nunsa", "fe { f() }"), "SAFETY");
        bad("crates/a/tests/b.rs", concat!("//! x\nthread::sle", "ep(d);"), "sleeps");
        bad("crates/cache/src/read.rs", concat!("//! x\na.copy_from_", "slice(b);"), "hot path");
        assert_eq!(words("a.md", concat!("see /wor", "k/x")).len(), 1);
        assert_eq!(links("docs/a.md", "[x](b.md) [y](https://z)", |_| false).len(), 1);
        let good = concat!("//! x\n// SAFETY: owned.\nunsa", "fe { f() }");
        assert!(source("crates/cache/src/sys/b.rs", good).is_empty());
    }

    #[test]
    fn the_house_is_tidy() {
        // Rules are about the whole repository; tests run in this package's folder.
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf);
        std::env::set_current_dir(top.unwrap_or_default()).expect("the repository");
        assert_eq!(findings(), Vec::<String>::new());
    }
}
