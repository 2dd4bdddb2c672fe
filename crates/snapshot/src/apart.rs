//! Which memory file RAM is in, where it is not in the file itself.

use crate::bytes::{array_at, put, u32_at, u64_at};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use uuid::Uuid;

const GENERATION: usize = 16;
const LENGTH: usize = 24;
const PATH: usize = 28;
/// Most bytes of a path (`PATH_MAX`, include/uapi/linux/limits.h).
const LONGEST: usize = 4096;
/// Most bytes of the section.
pub(crate) const MOST: u64 = (PATH + LONGEST) as u64;

/// RAM that stays in a memory file, as the state beside it names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apart {
    /// Names what is in the memory file.
    pub identity: Uuid,
    /// The generation of it that the state belongs to.
    pub generation: u64,
    /// Where it was, in at most 4096 bytes.
    pub path: PathBuf,
}

impl Apart {
    /// The section that says this; `None` when the path is too long.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let Self { identity, generation, path } = self;
        let path = path.as_os_str().as_bytes();
        let length = u32::try_from(path.len()).ok().filter(|_| path.len() <= LONGEST)?;
        let mut bytes = vec![0; PATH + path.len()];
        put(&mut bytes, 0, identity.as_bytes());
        put(&mut bytes, GENERATION, &generation.to_le_bytes());
        put(&mut bytes, LENGTH, &length.to_le_bytes());
        put(&mut bytes, PATH, path);
        Some(bytes)
    }

    /// What such a section says, if it says anything.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let path = bytes.get(PATH..)?;
        let is_whole = usize::try_from(u32_at(bytes, LENGTH)) == Ok(path.len());
        let is_path = is_whole && !path.is_empty() && !path.contains(&0) && path.len() <= LONGEST;
        is_path.then(|| Self {
            identity: Uuid::from_bytes(array_at(bytes, 0)),
            generation: u64_at(bytes, GENERATION),
            path: OsString::from_vec(path.to_vec()).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_memory_file_reads_as_it_was_written(
            identity: u128, generation: u64, path in proptest::collection::vec(1u8.., 1..300),
        ) {
            let path = OsString::from_vec(path).into();
            let apart = Apart { identity: Uuid::from_u128(identity), generation, path };
            let bytes = apart.encode().unwrap();
            prop_assert_eq!(Apart::decode(&bytes[..bytes.len() - 1]), None);
            prop_assert_eq!(Apart::decode(&bytes), Some(apart));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(apart) = Apart::decode(&bytes) {
                prop_assert_eq!(apart.encode(), Some(bytes));
            }
        }
    }

    #[test]
    fn a_path_that_is_too_long_or_none_is_refused() {
        let of = |path: &str| Apart { identity: Uuid::nil(), generation: 1, path: path.into() };
        assert!(of(&"p".repeat(4096)).encode().is_some());
        assert!(of(&"p".repeat(4097)).encode().is_none());
        assert_eq!(Apart::decode(&of("").encode().unwrap()), None);
        assert_eq!(Apart::decode(&of("a\0b").encode().unwrap()), None);
    }
}
