//! The example runs and says what it should.
#![allow(clippy::expect_used, reason = "a test that cannot go on says so")]
use std::process::Command;

#[test]
fn messages_shows_every_step() {
    let here = std::env::current_exe().expect("this program");
    let example = here.ancestors().nth(2).expect("a folder").join("examples/messages");
    let output = Command::new(&example).output().expect("built beside the tests");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for step in [
        "in place: models/7b",
        "against the dictionary",
        "read at offset 42",
        "version 9",
        "UsePool",
    ] {
        assert!(text.contains(step), "{step}: {text}");
    }
}
