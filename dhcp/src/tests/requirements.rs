//! The table of requirements names tests that exist.

use std::{fs, path::Path};

#[test]
fn every_test_named_in_the_table_of_requirements_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("../docs/dhcp-rfc2131.md")).unwrap();
    let sources: String = [root.join("src"), root.join("src/tests")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok())
        .collect();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() > 50, "the table is there");
    for row in rows {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
        for name in tests.split('`').skip(1).step_by(2) {
            assert!(sources.contains(&format!("fn {name}(")), "{name}");
        }
    }
}
