//! The Autobahn suite against our frame layer: cases of RFC 6455 and RFC 7692, judged by somebody else. All 517 with
//! `--slow`; otherwise those on framing, control frames, UTF-8 and closing, and one of each kind on compression, which in
//! full keep Python busy for minutes.
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The last version, for Python 2.7.
const SUITE: &str = "autobahntestsuite==25.10.1";
const FOLDER: &str = "target/autobahn";
const REPORT: &str = "target/autobahn-report";
const CASES: &[&str] = &[
    "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*", "12.1.1", "12.1.2", "12.1.3",
    "12.1.4", "12.2.1", "12.3.1", "12.4.1", "12.5.1", "13.1.1", "13.2.1", "13.3.1", "13.4.1",
    "13.5.1", "13.6.1", "13.7.1",
];

/// What came of it.
pub(super) enum Outcome {
    /// Cases by verdict, and those that failed.
    Judged(BTreeMap<String, usize>, Vec<String>),
    /// Why it was not run.
    Skipped(String),
    /// It ran, and broke.
    Broken(String),
}

/// Installs the suite below `target/`, starts the echo example, and runs all cases.
pub(super) fn run(slow: bool) -> Outcome {
    let Some(python) = python() else {
        return Outcome::Skipped("SKIP autobahn needs a Python 2.7, and there is none".to_owned());
    };
    if let Err(error) = install(&python) {
        return Outcome::Skipped(format!("SKIP autobahn could not be installed: {error}"));
    }
    let cases = if slow { &["*"] } else { CASES };
    judge(&python, cases).unwrap_or_else(Outcome::Broken)
}

fn python() -> Option<PathBuf> {
    let answers = |program: &Path| {
        let version =
            Command::new(program).args(["-c", "import sys; print(sys.version_info[0])"]).output();
        version.is_ok_and(|output| output.stdout.starts_with(b"2"))
    };
    let managed = std::env::var_os("HOME")
        .map(|home| PathBuf::from(home).join(".pyenv/versions"))
        .and_then(|versions| std::fs::read_dir(versions).ok())
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("2.7"))
        .map(|entry| entry.path().join("bin/python"));
    let candidates = ["python2.7", "python2"].map(PathBuf::from).into_iter().chain(managed);
    candidates.into_iter().find(|program| answers(program))
}

fn install(python: &Path) -> Result<(), String> {
    if Path::new(FOLDER).join("autobahntestsuite").exists() {
        return Ok(());
    }
    println!("installing {SUITE} into {FOLDER} (pip install --target)");
    let output = Command::new(python)
        .args(["-m", "pip", "install", "-q", "--target", FOLDER, SUITE])
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.lines().last().unwrap_or("pip failed").to_owned())
    }
}

/// The echo example, killed when dropped.
struct Echo(Child);

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn judge(python: &Path, cases: &[&str]) -> Result<Outcome, String> {
    let build = [
        "build",
        "--profile",
        "testrelease",
        "--package",
        "straightway-codec",
        "--example",
        "echo",
    ];
    if !Command::new("cargo").args(build).status().is_ok_and(|status| status.success()) {
        return Err("the echo example does not build".to_owned());
    }
    let spawned = Command::new("target/testrelease/examples/echo")
        .arg("127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut echo = Echo(spawned.map_err(|error| format!("the echo example: {error}"))?);
    let mut line = String::new();
    let said = echo.0.stdout.take().ok_or("the echo example says nothing")?;
    BufReader::new(said).read_line(&mut line).map_err(|error| error.to_string())?;
    let address = line.trim().strip_prefix("listening on ").ok_or(format!("it said {line:?}"))?;
    let specification = serde_json::json!({
        "outdir": REPORT,
        "servers": [{ "agent": "straightway", "url": format!("ws://{address}") }],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    let specification_file = "target/autobahn.json";
    std::fs::write(specification_file, specification.to_string())
        .map_err(|error| error.to_string())?;
    let program = format!(
        "import site, sys; site.addsitedir('{FOLDER}'); sys.argv = ['wstest', '-m', 'fuzzingclient', '-s', \
         '{specification_file}']; from autobahntestsuite.wstest import run; run()"
    );
    let ran = Command::new(python).args(["-c", &program]).stdout(Stdio::null()).output();
    let ran = ran.map_err(|error| error.to_string())?;
    let index = std::fs::read_to_string(format!("{REPORT}/index.json")).map_err(|error| {
        format!("no report ({error}): {}", String::from_utf8_lossy(&ran.stderr))
    })?;
    verdicts(&index)
}

fn verdicts(index: &str) -> Result<Outcome, String> {
    let index: serde_json::Value =
        serde_json::from_str(index).map_err(|error| error.to_string())?;
    let cases = index["straightway"].as_object().ok_or("the report has no cases")?;
    let (mut counts, mut failed) = (BTreeMap::new(), Vec::new());
    for (case, verdict) in cases {
        let both = ["behavior", "behaviorClose"].map(|what| verdict[what].as_str().unwrap_or("?"));
        *counts.entry(both[0].to_owned()).or_default() += 1;
        // Not implemented is a window of another size, which is declined as RFC 7692 allows.
        let fine = |verdict: &str| {
            matches!(verdict, "OK" | "NON-STRICT" | "INFORMATIONAL" | "UNIMPLEMENTED")
        };
        if !both.into_iter().all(fine) {
            failed.push(format!("{case}: {} / {}", both[0], both[1]));
        }
    }
    Ok(Outcome::Judged(counts, failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_is_not_fine_is_named() {
        let index = r#"{"straightway": {
            "1.1.1": {"behavior": "OK", "behaviorClose": "OK"},
            "1.1.2": {"behavior": "NON-STRICT", "behaviorClose": "INFORMATIONAL"},
            "1.1.3": {"behavior": "OK", "behaviorClose": "UNCLEAN"}}}"#;
        let Ok(Outcome::Judged(counts, failed)) = verdicts(index) else { panic!("judged") };
        assert_eq!((counts["OK"], counts["NON-STRICT"]), (2, 1));
        assert_eq!(failed, ["1.1.3: OK / UNCLEAN"]);
        assert!(verdicts("{}").is_err());
    }
}
