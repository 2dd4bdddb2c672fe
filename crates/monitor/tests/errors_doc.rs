//! `docs/errors.md` and the codes are one list.

use state::Code;

#[test]
fn every_code_stands_in_the_table_with_its_meaning_and_advice_and_nothing_else_does() {
    let doc = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
    let text = std::fs::read_to_string(doc).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let codes: Vec<String> = Code::ALL.iter().map(|code| format!("`{code}`")).collect();
    let listed: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(listed, codes);
    for (row, code) in rows.iter().zip(Code::ALL) {
        assert_eq!(row.len(), 3, "{code}");
        assert_eq!(row[1], code.meaning(), "{code}");
        assert!(!row[2].is_empty(), "{code}");
    }
}
