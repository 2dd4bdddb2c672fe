//! In what two snapshots differ.

use super::*;

#[test]
fn the_pages_that_differ_are_those_of_which_the_contents_do() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("a.snap"), folder.path().join("b.snap"));
    let ram = ram_with(&[1, 2, 3, 2000]);
    save(at(&one), &ram, &BUFFERED).unwrap();
    fill(&ram, 2, &contents(2, 1));
    fill(&ram, 3, &[0; 4096]);
    fill(&ram, 9, &[0; 4096]);
    fill(&ram, 4095, &contents(4095, 0));
    save(at(&other), &ram, &BUFFERED).unwrap();
    let (one, other) = (open(&one), open(&other));
    let differ: Vec<PageRange> = one.differences(&other).runs().collect();
    assert_eq!(differ, [PageRange::new(2, 2), PageRange::new(4095, 1)]);
    assert_eq!(other.differences(&one), one.differences(&other));
    assert!(one.differences(&one).is_empty());
}
