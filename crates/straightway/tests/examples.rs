//! The example runs and says what it should.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
use std::process::Command;

#[test]
fn feed_shows_what_happens() {
    let here = std::env::current_exe().expect("this program");
    let example = here.ancestors().nth(2).expect("a folder").join("examples/feed");
    let output = Command::new(&example).output().expect("built beside the tests");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("stored models/7b") && text.contains("purged project:7b"), "{text}");
    assert!(!text.contains("media/1"), "{text}");
}
