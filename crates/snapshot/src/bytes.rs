//! Numbers at fixed places, little-endian.

/// The four bytes at `at`.
///
/// # Panics
/// When there are no four bytes: places are constants, in pages of a fixed size.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

/// The eight bytes at `at`. Panics as [`u32_at`] does.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// The `N` bytes at `at`. Panics as [`u32_at`] does.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes is an array of N")
}

/// Puts `value` at `at`. Panics as [`u32_at`] does.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Puts a text into a field of `room` bytes: its length in four bytes, then the text. `false` when it
/// does not fit.
#[must_use]
pub(crate) fn put_text(bytes: &mut [u8], at: usize, room: usize, text: &str) -> bool {
    let Ok(length) = u32::try_from(text.len()) else { return false };
    if text.len() + 4 > room {
        return false;
    }
    put(bytes, at, &length.to_le_bytes());
    put(bytes, at + 4, text.as_bytes());
    true
}

/// The text in a field of `room` bytes, if its length fits and it is UTF-8.
#[must_use]
pub(crate) fn text_at(bytes: &[u8], at: usize, room: usize) -> Option<&str> {
    let length = usize::try_from(u32_at(bytes, at)).ok().filter(|length| *length <= room - 4)?;
    std::str::from_utf8(&bytes[at + 4..at + 4 + length]).ok()
}

/// The page with its own checksum in the four bytes at `at`, which count as zero.
pub(crate) fn seal(page: &mut [u8], at: usize) {
    put(page, at, &[0; 4]);
    let sum = crate::checksum::of(page);
    put(page, at, &sum.to_le_bytes());
}

/// Whether the page's own checksum fits.
pub(crate) fn is_sealed(page: &[u8], at: usize) -> bool {
    let mut sum = crate::checksum::Running::new();
    sum.update(&page[..at]);
    sum.update(&[0; 4]);
    sum.update(&page[at + 4..]);
    sum.value() == u32_at(page, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_fits_its_field_or_is_refused() {
        let mut field = [0; 16];
        assert!(put_text(&mut field, 4, 8, "four"));
        assert_eq!(text_at(&field, 4, 8), Some("four"));
        assert!(!put_text(&mut field, 4, 8, "fives"));
        put(&mut field, 4, &5u32.to_le_bytes());
        assert_eq!(text_at(&field, 4, 8), None);
        put(&mut field, 4, &[1, 0, 0, 0, 0xff]);
        assert_eq!(text_at(&field, 4, 8), None);
    }

    #[test]
    fn a_sealed_page_shows_every_change() {
        let mut page = [3; 4096];
        seal(&mut page, 12);
        assert!(is_sealed(&page, 12));
        for at in 0..page.len() {
            page[at] ^= 0x10;
            assert!(!is_sealed(&page, 12), "a change at {at} was not seen");
            page[at] ^= 0x10;
        }
    }
}
