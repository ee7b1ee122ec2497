//! Rules about one Rust file.

const MAX_LINES: usize = 600;
/// How far above an unsafe line its argument may stand.
const ARGUED_WITHIN: usize = 6;
const UNSAFE_HOMES: &[&str] = &[
    "crates/buffer/src/raw/",
    "crates/buffer/src/sys/",
    "crates/cache/src/sys/",
    "crates/packet/src/sys/",
];
/// Files on the hot path: bytes are copied only by the counted function.
const HOT: &[&str] = &[
    "crates/straightway/src/server/socket.rs",
    "crates/straightway/src/http/body.rs",
    "crates/cache/src/read.rs",
];

const RULES: &[fn(&Source) -> Vec<String>] =
    &[module_doc, length, unsafe_homes, unsafe_argued, panics, sleeps, hot_copies, protobuf];

pub(super) fn check(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(path, text);
    RULES.iter().flat_map(|rule| rule(&source)).collect()
}

struct Source<'a> {
    path: &'a str,
    lines: Vec<&'a str>,
    /// The index of the line with which the tests begin.
    tests_from: usize,
}

impl<'a> Source<'a> {
    fn new(path: &'a str, text: &'a str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let tests_from = (0..lines.len()).find(|from| opens_tests(&lines[*from..]));
        Self { path, tests_from: tests_from.unwrap_or(lines.len()), lines }
    }

