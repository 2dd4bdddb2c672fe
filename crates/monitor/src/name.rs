//! What machines are called.

use std::fmt;
use std::str::FromStr;

/// Longest name, in bytes: short enough for the path of a socket in any runtime folder.
const LONGEST: usize = 48;

/// The name of a machine: unique among those of one user on one host, and safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineName(String);

/// Why a text is no [`MachineName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no name for a machine: use 1 to {LONGEST} letters, digits, `.`, `_` and `-`, \
     starting with a letter or digit"
)]
pub struct NameError(String);

impl MachineName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MachineName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = text.len() <= LONGEST
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError(text.chars().take(2 * LONGEST).collect()))
        }
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_plain_words() {
        let longest = "x".repeat(LONGEST);
        for good in ["a", "7", "web-1.old_copy", &longest] {
            assert_eq!(good.parse::<MachineName>().unwrap().to_string(), good);
        }
        let too_long = "x".repeat(LONGEST + 1);
        for bad in ["", ".", "..", "-x", "a/b", "a b", "ä", "a\0", &too_long] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_never_leaves_its_folder(text in any::<String>()) {
            if let Ok(name) = text.parse::<MachineName>() {
                let path = std::path::Path::new(name.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert_eq!(path.file_name().and_then(|n| n.to_str()), Some(name.as_str()));
            }
        }
    }
}
