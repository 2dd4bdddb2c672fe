//! A file as what pages come from while the guest runs.

use crate::fill::{PageLane, PageReadError, PageSource};
use memory::{PageRange, PageSet};
use snapshot::{Buffer, ReadError, Reader};
use std::sync::Arc;

/// Pages of a snapshot, each verified before anybody sees it.
pub(super) struct FilePages(pub Arc<Reader>);

impl PageSource for FilePages {
    fn present(&self) -> &PageSet {
        self.0.present()
    }

    fn recent(&self) -> &PageSet {
        self.0.recent()
    }

    fn lane(&self) -> Box<dyn PageLane + '_> {
        Box::new(Lane { reader: &self.0, buffer: Buffer::new(0) })
    }
}

struct Lane<'a> {
    reader: &'a Reader,
    buffer: Buffer,
}

impl PageLane for Lane<'_> {
    fn read(&mut self, range: PageRange, came: &mut dyn FnMut()) -> Result<&[u8], PageReadError> {
        if self.buffer.pages() < range.count {
            self.buffer = Buffer::new(range.count);
        }
        self.reader.read_by_parts(range, &mut self.buffer, came).map_err(|error| {
            let page = match &error {
                ReadError::BadPage { page, .. } => *page,
                _ => range.start,
            };
            PageReadError { page, why: error.to_string() }
        })?;
        let whole = self.buffer.as_slice();
        let length = usize::try_from(range.bytes()).ok().filter(|length| *length <= whole.len());
        let short = || PageReadError { page: range.start, why: "its buffer is too short".into() };
        length.map(|length| &whole[..length]).ok_or_else(short)
    }
}