    /// Lines that are not comments, each with its index.
    fn code(&self) -> impl Iterator<Item = (usize, &'a str)> + '_ {
        let code = self.lines.iter().map(|line| line.trim_start()).enumerate();
        code.filter(|(_, line)| !line.starts_with("//"))
    }

    /// Code that is shipped.
    fn production(&self) -> impl Iterator<Item = (usize, &'a str)> + '_ {
        let shipped =
            self.path.starts_with("crates/") && self.path.contains("/src/") && !self.in_tests();
        self.code().take_while(move |(index, _)| shipped && *index < self.tests_from)
    }

    fn in_tests(&self) -> bool {
        // loom's models lie beside what they model.
        self.path.contains("/tests/") || self.path.ends_with("/models.rs")
    }

    fn at(&self, index: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, index + 1)
    }
}

/// Whether these lines begin with a module of tests; a single item under `cfg(test)` does not end the shipped code.
fn opens_tests(lines: &[&str]) -> bool {
    let marked = lines[0].starts_with("#[cfg(test)]") || lines[0].starts_with("#[cfg(all(test");
    let item = lines.iter().find(|line| !line.starts_with("#["));
    marked && item.is_some_and(|item| item.starts_with("mod ") && item.ends_with('{'))
}

fn module_doc(source: &Source) -> Vec<String> {
    let missing = !source.lines.first().is_some_and(|line| line.starts_with("//!"));
    let what = "begins without a module doc; say in a //! line what the file is for";
    missing.then(|| source.at(0, what)).into_iter().collect()
}

fn length(source: &Source) -> Vec<String> {
    let lines = source.lines.len();
    let what = format!("{lines} lines; find the seam and split it, {MAX_LINES} is the end");
    (lines > MAX_LINES).then(|| source.at(MAX_LINES, &what)).into_iter().collect()
}

// The words are split here and below so that this file does not find itself.
const UNSAFE_BLOCK: &str = concat!("unsa", "fe {");
const UNSAFE_IMPL: &str = concat!("unsa", "fe impl");
const UNSAFE_FN: &str = concat!("unsa", "fe fn");

fn is_unsafe(line: &str) -> bool {
    [UNSAFE_BLOCK, UNSAFE_IMPL, UNSAFE_FN].iter().any(|mark| line.contains(mark))
}

fn unsafe_homes(source: &Source) -> Vec<String> {
    // Nothing of the benchmarks is shipped.
    let unshipped = source.in_tests() || source.path.starts_with("bench/");
    if unshipped || UNSAFE_HOMES.iter().any(|home| source.path.starts_with(home)) {
        return Vec::new();
    }
    let what = format!("unsafe outside {UNSAFE_HOMES:?}; move it there behind a safe function");
    let hits = source.code().filter(|(_, line)| is_unsafe(line));
    hits.map(|(index, _)| source.at(index, &what)).collect()
}

fn unsafe_argued(source: &Source) -> Vec<String> {
    let hits = source.code().filter(|(_, line)| is_unsafe(line));
    let unargued = hits.filter(|(index, line)| {
        let above = &source.lines[index.saturating_sub(ARGUED_WITHIN)..=*index];
        // What a function's caller must keep stands in its documentation, under the heading that rustdoc asks for.
        let contract = line.contains(UNSAFE_FN);
        !above.iter().any(|line| line.contains("SAFETY") || (contract && line.contains("# Safety")))
    });
    let what =
        "unsafe without a SAFETY argument; say in the lines above which guarantee it rests on";
    unargued.map(|(index, _)| source.at(index, what)).collect()
}

fn panics(source: &Source) -> Vec<String> {
    let calls = [concat!(".unw", "rap()"), concat!(".exp", "ect(")];
    let hits = source.production().filter(|(_, line)| calls.iter().any(|call| line.contains(call)));
    hits.map(|(index, _)| source.at(index, "may panic; turn the failure into an error")).collect()
}

fn sleeps(source: &Source) -> Vec<String> {
    let calls = [concat!("sle", "ep("), concat!("sle", "ep_until(")];
    let hits = source.code().filter(|(_, line)| calls.iter().any(|call| line.contains(call)));
    // Other processes can only be asked again, and faults come at times of their own: the line above says so.
    let argued =
        |index: usize| index > 0 && source.lines[index - 1].trim_start().starts_with("// Pause: ");
    let what = "sleeps; wait for the event instead, a time is either too short or too long. What asks another process \
        again, or is the fault itself, says so in the line above: // Pause: why";
    hits.filter(|(index, _)| source.in_tests() && !argued(*index))
        .map(|(index, _)| source.at(index, what))
        .collect()
}

fn hot_copies(source: &Source) -> Vec<String> {
    let copies = [
        concat!("copy_from_", "slice"),
        concat!(".to_", "vec()"),
        concat!("extend_from_", "slice"),
    ];
    let hot = HOT.contains(&source.path);
    let hits =
        source.production().filter(|(_, line)| copies.iter().any(|copy| line.contains(copy)));
    let what = "copies on the hot path; borrow, or use straightway_buffer::copy_counted";
    hits.filter(|_| hot).map(|(index, _)| source.at(index, what)).collect()
}

/// `deny.toml` passes over an advisory about protobuf's parser for this reason: nothing from outside ever gets there.
fn protobuf(source: &Source) -> Vec<String> {
    let calls = [
        concat!("merge_", "from"),
        concat!("merge_", "field"),
        concat!("parse_", "from_"),
        concat!("parse_", "length_delimited"),
        concat!("Coded", "InputStream"),
    ];
    let hits = source.production().filter(|(_, line)| calls.iter().any(|call| line.contains(call)));
    let what = "reads with protobuf's parser (RUSTSEC-2024-0437); use straightway_wire::raft";
    hits.map(|(index, _)| source.at(index, what)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "crates/a/src/b.rs";
    const SYS: &str = "crates/cache/src/sys/b.rs";
    const TEST: &str = "crates/a/tests/b.rs";

    /// The rule finds one thing in the bad sample and nothing in the good one.
    fn tells_apart(rule: fn(&Source) -> Vec<String>, bad: (&str, &str), good: (&str, &str)) {
        let found = rule(&Source::new(bad.0, bad.1));
        assert_eq!(found.len(), 1, "{bad:?}: {found:?}");
        assert!(found[0].contains(';'), "says how to mend it: {found:?}");
        assert_eq!(rule(&Source::new(good.0, good.1)), Vec::<String>::new(), "{good:?}");
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        tells_apart(module_doc, (LIB, "fn a() {}"), (LIB, "//! What.\nfn a() {}"));
        tells_apart(module_doc, (LIB, ""), (LIB, "//! What."));
    }

    #[test]
    fn a_file_ends_at_600_lines() {
        tells_apart(length, (LIB, &"//! x\n".repeat(601)), (LIB, &"//! x\n".repeat(600)));
    }

    #[test]
    fn unsafe_code_lives_in_its_homes() {
        for mark in [UNSAFE_BLOCK, UNSAFE_IMPL, UNSAFE_FN] {
            tells_apart(unsafe_homes, (LIB, mark), (SYS, mark));
            tells_apart(unsafe_homes, ("xtask/src/b.rs", mark), (TEST, mark));
            tells_apart(unsafe_homes, (LIB, mark), (LIB, &format!("// {mark}")));
        }
    }

    #[test]
    fn unsafe_code_is_argued_for() {
        for mark in [UNSAFE_BLOCK, UNSAFE_IMPL, UNSAFE_FN] {
            let near = format!("// SAFETY: owned.\n{}{mark}", "\n".repeat(5));
            let far = format!("// SAFETY: owned.\n{}{mark}", "\n".repeat(6));
            tells_apart(unsafe_argued, (SYS, &far), (SYS, &near));
        }
        let block = format!("/// # Safety\n{UNSAFE_BLOCK}");
        let function = format!("/// # Safety\n{UNSAFE_FN}");
        tells_apart(unsafe_argued, (SYS, &block), (SYS, &function));
    }

    #[test]
    fn shipped_code_does_not_panic() {
        for call in [concat!("x.unw", "rap();"), concat!("x.exp", "ect(\"y\");")] {
            let tested = format!("#[cfg(test)]\n#[allow(x)]\nmod tests {{\n{call}\n}}");
            tells_apart(panics, (LIB, call), (LIB, &tested));
            let one_item = format!("#[cfg(test)]\nmod tests;\n{call}");
            tells_apart(panics, (LIB, &one_item), (TEST, call));
        }
    }

    #[test]
    fn tests_do_not_sleep() {
        for call in [concat!("thread::sle", "ep(d);"), concat!("time::sle", "ep(d).await;")] {
            tells_apart(sleeps, (TEST, call), (LIB, call));
            tells_apart(
                sleeps,
                (TEST, call),
                (TEST, &format!("// Pause: it is another process.\n{call}")),
            );
        }
    }

    #[test]
    fn the_hot_path_does_not_copy() {
        let copy = concat!("a.copy_from_", "slice(b);");
        tells_apart(hot_copies, (HOT[0], copy), (LIB, copy));
    }

    #[test]
    fn protobuf_s_parser_reads_nothing() {
        for call in
            [concat!("m.merge_", "from_bytes(b)"), concat!("Message::parse_", "from_bytes(b)")]
        {
            tells_apart(protobuf, (LIB, call), (TEST, call));
        }
    }

    #[test]
    fn every_rule_is_asked() {
        let bad = format!("{UNSAFE_BLOCK} x{} }}", concat!(".unw", "rap()"));
        assert_eq!(check(LIB, &bad).len(), 4, "doc, home, argument, panic");
    }
}
