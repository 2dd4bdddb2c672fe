//! Which threads of this process run the guest's processors.

use std::io;

/// Index and thread id of each processor, in order. The machine names its threads `vcpuN`.
pub(crate) fn of_vcpus() -> io::Result<Vec<(u32, i32)>> {
    let mut cpus = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        // A thread may end between being listed and being asked for its name.
        let Ok(name) = std::fs::read_to_string(entry.path().join("comm")) else { continue };
        let index = name.trim_end().strip_prefix("vcpu").and_then(|n| n.parse().ok());
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        cpus.extend(index.zip(id));
    }
    cpus.sort_unstable();
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn threads_are_found_by_their_names() {
        let (ready, started) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("vcpu7".into()).spawn(move || {
            ready.send(()).unwrap();
            let _ = ended.recv();
        });
        started.recv().unwrap();
        assert!(of_vcpus().unwrap().iter().any(|(index, id)| *index == 7 && *id > 0));
        drop(end);
        thread.unwrap().join().unwrap();
    }
}
