//! A saved guest is continued once.

use super::*;
use crate::{Claim, ClaimError, Mark, Peek, ReadError};
use std::os::unix::fs::FileExt;
use uuid::Uuid;

fn claim(token: u8) -> Claim {
    Claim { host: "here".into(), boot: Uuid::from_u128(5), time: 6, token: [token; 16] }
}

#[test]
fn a_claimed_file_is_refused_unless_the_claim_is_to_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    let ram = ram_with(&[3]);
    save(at(&path), &ram, &BUFFERED).unwrap();
    let first = open(&path);
    let before = open(&path);
    assert_eq!(first.claim(), None);
    first.write_claim(&claim(1), false).unwrap();
    // Whoever opened it before asks the file and not its own memory.
    let refused = before.write_claim(&claim(2), false);
    assert!(matches!(refused, Err(ClaimError::Claimed { host, .. }) if host == "here"));
    let after = Reader::open(from(&path), true).unwrap();
    assert_eq!(after.claim(), Some(&claim(1)));
    assert_same(&after, &ram);
    after.write_claim(&claim(2), true).unwrap();
    assert_eq!(open(&path).claim(), Some(&claim(2)));
    assert!(matches!(Peek::at(from(&path)).unwrap().mark, Ok(Mark::Complete(_))));
}

#[test]
fn of_many_who_claim_at_once_exactly_one_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    for _ in 0..20 {
        save(over(&path), &ram(), &BUFFERED).unwrap();
        let results: Vec<(u8, Result<(), ClaimError>)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|token| {
                    let reader = open(&path);
                    scope.spawn(move || (token, reader.write_claim(&claim(token), false)))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<u8> =
            results.iter().filter(|(_, result)| result.is_ok()).map(|(token, _)| *token).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert_eq!(open(&path).claim(), Some(&claim(winners[0])));
        for (_, result) in results.iter().filter(|(_, result)| result.is_err()) {
            let expected =
                matches!(result, Err(ClaimError::Claimed { .. } | ClaimError::Contended(_)));
            assert!(expected, "{result:?}");
        }
    }
}

#[test]
fn a_claim_that_cannot_be_read_counts_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    save(at(&path), &ram(), &BUFFERED).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[1], crate::places::CLAIM + 4000).unwrap();
    let reader = open(&path);
    assert!(reader.claim().is_none() && reader.claim_damage().is_some());
    assert!(matches!(reader.write_claim(&claim(1), false), Err(ClaimError::Damaged(_))));
    reader.write_claim(&claim(1), true).unwrap();
    assert_eq!(open(&path).claim(), Some(&claim(1)));
}

#[test]
fn what_cannot_be_written_cannot_be_claimed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    save(at(&path), &ram(), &BUFFERED).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let origin =
        Origin::Descriptor { file: file.into(), direct: None, offset: 0, name: "f".into() };
    let refused = Reader::open(origin, false).unwrap().write_claim(&claim(1), false);
    let Err(error @ ClaimError::ReadOnly { .. }) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("--clone"), "{error}");
    assert_eq!(open(&path).claim(), None);
}

#[test]
fn a_claim_goes_into_the_file_that_was_opened_or_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    save(at(&path), &ram(), &BUFFERED).unwrap();
    let reader = open(&path);
    save(over(&path), &ram(), &BUFFERED).unwrap();
    assert!(matches!(reader.check_identity(), Err(ReadError::Replaced(_))));
    let refused = reader.write_claim(&claim(1), false);
    assert!(matches!(refused, Err(ClaimError::File(ReadError::Replaced(_)))), "{refused:?}");
    assert_eq!(open(&path).claim(), None);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(reader.check_identity(), Err(ReadError::Replaced(_))));
}

#[test]
fn a_page_that_was_cut_off_since_is_an_error_that_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.snap");
    save(at(&path), &ram_with(&[1, 7]), &BUFFERED).unwrap();
    for direct in [false, true] {
        let reader = Reader::open(from(&path), direct).unwrap();
        let whole = std::fs::metadata(&path).unwrap().len();
        let place = reader.place_of(7);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(place).unwrap();
        let mut buffer = Buffer::new(1);
        reader.read(PageRange::new(1, 1), &mut buffer).unwrap();
        let error = reader.read(PageRange::new(7, 1), &mut buffer).unwrap_err();
        assert!(
            matches!(&error, ReadError::Io { offset: Some(at), .. } if *at == place),
            "{error}"
        );
        assert!(error.to_string().contains(&format!("{place}")), "{error}");
        assert!(matches!(reader.check_identity(), Err(ReadError::Truncated { .. })));
        // What comes back is zero, and not taken for what was written.
        file.set_len(whole).unwrap();
        let error = reader.read(PageRange::new(7, 1), &mut buffer).unwrap_err();
        assert!(matches!(error, ReadError::BadPage { page: 7, .. }), "{error}");
        drop(reader);
        save(over(&path), &ram_with(&[1, 7]), &BUFFERED).unwrap();
    }
}
