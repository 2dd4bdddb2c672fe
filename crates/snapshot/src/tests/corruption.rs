//! What is not what was written is found out.

use super::*;
use crate::places::{CLAIM, FIRST};
use crate::{Damage, Peek, ReadError};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const PAGES: [u64; 9] = [0, 1, 2, 3, 700, 1023, 1024, 3000, 4095];
const FLIPS: u64 = 10_000;

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn sound(folder: &Path) -> PathBuf {
    let path = folder.join("a.snap");
    let ram = ram_with(&PAGES);
    let writer = begin(at(&path), &BUFFERED).unwrap();
    let mut lane = writer.lane();
    PAGES.iter().for_each(|page| {
        lane.write(&ram, PageRange::new(*page, 1)).unwrap();
    });
    lane.flush().unwrap();
    let mut recent = PageSet::new(4096);
    recent.insert(PageRange::new(1, 2));
    writer.finish(STATE, &recent).unwrap();
    writer.commit().unwrap();
    path
}

/// All that a file says, or that something is wrong with it.
fn all(path: &Path) -> Option<impl PartialEq + std::fmt::Debug> {
    let reader = Reader::open(from(path), false).ok()?;
    let mut pages = Vec::new();
    let mut buffer = Buffer::new(1);
    for page in reader.present().runs().flat_map(|run| run.start..run.end()) {
        reader.read(PageRange::new(page, 1), &mut buffer).ok()?;
        pages.extend_from_slice(buffer.as_slice());
    }
    reader.claim_damage().is_none().then(|| {
        (
            pages,
            reader.header().clone(),
            reader.description().to_vec(),
            reader.state().to_vec(),
            reader.present().clone(),
            reader.recent().clone(),
            reader.claim().cloned(),
        )
    })
}

/// The parts of the file: their names, and from where to where they reach, with what fills them up to
/// whole pages.
fn parts(path: &Path) -> Vec<(String, u64, u64)> {
    let peek = Peek::at(from(path)).unwrap();
    let pages = |name: &str, at: u64| (name.to_owned(), at, at + 4096);
    let mut parts =
        vec![pages("header", 0), pages("mark", 4096), pages("claim", CLAIM), pages("table", 12288)];
    parts.extend(peek.sections.unwrap().iter().map(|section| {
        let reach = section.offset + section.length.next_multiple_of(4096);
        (section.kind.as_str().to_owned(), section.offset, reach)
    }));
    let reader = open(path);
    parts.extend(PAGES.map(|page| pages("page", reader.place_of(page))));
    parts
}

#[test]
fn every_flipped_bit_is_found_out_or_without_effect() {
    let folder = tempfile::tempdir().unwrap();
    let path = sound(folder.path());
    let expected = all(&path).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let parts = parts(&path);
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut counts = std::collections::BTreeMap::<String, [u64; 2]>::new();
    for _ in 0..FLIPS {
        let part = usize::try_from(random.below(parts.len() as u64)).unwrap();
        let (name, from, to) = &parts[part];
        let (at, bit) = (from + random.below(to - from), random.below(8));
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
        let found = all(&path);
        if let Some(found) = &found {
            assert!(*found == expected, "bit {bit} at {at} ({name}) changed what is read");
        }
        counts.entry(name.clone()).or_default()[usize::from(found.is_none())] += 1;
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(all(&path), Some(expected));
    println!("{:<16} without effect, found out", "");
    for (name, [without, found]) in &counts {
        println!("{name:<16} {without:>14}, {found:>9}");
        // What fills a section up to a whole page has no meaning; all the rest has.
        let is_filled = !["header", "mark", "claim", "table", "page"].contains(&name.as_str());
        assert!(*found > 0 && (is_filled || *without == 0), "{name}");
    }
}

#[test]
fn a_file_that_was_cut_off_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = sound(folder.path());
    let length = std::fs::metadata(&path).unwrap().len();
    let mut cuts: Vec<u64> = parts(&path)
        .iter()
        .flat_map(|(_, from, to)| [*from, from + 1, from + 512, to - 4096, to - 1, *to])
        .chain([0, 1, FIRST, length - 1])
        .collect();
    let mut random = Random(77);
    cuts.extend((0..500).map(|_| random.below(length)));
    cuts.retain(|cut| *cut < length);
    // From the end on, so that one file does.
    cuts.sort_unstable_by(|one, other| other.cmp(one));
    let file = File::options().write(true).open(&path).unwrap();
    for cut in cuts {
        file.set_len(cut).unwrap();
        for direct in [false, true] {
            let refused = Reader::open(from(&path), direct);
            assert!(refused.is_err(), "cut off at {cut} of {length}");
        }
    }
}

