//! `cargo xtask tidy`: the rules of the house, checked by a program. Each message says how to mend what it found.
mod arrows;
mod source;
mod text;

use std::fs;
use std::path::Path;
use std::process::Command;

/// Checks everything; prints what it found. `true`: nothing.
pub(crate) fn run() -> bool {
    let found = findings(Path::new("."));
    for finding in &found {
        println!("tidy: {finding}");
    }
    found.is_empty()
}

fn findings(top: &Path) -> Vec<String> {
    let mut found = arrows::check(top);
    let files = match files(top) {
        Ok(files) => files,
        Err(why) => {
            found.push(why);
            return found;
        }
    };
    for path in files {
        // What is listed and cannot be read was deleted and not yet committed, or is a folder behind a symbolic link.
        let Ok(bytes) = fs::read(top.join(&path)) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        found.extend(text::words(&path, &text));
        if has_extension(&path, "rs") {
            found.extend(source::check(&path, &text));
        }
        if has_extension(&path, "md") {
            found.extend(text::links(&path, &text, |target| top.join(target).exists()));
        }
    }
    found
}

/// The tracked files, and those that would be if they were added. An empty list would make every rule content, so
/// that it is an error.
fn files(top: &Path) -> Result<Vec<String>, String> {
    let mut git = Command::new("git");
    git.current_dir(top).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output =
        git.output().map_err(|error| format!("git did not start ({error}); install it"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let files: Vec<String> =
        text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    if output.status.success() && !files.is_empty() {
        return Ok(files);
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("git ls-files named no file ({}); run this in a clone", why.trim()))
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
        assert_eq!(findings(top), Vec::<String>::new());
    }

    #[test]
    fn a_folder_without_files_to_check_is_a_finding() {
        let found = files(Path::new("/")).expect_err("no repository");
        assert!(found.contains("run this in a clone"), "{found}");
    }
}
