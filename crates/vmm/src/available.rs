//! How much memory the host has left for another guest.

use memory::{Backing, HugePool};
use std::path::{Path, PathBuf};

/// The host's files that tell it; other ones in tests.
#[derive(Debug)]
pub(crate) struct Available {
    root: PathBuf,
}

/// Why there is not enough, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub why: String,
    pub advice: String,
}

/// Something that bounds memory.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    bytes: u64,
    what: String,
}

impl Available {
    pub fn of_host() -> Self {
        Self { root: PathBuf::from("/") }
    }

    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let path = path.as_ref();
        std::fs::read_to_string(self.root.join(path.strip_prefix("/").unwrap_or(path))).ok()
    }

    fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.trim().parse().ok()
    }

    /// Whether `size` bytes of guest RAM are more than there is.
    pub fn shortage(&self, size: u64, backing: Backing) -> Option<Shortage> {
        if let Some(pool) = backing.pool() {
            return self.huge_shortage(size, pool);
        }
        let bounds = [self.host(), self.cgroup()];
        let least = bounds.into_iter().flatten().min_by_key(|bound| bound.bytes)?;
        (least.bytes < size).then(|| Shortage {
            why: format!("its RAM is {size} bytes, and {} leaves {}", least.what, least.bytes),
            advice: "make room, or take it all the same with --overcommit".to_owned(),
        })
    }

    fn huge_shortage(&self, size: u64, pool: HugePool) -> Option<Shortage> {
        let read = |name: &str| self.number(Path::new(&pool.folder()).join(name)).unwrap_or(0);
        let needed = size / pool.page_size();
        let free = read("free_hugepages").saturating_sub(read("resv_hugepages"));
        (free < needed).then(|| Shortage {
            why: format!("its RAM is {needed} huge pages of {pool}, and {free} are free"),
            advice: format!(
                "{}, or give --hugepages off or thp here",
                pool.advice(read("nr_hugepages") + needed - free)
            ),
        })
    }

    fn host(&self) -> Option<Bound> {
        let meminfo = self.read("/proc/meminfo")?;
        let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Bound { bytes: kib * 1024, what: "the memory that the host has available".to_owned() })
    }

    /// The tightest limit of this process's memory cgroup and of those above it.
    fn cgroup(&self) -> Option<Bound> {
        let membership = self.read("/proc/self/cgroup")?;
        let mut bounds = Vec::new();
        for line in membership.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let version = if controllers.is_empty() {
                CgroupVersion {
                    mount: "/sys/fs/cgroup",
                    limit: "memory.max",
                    usage: "memory.current",
                    reclaimable: "inactive_file",
                }
            } else if controllers.split(',').any(|c| c == "memory") {
                CgroupVersion {
                    mount: "/sys/fs/cgroup/memory",
                    limit: "memory.limit_in_bytes",
                    usage: "memory.usage_in_bytes",
                    reclaimable: "total_inactive_file",
                }
            } else {
                continue;
            };
            for group in Path::new(path).ancestors() {
                bounds.extend(self.left_in(&version, group));
            }
        }
        bounds.into_iter().min_by_key(|bound| bound.bytes)
    }

    fn left_in(&self, version: &CgroupVersion, group: &Path) -> Option<Bound> {
        let folder = Path::new(version.mount).join(group.strip_prefix("/").unwrap_or(group));
        // `max` is no number, and no limit.
        let limit = self.number(folder.join(version.limit))?;
        let used = self.number(folder.join(version.usage))?;
        let stat = self.read(folder.join("memory.stat")).unwrap_or_default();
        let reclaimable = stat.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            (name == version.reclaimable).then(|| value.trim().parse::<u64>().ok())?
        });
        let bytes = limit.saturating_sub(used).saturating_add(reclaimable.unwrap_or(0));
        Some(Bound { bytes, what: format!("the limit of the memory cgroup {}", group.display()) })
    }
}

struct CgroupVersion {
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    reclaimable: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host of these files.
    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Available) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = folder.path().to_owned();
        (folder, Available { root })
    }

    const MIB: u64 = 1 << 20;
    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   1048576 kB\n");

    #[test]
    fn what_the_host_has_available_bounds_it() {
        let (_folder, host) = host(&[MEMINFO]);
        assert_eq!(host.shortage(1024 * MIB, Backing::Small), None);
        let shortage = host.shortage(1025 * MIB, Backing::Transparent).unwrap();
        assert!(shortage.why.contains("1073741824"), "{shortage:?}");
        assert!(shortage.advice.contains("--overcommit"), "{shortage:?}");
    }

    #[test]
    fn the_tightest_cgroup_limit_bounds_it() {
        let one = "sys/fs/cgroup/memory";
        let (_folder, v1) = host(&[
            MEMINFO,
            ("proc/self/cgroup", "5:cpu:/x\n4:memory:/a/b\n0::/\n"),
            (&format!("{one}/a/b/memory.limit_in_bytes"), "9223372036854771712"),
            (&format!("{one}/a/b/memory.usage_in_bytes"), "1048576"),
            (&format!("{one}/a/memory.limit_in_bytes"), "104857600"),
            (&format!("{one}/a/memory.usage_in_bytes"), "52428800"),
            (&format!("{one}/a/memory.stat"), "cache 7\ntotal_inactive_file 1048576\n"),
        ]);
        assert_eq!(v1.shortage(51 * MIB, Backing::Small), None);
        let shortage = v1.shortage(52 * MIB, Backing::Small).unwrap();
        assert!(shortage.why.contains("cgroup /a leaves"), "{shortage:?}");

        let (_folder, v2) = host(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max"),
            ("sys/fs/cgroup/a/b/memory.current", "1"),
            ("sys/fs/cgroup/a/memory.max", "10485760"),
            ("sys/fs/cgroup/a/memory.current", "0"),
        ]);
        assert_eq!(v2.shortage(10 * MIB, Backing::Small), None);
        assert!(v2.shortage(11 * MIB, Backing::Small).is_some());
    }

    #[test]
    fn huge_pages_come_from_their_pool() {
        let pool = "sys/kernel/mm/hugepages/hugepages-2048kB";
        let (_folder, host) = host(&[
            (&format!("{pool}/nr_hugepages"), "10"),
            (&format!("{pool}/free_hugepages"), "8"),
            (&format!("{pool}/resv_hugepages"), "3"),
        ]);
        assert_eq!(host.shortage(10 * MIB, Backing::Huge2M), None);
        let shortage = host.shortage(16 * MIB, Backing::Huge2M).unwrap();
        assert!(shortage.advice.contains("vm.nr_hugepages=13"), "{shortage:?}");
    }
}
