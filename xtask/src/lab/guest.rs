//! What runs in the emulated host: static programs, and the guest's kernel and initramfs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::debian::{self, Kernel};
use crate::process::{cargo, run};

/// Always built together: what one of them asks of a dependency would otherwise make it be built
/// again for the other.
const PACKAGES: [&str; 2] = ["whimbrel", "whimbrel-lab"];
/// What a stock kernel needs to hear of its power button (`lab/src/bin/guest-init/button.rs`).
const MODULES: [&str; 2] = ["button", "evdev"];
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Programs that need nothing from the system that they run on.
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds release versions of all of them, with `features`. They have a target folder of their
    /// own, because the linking options would otherwise make everything else be built again.
    pub fn build(folder: &Path, features: &[&str]) -> Result<Self> {
        let target = folder.join("static");
        run(cargo(&["build", "--release", "--locked", "--target", TARGET])
            .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
            .env("CARGO_TARGET_DIR", &target)
            .args(PACKAGES.iter().flat_map(|package| ["--package", package]))
            .args(features.iter().flat_map(|feature| ["--features", feature])))?;
        Ok(Self { folder: target.join(TARGET).join("release") })
    }

    /// Where a program lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// What boots the guest.
pub struct Guest {
    /// The stock kernel of the Debian release.
    pub kernel: PathBuf,
    /// Its initramfs: one static program, and the modules that it loads.
    pub initramfs: PathBuf,
}

impl Guest {
    /// Fetches the kernel and packs the guest's only program.
    pub fn build(programs: &Programs, folder: &Path, cache: &Path) -> Result<Self> {
        let package = debian::kernel(Kernel::Stock, &MODULES, cache)?;
        let init = programs.path("guest-init");
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.device("dev/console", (5, 1));
        archive.file(
            "init",
            &fs::read(&init).with_context(|| format!("cannot read {}", init.display()))?,
        );
        archive.modules(&package, &MODULES)?;
        fs::create_dir_all(folder)?;
        let initramfs = folder.join("guest.cpio");
        fs::write(&initramfs, archive.finish())?;
        Ok(Self { kernel: package.join("vmlinuz"), initramfs })
    }
}
