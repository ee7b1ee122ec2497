//! Rules about any file: words that do not belong into the repository, links that lead nowhere.
use std::path::Path;

/// How a word is looked for.
#[derive(Debug, Clone, Copy)]
enum Match {
    /// As it is, inside other words too.
    Anywhere,
    /// In capital or small letters.
    AnyCase,
    /// Not as a part of another word.
    Word,
    /// As the beginning of an absolute path, not in the middle of a path.
    PathStart,
}

/// Split here so that this file does not find itself.
const BANNED: &[(&str, Match, &str)] = &[
    (concat!("TO", "DO"), Match::Anywhere, UNFINISHED),
    (concat!("FIX", "ME"), Match::Anywhere, UNFINISHED),
    (concat!("to", "do!"), Match::Anywhere, UNFINISHED),
    (concat!("un", "implemented!"), Match::Anywhere, UNFINISHED),
    (concat!("C", "EO"), Match::Word, FOREIGN),
    (concat!("sub", "agent"), Match::AnyCase, FOREIGN),
    (concat!("/wor", "k/"), Match::PathStart, LOCAL),
    (concat!("/roo", "t/"), Match::PathStart, LOCAL),
];
const UNFINISHED: &str = "finish it, or write an issue";
const FOREIGN: &str = "say it without who did the work";
const LOCAL: &str = "name the path relative to the repository; other machines do not have it";

pub(super) fn words(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    let hits = lines.flat_map(|(index, line)| {
        let banned = BANNED.iter().filter(move |(word, how, _)| occurs(line, word, *how));
        banned.map(move |(word, _, mend)| (index + 1, word, mend))
    });
    hits.map(|(number, word, mend)| {
        format!("{path}:{number}: `{word}` does not belong into the repository; {mend}")
    })
    .collect()
}

fn occurs(line: &str, word: &str, how: Match) -> bool {
    match how {
        Match::Anywhere => line.contains(word),
        Match::AnyCase => line.to_lowercase().contains(word),
        Match::Word => line.match_indices(word).any(|(from, _)| {
            let after = line[from + word.len()..].chars().next();
            !continues(line[..from].chars().next_back(), "_") && !continues(after, "_")
        }),
        Match::PathStart => line
            .match_indices(word)
            .any(|(from, _)| !continues(line[..from].chars().next_back(), "._-~})*")),
    }
}

fn continues(neighbour: Option<char>, others: &str) -> bool {
    neighbour.is_some_and(|c| c.is_alphanumeric() || others.contains(c))
}

/// Relative links must lead to a file or folder; `exists` is asked with the path from the top of the repository.
pub(super) fn links(path: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let prose = without_code(text);
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let defined = prose
        .lines()
        .filter(|line| line.starts_with('['))
        .filter_map(|line| line.split_once("]: ").map(|(_, target)| target));
    let targets = inline.chain(defined).filter_map(|target| target.split_whitespace().next());
    let relative = targets.filter(|target| {
        !target.contains("://") && !target.starts_with('#') && !target.starts_with("mailto:")
    });
    relative
        .filter(|target| !exists(&folder.join(target.split('#').next().unwrap_or_default())))
        .map(|target| {
            format!("{path}: links to {target}, which is not there; mend the link or add the file")
        })
        .collect()
}

fn without_code(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::with_capacity(text.len());
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if !fenced && !fence {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_do_not_belong_are_found() {
        let bad = [
            concat!("// TO", "DO: later"),
            concat!("FIX", "ME"),
            concat!("to", "do!()"),
            concat!("un", "implemented!()"),
            concat!("The C", "EO's."),
            concat!("A Sub", "agent"),
            concat!("see `/wor", "k/x`"),
            concat!("file:///roo", "t/x"),
        ];
        for line in bad {
            assert_eq!(words("a.md", line).len(), 1, "{line}");
        }
        assert!(words("a.md", &format!("fine\n{}", bad[1]))[0].starts_with("a.md:2: "));
        let good = [
            concat!("VIDEO AND C", "EOS"),
            concat!("https://a.example/wor", "k/x"),
            concat!("$HOME/wor", "k/x"),
            concat!("~/wor", "k/x"),
        ];
        for line in good {
            assert_eq!(words("a.md", line), Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let there = |target: &Path| target == Path::new("docs/there.md");
        let found = |text: &str| links("docs/a.md", text, there).len();
        assert_eq!(found("[x](gone.md)"), 1);
        assert_eq!(found("[x]\n\n[x]: gone.md"), 1);
        assert_eq!(found("[x](gone.md#part) and [y](also-gone.md \"title\")"), 2);
        assert_eq!(found("[x](there.md#part) [y](there.md \"title\") [z](#part)"), 0);
        assert_eq!(found("[x](https://example.org/) [y](mailto:a@example.org)"), 0);
        assert_eq!(found("```text\n[x](gone.md)\n```\n"), 0, "code is not a link");
    }
}
