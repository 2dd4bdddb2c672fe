//! Debian packages: what a step needs is installed, and kernels are taken from the archive.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{output, run, succeeds};

/// Where Debian 12 gets QEMU 10 and a kernel that can be the lab's host.
const BACKPORTS: &str = "bookworm-backports";
const BACKPORTS_LIST: &str = "/etc/apt/sources.list.d/whimbrel-backports.sources";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The suite that newer packages come from: backports on Debian 12, the machine's own default
/// where that is new enough.
fn newer_suite() -> Option<&'static str> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "VERSION_CODENAME=bookworm").then_some(BACKPORTS)
}

/// Whether this machine takes packages with `apt`.
pub fn is_here() -> bool {
    succeeds(Command::new("apt-get").arg("--version"))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y"]);
    command
}

/// Brings the lists of packages up to date, those of the newer suite too.
fn update() -> Result<()> {
    let update = || run(apt().arg("update"));
    // In this order: a source without its list is no source to `indextargets`.
    update()?;
    let Some(suite) = newer_suite() else { return Ok(()) };
    let format = "$(CREATED_BY) $(CODENAME) $(COMPONENT) $(REPO_URI)";
    let targets = output(Command::new("apt-get").args(["indextargets", "--format", format]))?;
    let Some(source) = missing_source(&targets, suite)? else { return Ok(()) };
    std::fs::write(BACKPORTS_LIST, source)
        .with_context(|| format!("cannot write {BACKPORTS_LIST}"))?;
    update()
}

/// What adds `suite` to the sources that `targets` lists, unless it is among them: from the same
/// mirror as the release itself.
fn missing_source(targets: &str, suite: &str) -> Result<Option<String>> {
    let packages = || targets.lines().filter_map(|line| line.strip_prefix("Packages "));
    if packages().any(|line| line.split(' ').next() == Some(suite)) {
        return Ok(None);
    }
    let mirror = packages()
        .find_map(|line| line.strip_prefix("bookworm main "))
        .context("no apt source for `bookworm main` to take the mirror's address from")?;
    Ok(Some(format!(
        "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
    )))
}

fn installed(package: &str) -> bool {
    let query = output(Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]));
    query.is_ok_and(|status| status == "install ok installed")
}

/// Installs those of `packages` that are missing; those of `newer` come from backports where the
/// release's own are too old.
pub fn install(packages: &[&str], newer: &[&str]) -> Result<()> {
    let missing = |wanted: &[&str]| -> Vec<String> {
        wanted.iter().filter(|name| !installed(name)).map(ToString::to_string).collect()
    };
    let (packages, newer) = (missing(packages), missing(newer));
    if packages.is_empty() && newer.is_empty() {
        return Ok(());
    }
    if !is_here() {
        bail!("these Debian packages are needed, and there is no apt: {packages:?} {newer:?}");
    }
    update()?;
    let install = |names: &[String], suite: Option<&str>| {
        let mut command = apt();
        command.args(["install", "--no-install-recommends"]);
        command.args(suite.map(|suite| format!("--target-release={suite}")));
        if names.is_empty() { Ok(()) } else { run(command.args(names)) }
    };
    install(&packages, None)?;
    install(&newer, newer_suite())
        .context("cannot install Debian packages (root is needed, and the archive)")
}

/// Which of Debian's cloud kernels.
#[derive(Clone, Copy)]
pub enum Kernel {
    /// That of the release, as a guest would have it.
    Stock,
    /// The newest that the release is offered.
    Newer,
}

/// The files of a kernel package: a folder with `vmlinuz` and the modules asked for, flat.
///
/// Kept in `cache` under the package's name and version, with all modules that were ever asked for.
pub fn kernel(which: Kernel, modules: &[&str], cache: &Path) -> Result<PathBuf> {
    let attempt = fetch_kernel(which, modules, cache);
    if attempt.is_ok() {
        return attempt;
    }
    // Lists that are missing, or older than the archive, are the usual reasons.
    update()?;
    fetch_kernel(which, modules, cache)
}

fn fetch_kernel(which: Kernel, modules: &[&str], cache: &Path) -> Result<PathBuf> {
    let suite = match which {
        Kernel::Stock => None,
        Kernel::Newer => newer_suite(),
    };
    let mut meta = "linux-image-cloud-amd64".to_string();
    if let Some(suite) = suite {
        meta = format!("{meta}/{suite}");
    }
    let depends = output(Command::new("apt-cache").args(["depends", "--important", &meta]))?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("package {meta} names no kernel"))?;
    let policy = output(Command::new("apt-cache").args(["policy", package]))?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .with_context(|| format!("package {package} is not in the archive"))?;

    let folder = cache.join(format!("{package}_{}", version.replace(':', "_")));
    let files = modules.iter().map(|module| format!("{module}.ko"));
    if files.chain(["vmlinuz".to_string()]).all(|file| folder.join(file).is_file()) {
        return Ok(folder);
    }
    let scratch = cache.join(format!("{package}.part"));
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch)?;
    // The download user of apt may not write here, and need not: the archive is signed.
    run(apt().current_dir(&scratch).args(["-o", "APT::Sandbox::User=root", "download", package]))?;
    let unpack = "dpkg-deb --fsys-tarfile ./*.deb | tar x --wildcards --transform 's,.*/,,' \"$@\" \
                  && mv vmlinuz-* vmlinuz && rm ./*.deb && { xz -d ./*.ko.xz 2>/dev/null || true; }";
    run(Command::new("sh")
        .current_dir(&scratch)
        .args(["-c", unpack, "sh", "./boot/vmlinuz-*"])
        .args(modules.iter().map(|module| format!("*/{module}.ko*"))))?;
    std::fs::create_dir_all(&folder)?;
    for file in std::fs::read_dir(&scratch)? {
        let file = file?;
        std::fs::rename(file.path(), folder.join(file.file_name()))?;
    }
    std::fs::remove_dir(&scratch)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "Packages bookworm-updates main http://mirror.example/debian/\n\
                           Translations bookworm main http://other.example/debian/\n\
                           Packages bookworm main http://mirror.example/debian/\n";

    #[test]
    fn the_newer_suite_comes_from_the_mirror_of_the_release() {
        let source = missing_source(TARGETS, BACKPORTS).unwrap().unwrap();
        assert!(source.contains("URIs: http://mirror.example/debian/\n"), "{source}");
        assert!(source.contains("Suites: bookworm-backports\n"), "{source}");
    }

    #[test]
    fn a_suite_that_is_there_is_not_added_again() {
        let more = format!("{TARGETS}Packages bookworm-backports main http://x.example/debian/\n");
        assert_eq!(missing_source(&more, BACKPORTS).unwrap(), None);
    }

    #[test]
    fn without_a_source_of_the_release_there_is_no_mirror_to_guess() {
        assert!(missing_source("", BACKPORTS).is_err());
    }
}
