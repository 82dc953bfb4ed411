//! What code and pages point to is there.

use std::fs;
use std::path::{Path, PathBuf};

/// Of the plans this project began with, which are no part of it.
const FOREIGN: [&str; 2] = ["CRATES \u{a7}", "PITFALLS "];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// Files of the workspace whose name ends so, and what is in them.
fn files(ending: &str) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, ending: &str, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).expect("a directory").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "railgun-data" {
                    walk(&path, ending, found);
                }
            } else if name.ends_with(ending) {
                found.push((path.clone(), fs::read_to_string(&path).expect("text")));
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), ending, &mut found);
    assert!(!found.is_empty());
    found
}

/// The text of section `number` of a page.
fn section(page: &str, number: &str) -> Option<String> {
    let from = page.find(&format!("\n## {number}. "))? + 1;
    let text = &page[from..];
    let end = text[1..].find("\n## ").map_or(text.len(), |end| end + 1);
    Some(text[..end].to_owned())
}

/// Whether a page has what follows `\u{a7}` in a citation: `3`, `1.7`, `3 "Recovery"`.
fn has(page: &str, citation: &str) -> bool {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).count();
    let (number, rest) = citation.split_at(digits(citation));
    let Some(text) = section(page, number) else { return false };
    if let Some(rest) = rest.strip_prefix('.') {
        let item = &rest[..digits(rest)];
        // The full stop at the end of a sentence.
        return item.is_empty()
            || text.contains(&format!("\n**{number}.{item} "))
            || text.contains(&format!("\n{item}. "));
    }
    match rest.strip_prefix(" \"").and_then(|rest| rest.split_once('"')) {
        Some((name, _)) => text.contains(&format!("\n**{name}.**")),
        None => true,
    }
}

#[test]
fn citations_of_the_design_lead_somewhere() {
    let design = fs::read_to_string(root().join("docs/design.md")).expect("the design");
    let mut citations = 0;
    for (path, text) in files(".rs") {
        if path.ends_with("workspace/documents.rs") {
            continue;
        }
        // Comments break lines where they like.
        let text = text.replace("\n//! ", " ").replace("\n/// ", " ");
        for cited in text.split("DESIGN \u{a7}").skip(1) {
            citations += 1;
            let shown: String = cited.chars().take(20).collect();
            assert!(has(&design, cited), "{}: DESIGN \u{a7}{shown}", path.display());
        }
        for foreign in FOREIGN {
            assert!(!text.contains(foreign), "{} cites {foreign}", path.display());
        }
    }
    assert!(citations > 20, "{citations}");
    for invariant in 1..=12 {
        assert!(design.contains(&format!("\n| I{invariant} | ")), "I{invariant}");
    }
    for (citation, leads) in [("3", true), ("1.7)", true), ("3 \"Recovery\"", true)] {
        assert_eq!(has(&design, citation), leads, "{citation}");
    }
    for citation in ["8", "1.9", "4.12", "3 \"Nothing\"", ""] {
        assert!(!has(&design, citation), "{citation}");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut links = 0;
    for (path, text) in files(".md") {
        let dir = path.parent().expect("a folder");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            links += 1;
            assert!(dir.join(file).exists(), "{}: {target}", path.display());
        }
    }
    assert!(links > 10, "{links}");
}
