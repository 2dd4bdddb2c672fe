//! How fast incompressible RAM goes to a file and comes back.
//!
//! `cargo run --release -p whimbrel-snapshot --example rates -- FOLDER [MIB] [LANES]`

use memory::{Backing, GuestRam, Layout, PAGE_SIZE, PageRange, PageSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use whimbrel_snapshot::{Buffer, Header, Kind, Origin, Reader, Target, WriteOptions, Writer};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Pages that a lane claims at once.
const CHUNK: u64 = 1024;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next() else {
        eprintln!("usage: rates FOLDER [MIB] [LANES]");
        std::process::exit(2);
    };
    let mut number = |usual: u64| arguments.next().map_or(Ok(usual), |text| text.parse());
    let (mib, lanes) = (number(1024)?, number(2)?);
    let ram = GuestRam::new(mib << 20, Backing::Small)?;
    fill(&ram)?;
    let path = Path::new(&folder).join("rates.snap");
    for direct in [true, false] {
        for _ in 0..5 {
            let start = Instant::now();
            write(&ram, &path, direct, lanes)?;
            let written = start.elapsed();
            drop_cache(&path)?;
            let start = Instant::now();
            read(&path, ram.pages(), direct, lanes)?;
            let read = start.elapsed();
            std::fs::remove_file(&path)?;
            let rate = |time: std::time::Duration| (mib << 20) as f64 / time.as_secs_f64() / 1e9;
            println!(
                "{mib} MiB, {lanes} lanes, {}: written and durable {:.2} GB/s, read (page cache \
                 dropped) and verified {:.2} GB/s",
                if direct { "O_DIRECT" } else { "buffered" },
                rate(written),
                rate(read)
            );
        }
    }
    Ok(())
}

fn fill(ram: &GuestRam) -> Result<()> {
    let mut word = 0x9e37_79b9_7f4a_7c15u64;
    for page in 0..ram.pages() {
        let mut bytes = [0; 4096];
        for chunk in bytes.chunks_exact_mut(8) {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        ram.slice(PageRange::new(page, 1))?.copy_from(&bytes);
    }
    Ok(())
}

/// Has threads do chunk after chunk of RAM.
fn each_chunk(
    pages: u64,
    threads: u64,
    work: impl Fn(&mut dyn Iterator<Item = PageRange>) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicU64::new(0);
    let claim = || {
        let start = next.fetch_add(CHUNK, Ordering::Relaxed);
        (start < pages).then(|| PageRange::new(start, CHUNK.min(pages - start)))
    };
    let worker = || work(&mut std::iter::from_fn(claim)).map_err(|error| error.to_string());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => Ok(done?),
            Err(_) => Err("a thread panicked".into()),
        })
    })
}

fn write(ram: &GuestRam, path: &Path, direct: bool, lanes: u64) -> Result<()> {
    let header = Header {
        kind: Kind::Snapshot,
        machine: uuid::Uuid::new_v4(),
        name: "rates".to_owned(),
        snapshot: uuid::Uuid::new_v4(),
        taken: 0,
        builder: env!("CARGO_PKG_VERSION").to_owned(),
        regions: Layout::new(ram.pages() * PAGE_SIZE, PAGE_SIZE)?.regions().to_vec(),
        backing: Backing::Small,
        apart: false,
    };
    let target = Target::Path { path: path.to_owned(), offset: 0, force: true };
    let writer = Writer::create(target, header, b"", &WriteOptions { direct })?;
    if let Some(reason) = writer.buffered_because() {
        println!("buffered: {reason}");
    }
    each_chunk(ram.pages(), lanes, |chunks| {
        let mut lane = writer.lane();
        for chunk in chunks {
            lane.write(ram, chunk)?;
        }
        Ok(lane.flush()?)
    })?;
    writer.finish(b"", &PageSet::new(ram.pages()))?;
    writer.commit()?;
    Ok(())
}

fn read(path: &Path, pages: u64, direct: bool, threads: u64) -> Result<()> {
    let reader = Reader::open(Origin::Path { path: path.to_owned(), offset: 0 }, direct)?;
    each_chunk(pages, threads, |chunks| {
        let mut buffer = Buffer::new(256);
        for chunk in chunks {
            for start in (chunk.start..chunk.end()).step_by(256) {
                let count = 256.min(chunk.end() - start);
                reader.read(PageRange::new(start, count), &mut buffer)?;
            }
        }
        Ok(())
    })
}

fn drop_cache(path: &Path) -> Result<()> {
    let file = std::fs::File::open(path)?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}
