//! What was written is what is read.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt};

#[test]
fn what_was_saved_is_read_page_by_page_at_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    let ram = ram_with(&[0, 1, 2, 700, 1023, 1024, 4095]);
    let written = save(at(&path), &ram, &WriteOptions { direct: true }).unwrap();
    assert_eq!(written.pages, 7);
    assert_eq!(names(folder.path()), ["a.snap"]);
    for direct in [false, true] {
        let reader = Reader::open(from(&path), direct).unwrap();
        assert_same(&reader, &ram);
        assert_eq!(reader.header(), &header(RAM));
        assert_eq!(reader.present().count(), 7);
        assert!(reader.recent().is_empty());
        reader.check_identity().unwrap();
        assert!(reader.verify(3, &|_| ()).is_empty());
        let mut page = [0; 4096];
        let file = std::fs::File::open(&path).unwrap();
        file.read_exact_at(&mut page, (2 << 20) + 700 * 4096).unwrap();
        assert_eq!(page[..], contents(700, 0));
        assert_eq!(reader.place_of(700), (2 << 20) + 700 * 4096);
    }
}

#[test]
fn much_comes_in_parts_that_are_told_of_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    // A run of 2500 pages, and one more.
    let pages: Vec<u64> = (100..2600).chain([3000]).collect();
    save(at(&path), &ram_with(&pages), &BUFFERED).unwrap();
    let reader = open(&path);
    let all = PageRange::new(0, 4096);
    let (mut whole, mut parts) = (Buffer::new(4096), Buffer::new(4096));
    reader.read(all, &mut whole).unwrap();
    let mut came = 0;
    reader.read_by_parts(all, &mut parts, &mut || came += 1).unwrap();
    assert_eq!(came, 4);
    assert!(whole.as_slice() == parts.as_slice());
    for page in [0, 99, 100, 1123, 1124, 2147, 2148, 2599, 2600, 3000, 4095] {
        let at = usize::try_from(page * PAGE_SIZE).unwrap();
        let expected = if pages.contains(&page) { contents(page, 0) } else { vec![0; 4096] };
        assert_eq!(parts.as_slice()[at..at + 4096], expected, "page {page}");
    }
}

#[test]
fn the_file_takes_what_was_touched_and_is_as_long_as_ram() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    let written = save(at(&path), &ram_with(&[9]), &BUFFERED).unwrap();
    let about = std::fs::metadata(&path).unwrap();
    assert_eq!(about.len(), written.size);
    assert_eq!(about.len(), (2 << 20) + RAM + 4096);
    assert_eq!(about.mode() & 0o777, 0o600);
    // A dozen pages of tables and records, and what the file system needs for itself.
    assert!(about.blocks() * 512 < 256 << 10, "{} bytes on disk", about.blocks() * 512);
}

#[test]
fn a_page_that_becomes_zero_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    let ram = ram_with(&[5, 6, 7]);
    let writer = begin(at(&path), &BUFFERED).unwrap();
    let (mut one, mut other) = (writer.lane(), writer.lane());
    let totals = one.write(&ram, PageRange::new(4, 5)).unwrap();
    assert_eq!(totals, LaneTotals { data: 3, zero: 2, bytes: 3 * 4096 });
    one.flush().unwrap();
    fill(&ram, 6, &[0; 4096]);
    assert_eq!(other.write(&ram, PageRange::new(6, 1)).unwrap().zero, 1);
    // Discarded while it waits in the lane's own buffer.
    fill(&ram, 5, &contents(5, 1));
    one.write(&ram, PageRange::new(5, 1)).unwrap();
    one.absent(PageRange::new(5, 1)).unwrap();
    one.flush().unwrap();
    other.flush().unwrap();
    writer.finish(STATE, &PageSet::new(4096)).unwrap();
    writer.commit().unwrap();
    let reader = open(&path);
    assert_eq!(reader.present().runs().collect::<Vec<_>>(), [PageRange::new(7, 1)]);
    let mut raw = vec![1; 3 * 4096];
    std::fs::File::open(&path).unwrap().read_exact_at(&mut raw, reader.place_of(5)).unwrap();
    assert!(raw[..2 * 4096].iter().all(|byte| *byte == 0));
    assert_eq!(raw[2 * 4096..], contents(7, 0));
}

#[test]
fn what_was_touched_last_is_a_hint_that_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    let writer = begin(at(&path), &BUFFERED).unwrap();
    let mut recent = PageSet::new(4096);
    recent.insert(PageRange::new(60, 70));
    writer.finish(STATE, &recent).unwrap();
    writer.commit().unwrap();
    assert_eq!(open(&path).recent(), &recent);
}

