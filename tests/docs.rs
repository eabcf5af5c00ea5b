//! What the documents say stays true: quoted files are the files, links lead somewhere, and modules keep to the code map.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every Markdown file at the top and under `docs/`.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs"] {
        for entry in fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 5, "found only {found:?}");
    found
}

/// The blocks that `<!-- file: PATH -->` announces: path and text.
fn quoted(text: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(path) = line
            .strip_prefix("<!-- file: ")
            .and_then(|rest| rest.strip_suffix(" -->"))
        else {
            continue;
        };
        let fence = lines.next().unwrap_or_default();
        assert!(
            fence.starts_with("```"),
            "no fenced block behind `{line}` but `{fence}`"
        );
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        found.push((path, block.join("\n") + "\n"));
    }
    found
}

/// The targets of inline links, outside fenced blocks.
fn links(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        if !fenced {
            found.extend(
                line.split("](")
                    .skip(1)
                    .filter_map(|rest| rest.split(')').next()),
            );
        }
    }
    found
}

#[test]
fn quoted_files_equal_the_files() {
    let mut seen = BTreeSet::new();
    for document in documents() {
        for (path, block) in quoted(&fs::read_to_string(&document).unwrap()) {
            let file = fs::read_to_string(Path::new(ROOT).join(path))
                .unwrap_or_else(|error| panic!("{}: {path}: {error}", document.display()));
            assert_eq!(
                block,
                file,
                "{}: the block is not what {path} holds",
                document.display()
            );
            seen.insert(Path::new(ROOT).join(path));
        }
    }
    let recipes = fs::read_dir(Path::new(ROOT).join("docs/receivers")).unwrap();
    for folder in recipes.map(|entry| entry.unwrap().path()) {
        for file in fs::read_dir(folder).unwrap() {
            let file = file.unwrap().path();
            assert!(
                !file.is_file() || seen.contains(&file),
                "{} is quoted nowhere",
                file.display()
            );
        }
    }
}

#[test]
fn relative_links_lead_to_a_file() {
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains(':') {
                continue;
            }
            let target = document.parent().unwrap().join(path);
            assert!(
                target.exists(),
                "{}: {link} leads nowhere",
                document.display()
            );
        }
    }
}

/// One row of the code map: a module and, where the row names them, the only ones that it may import.
struct Row {
    module: String,
    only: Option<BTreeSet<String>>,
}

fn code_map() -> Vec<Row> {
    let text = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    let table = text.split("\n## Code map\n").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| [`crate::"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let module = cells[1].trim_matches(['[', ']', '`']);
        let only = (cells[3] != "rows below").then(|| {
            cells[3]
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        });
        Row {
            module: module.trim_start_matches("crate::").to_owned(),
            only,
        }
    })
    .collect()
}

/// The Rust files of a top-level module, without those that hold only tests.
fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        fs::read_dir(path)
            .unwrap()
            .flat_map(|entry| sources(&entry.unwrap().path()))
            .collect()
    } else if path.extension().is_some_and(|extension| extension == "rs")
        && path.file_stem().is_some_and(|stem| stem != "tests")
    {
        vec![path.to_owned()]
    } else {
        Vec::new()
    }
}

/// The top-level modules that code names behind `crate::`, alone or in braces. Comments and test modules do not count.
fn imports(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let mut depth = 0;
        let mut word = String::new();
        let mut first = true;
        for letter in rest.chars() {
            match letter {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => word.push(letter),
                _ => {
                    if first && !word.is_empty() {
                        found.insert(std::mem::take(&mut word));
                        first = false;
                    }
                    word.clear();
                    match letter {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => first = true,
                        _ => {}
                    }
                    if depth <= 0 {
                        break;
                    }
                }
            }
        }
    }
    found
}

#[test]
fn modules_import_only_what_the_code_map_allows() {
    let rows = code_map();
    let src = Path::new(ROOT).join("src");
    let mut faults = Vec::new();
    for entry in fs::read_dir(&src).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap();
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let Some(place) = rows.iter().position(|row| row.module == module) else {
            faults.push(format!("{module} has no row"));
            continue;
        };
        for file in sources(&path) {
            for import in imports(&fs::read_to_string(&file).unwrap()) {
                let known = rows.iter().position(|row| row.module == import);
                let allowed = import == module
                    || rows[place]
                        .only
                        .as_ref()
                        .map_or(known > Some(place), |only| only.contains(&import));
                if !allowed {
                    faults.push(format!("{} imports {import}", file.display()));
                }
            }
        }
    }
    assert!(
        faults.is_empty(),
        "against the code map of ARCHITECTURE.md:\n{}",
        faults.join("\n")
    );
    for (place, row) in rows.iter().enumerate() {
        for import in row.only.iter().flatten() {
            assert!(
                rows[place + 1..]
                    .iter()
                    .any(|below| below.module == *import),
                "{} lists {import}, which is no row below it",
                row.module
            );
        }
    }
}

#[test]
fn imports_are_found_in_every_form() {
    let source = "use crate::a;\nuse crate::{\n    b::{c, d},\n    e,\n};\n/// crate::no\nfn f() { crate::g::h(); }\n#[cfg(test)]\nuse crate::tests_only;\n";
    let want: BTreeSet<_> = ["a", "b", "e", "g"].map(str::to_owned).into();
    assert_eq!(imports(source), want);
}

/// `Upstream::send` takes a body's stream. Whoever makes one can send past the forwarder, so nobody else may.
#[test]
fn only_the_forwarder_and_the_sending_commands_make_streams_of_bodies() {
    let src = Path::new(ROOT).join("src");
    let mut found = BTreeSet::new();
    for file in sources(&src) {
        let name = file
            .strip_prefix(&src)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let text = fs::read_to_string(&file).unwrap();
        if text.contains(".into_stream(") && !name.starts_with("body/") {
            found.insert(name);
        }
    }
    let want: BTreeSet<_> = ["cli/client.rs", "forward.rs"].map(str::to_owned).into();
    assert_eq!(found, want);
}
