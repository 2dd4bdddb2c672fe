//! Writes initramfs archives: the "newc" format that the kernel unpacks
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Written here rather than by the `cpio` tool, because that needs a folder with device nodes in
//! it, and so root.

use std::path::Path;

use anyhow::{Context, Result};

/// An initramfs being put together, in memory.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    /// Adds a folder; its parents have to be there already.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file that may be executed.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, REGULAR | 0o755, (0, 0), content);
    }

    /// Adds a character device with the given major and minor number.
    pub fn device(&mut self, path: &str, number: (u32, u32)) {
        self.entry(path, CHARACTER_DEVICE | 0o600, number, &[]);
    }

    /// Adds modules of the kernel from the folder that its package was unpacked to, in `modules`.
    pub fn modules(&mut self, package: &Path, modules: &[&str]) -> Result<()> {
        self.folder("modules");
        for module in modules {
            let file = format!("{module}.ko");
            let content = std::fs::read(package.join(&file))
                .with_context(|| format!("the kernel's package has no module {module}"))?;
            self.file(&format!("modules/{file}"), &content);
        }
        Ok(())
    }

    /// Ends the archive and returns it.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inodes += 1;
        let length = |bytes: usize| u32::try_from(bytes).expect("newc files are under 4 GiB");
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let fields = [
            self.inodes,
            mode,
            0, // owner
            0, // group
            links,
            0, // modification time: none, so that the same content gives the same archive
            length(content.len()),
            0, // major and minor number of the device that holds the file
            0,
            device.0,
            device.1,
            length(path.len() + 1),
            0, // checksum: not in this format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry as the kernel's unpacker reads it: path, mode, device number, content.
    type Entry = (String, u32, (u32, u32), Vec<u8>);

    fn unpack(mut bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let digits = &bytes[6 + 8 * index..14 + 8 * index];
                u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let device = (field(9), field(10));
            let path = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0);
            let content = (110 + name_size).next_multiple_of(4);
            entries.push((path, mode, device, bytes[content..content + size].to_vec()));
            bytes = &bytes[(content + size).next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn an_archive_unpacks_to_what_was_put_in() {
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.device("dev/console", (5, 1));
        archive.file("init", b"hello");
        let expected: Vec<Entry> = vec![
            ("dev".into(), 0o040_755, (0, 0), vec![]),
            ("dev/console".into(), 0o020_600, (5, 1), vec![]),
            ("init".into(), 0o100_755, (0, 0), b"hello".to_vec()),
            ("TRAILER!!!".into(), 0, (0, 0), vec![]),
        ];
        assert_eq!(unpack(&archive.finish()), expected);
    }
}