#[test]
fn a_snapshot_behind_somebody_elses_header_leaves_that_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    std::fs::write(&path, [7; 10_000]).unwrap();
    let ram = ram_with(&[1, 2]);
    for offset in [8192, 1000] {
        let target = Target::Path { path: path.clone(), offset, force: false };
        let writer = begin(target, &WriteOptions { direct: true }).unwrap();
        assert_eq!(writer.buffered_because().is_some(), offset == 1000);
        let mut lane = writer.lane();
        lane.write(&ram, PageRange::new(1, 2)).unwrap();
        lane.flush().unwrap();
        writer.finish(STATE, &PageSet::new(4096)).unwrap();
        writer.commit().unwrap();
        let origin = Origin::Path { path: path.clone(), offset };
        assert_same(&Reader::open(origin, true).unwrap(), &ram);
        let start = usize::try_from(offset).unwrap();
        assert!(std::fs::read(&path).unwrap()[..start].iter().all(|byte| *byte == 7));
    }
}

#[test]
fn a_snapshot_goes_into_descriptors_and_comes_out_of_them() {
    use rustix::fs::{Mode, OFlags};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    std::fs::write(&path, vec![7; 30 << 20]).unwrap();
    let open = |flags| rustix::fs::open(&path, OFlags::RDWR | flags, Mode::empty()).unwrap();
    let ram = ram_with(&[1, 2, 4000]);
    for around in [false, true] {
        let direct = || around.then(|| open(OFlags::DIRECT));
        let (file, name) = (open(OFlags::empty()), "fd 9".to_owned());
        let target = Target::Descriptor { file, direct: direct(), offset: 4096, name };
        save(target, &ram, &WriteOptions { direct: true }).unwrap();
        let (file, name) = (open(OFlags::empty()), "fd 9".to_owned());
        let origin = Origin::Descriptor { file, direct: direct(), offset: 4096, name };
        let reader = Reader::open(origin, true).unwrap();
        assert_eq!(reader.is_direct(), around);
        assert_same(&reader, &ram);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_passes_come_in_whatever_order_the_last_contents_are_read(
        passes in proptest::collection::vec(
            proptest::collection::vec((0u64..4096, 1u64..200, 0u8..4, any::<bool>()), 0..8), 1..6,
        ),
        direct: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.snap");
        let ram = ram();
        let writer = begin(at(&path), &WriteOptions { direct }).unwrap();
        let mut expected = BTreeMap::new();
        for (salt, pass) in (0..).zip(passes) {
            let mut lanes = [writer.lane(), writer.lane()];
            // Within a pass a page comes once.
            let mut seen = PageSet::new(4096);
            for (start, count, how, second) in pass {
                let range = PageRange::new(start, count.min(4096 - start));
                if seen.count_in(range) > 0 {
                    continue;
                }
                seen.insert(range);
                let lane = &mut lanes[usize::from(second)];
                for page in range.start..range.end() {
                    let is_data = how > 1 || (how == 1 && page % 3 > 0);
                    if is_data {
                        fill(&ram, page, &contents(page, salt));
                        expected.insert(page, salt);
                    } else {
                        fill(&ram, page, &[0; 4096]);
                        expected.remove(&page);
                    }
                }
                if how == 0 { lane.absent(range).unwrap() } else { lane.write(&ram, range).unwrap() };
            }
            lanes.iter_mut().for_each(|lane| lane.flush().unwrap());
        }
        writer.finish(STATE, &PageSet::new(4096)).unwrap();
        writer.commit().unwrap();
        let reader = Reader::open(from(&path), direct).unwrap();
        assert_same(&reader, &ram);
        prop_assert_eq!(
            reader.present().runs().flat_map(|run| run.start..run.end()).collect::<Vec<_>>(),
            expected.into_keys().collect::<Vec<_>>()
        );
    }
}

#[test]
fn pages_that_others_copied_are_written_as_they_were_copied() {
    let folder = tempfile::tempdir().unwrap();
    for direct in [false, true] {
        let path = folder.path().join(format!("{direct}.snap"));
        let ram = ram_with(&[4, 5, 8, 9, 20]);
        let writer = begin(at(&path), &WriteOptions { direct }).unwrap();
        let mut lane = writer.lane();
        let range = PageRange::new(2, 20);
        let mut copy = Buffer::new(24);
        copy.as_mut_slice().fill(0x55);
        let bytes = 3 * 4096..23 * 4096;
        ram.read(range, &mut copy.as_mut_slice()[bytes]).unwrap();
        let totals = lane.write_copied(range, &copy, 3).unwrap();
        assert_eq!(totals, LaneTotals { data: 5, zero: 15, bytes: 5 * 4096 });
        // What the buffer does not have was not copied.
        let beyond = lane.write_copied(range, &copy, 5).unwrap_err();
        assert!(matches!(beyond, WriteError::Misused { .. }), "{beyond}");
        let outside = lane.write_copied(PageRange::new(4095, 2), &copy, 0).unwrap_err();
        assert!(matches!(outside, WriteError::Misused { .. }), "{outside}");
        // A page that is zero by now leaves nothing behind.
        copy.as_mut_slice()[..4096].fill(0);
        lane.write_copied(PageRange::new(9, 1), &copy, 0).unwrap();
        fill(&ram, 9, &[0; 4096]);
        writer.finish(STATE, &PageSet::new(ram.pages())).unwrap();
        writer.commit().unwrap();
        assert_same(&Reader::open(from(&path), direct).unwrap(), &ram);
    }
}
