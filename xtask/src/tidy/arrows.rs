//! Which crate may depend on which: arrows point down only, so that a lower crate can be used and tested alone.
use std::path::Path;

use cargo_metadata::MetadataCommand;

/// What each crate may depend on of ours, for tests and builds too.
const ARROWS: &[(&str, &[&str])] = &[
    ("straightway-buffer", &[]),
    ("straightway-cache", &["straightway-buffer"]),
    ("straightway-codec", &["straightway-buffer"]),
    ("straightway-packet", &["straightway-buffer"]),
    ("straightway-wire", &["straightway-buffer"]),
    (
        "straightway-cluster",
        &["straightway-buffer", "straightway-codec", "straightway-packet", "straightway-wire"],
    ),
    (
        "straightway",
        &[
            "straightway-buffer",
            "straightway-cache",
            "straightway-cluster",
            "straightway-codec",
            "straightway-packet",
            "straightway-wire",
        ],
    ),
];

pub(super) fn check(top: &Path) -> Vec<String> {
    let metadata = match MetadataCommand::new().current_dir(top).no_deps().exec() {
        Ok(metadata) => metadata,
        Err(error) => return vec![format!("cargo metadata failed: {error}")],
    };
    let crates = metadata.packages.iter().filter(|package| {
        package.manifest_path.parent().is_some_and(|folder| {
            folder.parent().is_some_and(|parent| parent.file_name() == Some("crates"))
        })
    });
    let crates: Vec<(&str, Vec<&str>)> = crates
        .map(|package| {
            let dependencies = package.dependencies.iter().map(|d| d.name.as_str());
            (package.name.as_str(), dependencies.collect())
        })
        .collect();
    wrong_arrows(&crates)
}

fn wrong_arrows(crates: &[(&str, Vec<&str>)]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, dependencies) in crates {
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| known == name) else {
            found.push(format!(
                "{name} has no place among the crates; give it its row in xtask/src/tidy/arrows.rs"
            ));
            continue;
        };
        let ours = dependencies.iter().filter(|d| crates.iter().any(|(other, _)| other == *d));
        found.extend(ours.filter(|d| !allowed.contains(d)).map(|dependency| {
            format!("{name} depends on {dependency}; arrows point down only: move what it needs into a lower crate")
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_arrows_that_point_down_pass() {
        let good = [
            ("straightway-buffer", vec!["bytes"]),
            ("straightway-cache", vec!["straightway-buffer"]),
            ("straightway", vec!["straightway-cache", "straightway-buffer"]),
        ];
        assert_eq!(wrong_arrows(&good), Vec::<String>::new());
        let mut upward = good.to_vec();
        upward[0].1.push("straightway-cache");
        upward[1].1.push("straightway");
        let found = wrong_arrows(&upward);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("straightway-buffer depends on straightway-cache"));
        let found = wrong_arrows(&[("straightway-new", vec![])]);
        assert!(found[0].contains("no place"), "{found:?}");
    }
}
