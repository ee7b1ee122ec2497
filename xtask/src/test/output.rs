//! What a runner of tests prints: shown as it comes, and read for its closing lines and for what was skipped.
use std::io::{BufRead, BufReader, Read, Write};

/// What the output of one command told.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) passed: u64,
    pub(super) failed: u64,
    /// Tests that the runner left out; those that gave up by themselves are in `skips`.
    pub(super) ignored: u64,
    pub(super) skips: Vec<String>,
}

/// Passes on what comes through a pipe, line by line, to its end.
pub(super) fn follow(pipe: impl Read, mut onto: impl Write) -> Seen {
    let mut seen = Seen::default();
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    // Lines need not be UTF-8: a reader that stopped at a stray byte would stall the command behind a full pipe.
    while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        // Nobody may be listening any more; the command goes on all the same.
        let _unheard = onto.write_all(&line).and_then(|()| onto.flush());
        seen.line(&String::from_utf8_lossy(&line));
        line.clear();
    }
    seen
}

impl Seen {
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.skips.extend(other.skips);
    }

    fn line(&mut self, line: &str) {
        let text = line.trim();
        // nextest indents what tests print; `SKIP [` is its own line about a test that was filtered out.
        if text.starts_with("SKIP ") && !text.starts_with("SKIP [") {
            self.skips.push(text.to_owned());
        }
        // An indented result line is a test's own output, repeated by nextest; its summary counts it.
        let of_cargo = line.starts_with("test result:");
        let of_nextest = text.starts_with("Summary [") && text.contains(" run:");
        if of_cargo || of_nextest {
            self.passed += number_before(text, " passed");
            self.failed += number_before(text, " failed") + number_before(text, " timed out");
            self.failed += number_before(text, " exec failed");
            self.ignored += number_before(text, " ignored") + number_before(text, " skipped");
        }
    }
}

/// The number that stands right before the first `word`, 0 if there is none.
fn number_before(line: &str, word: &str) -> u64 {
    let before = line.split_once(word).map(|(before, _)| before);
    before
        .and_then(|before| before.rsplit(|c: char| !c.is_ascii_digit()).next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Seen {
        follow(text.as_bytes(), std::io::sink())
    }

    fn counts(text: &str) -> (u64, u64, u64) {
        let seen = read(text);
        (seen.passed, seen.failed, seen.ignored)
    }

    #[test]
    fn closing_lines_of_both_runners_are_counted() {
        let many =
            "     Summary [   5.953s] 57 tests run: 55 passed (1 slow), 2 failed, 3 skipped\n";
        assert_eq!(counts(many), (55, 2, 3));
        let one = "     Summary [   5.953s] 1 test run: 1 passed, 0 skipped\n";
        assert_eq!(counts(one), (1, 0, 0));
        let stuck =
            "     Summary [   9.000s] 4/5 tests run: 2 passed, 1 failed, 1 timed out, 1 skipped\n";
        assert_eq!(counts(stuck), (2, 2, 1));
        let cargo = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1s\n";
        assert_eq!(counts(cargo), (3, 1, 2));
        assert_eq!(counts(&format!("{one}{cargo}")), (4, 1, 2), "sums");
        assert_eq!(counts(&format!("    {cargo}")), (0, 0, 0), "a test's own output");
    }

    #[test]
    fn skips_are_kept_and_the_runners_own_are_not() {
        let seen =
            read("  SKIP no loop device\n  SKIP [   0.1s] (1/2) cache places\nnot a SKIP here\n");
        assert_eq!(seen.skips, ["SKIP no loop device"]);
    }

    #[test]
    fn output_is_passed_on_whole_whatever_its_bytes() {
        let mut shown = Vec::new();
        let printed = b"a\n\xff\xfe\nSKIP last line has no end";
        let seen = follow(&printed[..], &mut shown);
        assert_eq!(shown, printed);
        assert_eq!(seen.skips.len(), 1);
    }
}