#[test]
fn a_file_that_is_cut_off_while_it_is_read_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = sound(folder.path());
    let reader = open(&path);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(reader.place_of(3000)).unwrap();
    assert!(matches!(reader.check_identity(), Err(ReadError::Truncated { .. })));
    let mut buffer = Buffer::new(1);
    reader.read(PageRange::new(700, 1), &mut buffer).unwrap();
    let refused = reader.read(PageRange::new(3000, 1), &mut buffer);
    assert!(matches!(refused, Err(ReadError::Io { .. })), "{refused:?}");
    // Made longer again, it has zeroes there.
    file.set_len(RAM + (4 << 20)).unwrap();
    let refused = reader.read(PageRange::new(3000, 1), &mut buffer);
    let Err(error @ ReadError::BadPage { page: 3000, .. }) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains(&reader.place_of(3000).to_string()), "{error}");
    let faults = reader.verify(2, &|_| ());
    assert_eq!(faults.iter().map(|fault| fault.page).collect::<Vec<_>>(), [3000, 4095]);
    assert_eq!(faults[0].address, 3000 * 4096);
}

#[test]
fn a_page_that_is_in_another_ones_place_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = sound(folder.path());
    let reader = open(&path);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    file.write_all_at(&contents(1, 0), reader.place_of(3)).unwrap();
    let faults: Vec<u64> = reader.verify(1, &|_| ()).iter().map(|fault| fault.page).collect();
    assert_eq!(faults, [3]);
}

#[test]
fn what_is_of_another_snapshot_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (sound(folder.path()), folder.path().join("b.snap"));
    let mut header = header(RAM);
    header.snapshot = uuid::Uuid::from_u128(99);
    let writer = Writer::create(at(&other), header, DESCRIPTION, &BUFFERED).unwrap();
    writer.finish(STATE, &PageSet::new(4096)).unwrap();
    writer.commit().unwrap();
    let (from_file, to) =
        (File::open(&one).unwrap(), File::options().write(true).open(&other).unwrap());
    for at in [4096, 12288] {
        let mut page = [0; 4096];
        from_file.read_exact_at(&mut page, at).unwrap();
        to.write_all_at(&page, at).unwrap();
        let refused = Reader::open(from(&other), false);
        assert!(
            matches!(refused, Err(ReadError::Damaged { damage: Damage::Checksum(_), .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn an_incomplete_file_says_what_it_is_and_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = sound(folder.path());
    File::options().write(true).open(&path).unwrap().write_all_at(&[0; 4096], 4096).unwrap();
    let peek = Peek::at(from(&path)).unwrap();
    assert_eq!(peek.mark, Ok(crate::Mark::Missing));
    assert_eq!(peek.page.header(), Ok(header(RAM)));
    let refused = Reader::open(from(&path), false);
    let Err(error @ ReadError::Incomplete(_)) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("incomplete"), "{error}");
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    for bytes in [&b""[..], b"text", &[0x55; 30_000]] {
        std::fs::write(&path, bytes).unwrap();
        let refused = Reader::open(from(&path), false);
        assert!(
            matches!(refused, Err(ReadError::Damaged { damage: Damage::NoMagic, .. })),
            "{refused:?}"
        );
    }
}
