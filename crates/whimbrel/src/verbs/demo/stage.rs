//! The folder in which the demo's machines live.

use monitor::RuntimeDir;
use std::path::PathBuf;

/// A runtime folder of its own, so that the demo meets no other machine. Removed when dropped.
pub struct Stage {
    pub runtime: RuntimeDir,
}

impl Stage {
    pub fn build() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("whimbrel-demo-{}", std::process::id()));
        Ok(Self { runtime: RuntimeDir::at(&path)? })
    }

    /// A file of that name in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.runtime.path().join(name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(self.runtime.path()) {
            tracing::warn!(%error, folder = %self.runtime.path().display(), "cannot remove");
        }
    }
}
