//! The loop of the self-check: verify, rewrite, wait, all registers holding
//! known values meanwhile
//!
//! Written in assembly so that for nearly all of the guest's time each register
//! is known: the general ones hold the processor's progress, the others an
//! image made for this very batch. Whatever is lost or set back shows when the
//! batch ends.

use super::fpu::{Image, Vectors};
use super::pattern;
use super::progress::Progress;
use core::arch::global_asm;
use core::mem::offset_of;

/// A page to visit
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Visit {
    /// Its address
    pub page: u64,
    /// Seed of what it should hold
    pub expected: u64,
    /// Seed of what to write
    pub written: u64,
    /// What to do: the constants below
    pub action: u64,
}

/// Verify the page against `expected`
pub const VERIFY: u64 = 1;
/// Verify that it is zero
pub const VERIFY_ZERO: u64 = 2;
/// Write `written`
pub const WRITE: u64 = 4;
/// Write zeroes
pub const WRITE_ZERO: u64 = 8;

/// A batch of pages, and the clock while they are visited
#[repr(C, align(64))]
pub struct Batch {
    load: Image,
    saved: Image,
    vectors: Vectors,
    mask: u64,
    /// In: the general registers; out: what was there in the end
    pub progress: Progress,
    visits: *const Visit,
    left: usize,
    /// In: wait afterwards until the TSC reads this
    pub deadline: u64,
    /// In, out: the last reading of the TSC
    pub last: u64,
    /// Out: the longest time between two readings
    pub gap: u64,
    /// Out: the reading at its end
    pub gap_end: u64,
    /// In, out: number of readings
    pub reads: u64,
}

unsafe extern "C" {
    fn whimbrel_sweep(batch: *mut u8);
}

impl Batch {
    /// With nothing done, on a processor with these registers, all of which must
    /// be enabled
    #[must_use]
    pub const fn new(vectors: Vectors) -> Self {
        Self {
            load: Image::zeroed(),
            saved: Image::zeroed(),
            vectors,
            mask: vectors.mask(),
            progress: Progress::START,
            visits: core::ptr::null(),
            left: 0,
            deadline: 0,
            last: 0,
            gap: 0,
            gap_end: 0,
            reads: 0,
        }
    }

    /// Visits the pages, and waits if all were as expected; returns the index
    /// of the first that was not, which is left as it was found. The vector and
    /// floating-point registers hold what belongs to `seed` meanwhile.
    ///
    /// # Safety
    /// Each page must be 4096 bytes of memory, aligned, that nothing else uses.
    pub unsafe fn run(&mut self, visits: &[Visit], seed: u64) -> Option<usize> {
        self.load.fill(&self.vectors, seed);
        self.visits = visits.as_ptr();
        self.left = visits.len();
        // SAFETY: the batch and the visits are valid, the pages are by the caller
        unsafe { whimbrel_sweep((&raw mut *self).cast()) };
        (self.left != 0).then(|| visits.len() - self.left)
    }

    /// The first vector or floating-point register that did not hold until the
    /// end what belongs to `seed`, as [`Image::compare`] has it
    #[must_use]
    pub fn compare(&self, seed: u64) -> Option<(usize, u64, u64)> {
        self.saved.compare(&self.vectors, seed)
    }
}

const _: () = assert!(size_of::<usize>() == 8);

global_asm!(
    ".section .text.sweep, \"ax\"",
    ".global whimbrel_sweep",
    "whimbrel_sweep:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rax, [rdi + {mask}]",
    "xor edx, edx",
    "test eax, eax",
    "jnz 12f",
    "fxrstor64 [rdi + {load}]",
    "jmp 13f",
    "12:",
    "xrstor64 [rdi + {load}]",
    "13:",
    "mov r12, [rdi + {progress}]",
    "mov r13, [rdi + {progress} + 8]",
    "mov r14, [rdi + {progress} + 16]",
    "mov r15, [rdi + {progress} + 24]",
    "movabs r10, {factor}",
    "movabs r11, {step}",
    "mov r9, [rdi + {last}]",
    "xor ebp, ebp",
    "mov rsi, [rdi + {visits}]",
    "mov rbx, [rdi + {left}]",
    // Each visit
    "15:",
    "test rbx, rbx",
    "jz 70f",
    "mov rcx, [rsi]",
    "test byte ptr [rsi + {action}], {verify}",
    "jz 30f",
    "mov rdx, [rsi + {expected}]",
    "20:",
    "mov rax, rdx",
    "shr rax, 32",
    "xor rax, rdx",
    "imul rax, r10",
    "mov r8, rax",
    "shr r8, 32",
    "xor rax, r8",
    "cmp rax, [rcx]",
    "jne 90f",
    "add rdx, r11",
    "add rcx, 8",
    "test ecx, 4095",
    "jnz 20b",
    "30:",
    "test byte ptr [rsi + {action}], {verify_zero}",
    "jz 40f",
    "31:",
    "cmp qword ptr [rcx], 0",
    "jne 90f",
    "add rcx, 8",
    "test ecx, 4095",
    "jnz 31b",
    "40:",
    "mov rcx, [rsi]",
    "test byte ptr [rsi + {action}], {write}",
    "jz 50f",
    "mov rdx, [rsi + {written}]",
    "41:",
    "mov rax, rdx",
    "shr rax, 32",
    "xor rax, rdx",
    "imul rax, r10",
    "mov r8, rax",
    "shr r8, 32",
    "xor rax, r8",
    "mov [rcx], rax",
    "add rdx, r11",
    "add rcx, 8",
    "test ecx, 4095",
    "jnz 41b",
    "50:",
    "test byte ptr [rsi + {action}], {write_zero}",
    "jz 60f",
    "51:",
    "mov qword ptr [rcx], 0",
    "add rcx, 8",
    "test ecx, 4095",
    "jnz 51b",
    "60:",
    "call 80f",
    "add rsi, {visit_size}",
    "dec rbx",
    "jmp 15b",
    // The wait
    "70:",
    "call 80f",
    "cmp rax, [rdi + {deadline}]",
    "jae 90f",
    "pause",
    "jmp 70b",
    // Reads the clock into rax
    "80:",
    "lfence",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "inc qword ptr [rdi + {reads}]",
    "mov r8, rax",
    "sub r8, r9",
    "mov r9, rax",
    "cmp r8, rbp",
    "jbe 81f",
    "mov rbp, r8",
    "mov [rdi + {gap_end}], rax",
    "81: ret",
    // The end
    "90:",
    "mov rax, [rdi + {mask}]",
    "xor edx, edx",
    "test eax, eax",
    "jnz 92f",
    "fxsave64 [rdi + {saved}]",
    "jmp 93f",
    "92:",
    "xsave64 [rdi + {saved}]",
    "vzeroupper", // code that uses SSE would be slow otherwise
    "93:",
    "mov [rdi + {left}], rbx",
    "mov [rdi + {last}], r9",
    "mov [rdi + {gap}], rbp",
    "mov [rdi + {progress}], r12",
    "mov [rdi + {progress} + 8], r13",
    "mov [rdi + {progress} + 16], r14",
    "mov [rdi + {progress} + 24], r15",
    "fninit",
    "push 0x1f80",
    "ldmxcsr [rsp]",
    "pop rax",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    load = const offset_of!(Batch, load),
    saved = const offset_of!(Batch, saved),
    mask = const offset_of!(Batch, mask),
    progress = const offset_of!(Batch, progress),
    visits = const offset_of!(Batch, visits),
    left = const offset_of!(Batch, left),
    deadline = const offset_of!(Batch, deadline),
    last = const offset_of!(Batch, last),
    gap = const offset_of!(Batch, gap),
    gap_end = const offset_of!(Batch, gap_end),
    reads = const offset_of!(Batch, reads),
    expected = const offset_of!(Visit, expected),
    written = const offset_of!(Visit, written),
    action = const offset_of!(Visit, action),
    visit_size = const size_of::<Visit>(),
    verify = const VERIFY,
    verify_zero = const VERIFY_ZERO,
    write = const WRITE,
    write_zero = const WRITE_ZERO,
    factor = const pattern::FACTOR,
    step = const pattern::STEP,
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::pattern::{Page, WORDS};

    #[repr(align(4096))]
    #[derive(Clone, Copy)]
    struct Aligned(Page);

    const PROGRESS: Progress = Progress { round: 9, position: 8, batch: 7, state: 6 };

    const SEED: u64 = 3;

    fn run(pages: &mut [Aligned], action: u64) -> (Option<usize>, Batch) {
        run_with(Vectors::LEGACY, pages, action)
    }

    fn run_with(vectors: Vectors, pages: &mut [Aligned], action: u64) -> (Option<usize>, Batch) {
        let visits: Vec<_> = pages
            .iter_mut()
            .zip(0..)
            .map(|(page, i)| Visit {
                page: page as *mut Aligned as u64,
                expected: 100 + i,
                written: 200 + i,
                action,
            })
            .collect();
        let mut batch = Batch::new(vectors);
        batch.progress = PROGRESS;
        // SAFETY: the pages are this test's own
        let failed = unsafe { batch.run(&visits, SEED) };
        (failed, batch)
    }

    fn pages(first_seed: u64) -> [Aligned; 3] {
        let mut pages = [Aligned([0; WORDS]); 3];
        for (page, seed) in pages.iter_mut().zip(first_seed..) {
            pattern::fill(&mut page.0, seed);
        }
        pages
    }

    #[test]
    fn it_writes_and_verifies_the_pattern() {
        let mut memory = pages(100);
        assert_eq!(run(&mut memory, VERIFY | WRITE).0, None);
        assert!(memory.iter().zip(&pages(200)).all(|(found, expected)| found.0 == expected.0));
        assert_eq!(run(&mut memory, WRITE_ZERO).0, None);
        assert!(memory.iter().all(|page| page.0 == [0; WORDS]));
        assert_eq!(run(&mut memory, VERIFY_ZERO | WRITE).0, None);
        assert!(memory.iter().zip(&pages(200)).all(|(found, expected)| found.0 == expected.0));
    }

    #[test]
    fn it_stops_at_the_first_wrong_page_and_leaves_it() {
        for word in [0, 1, 255, 510, 511] {
            let mut memory = pages(100);
            memory[1].0[word] ^= 1;
            let before = memory[1].0;
            assert_eq!(run(&mut memory, VERIFY | WRITE).0, Some(1));
            assert_eq!(memory[1].0, before);
            assert_eq!(memory[0].0, pages(200)[0].0);
            assert_eq!(memory[2].0, pages(100)[2].0);

            let mut memory = [Aligned([0; WORDS]); 3];
            memory[2].0[word] = 1;
            assert_eq!(run(&mut memory, VERIFY_ZERO | WRITE).0, Some(2));
        }
    }

    #[test]
    fn it_holds_every_register_and_counts_the_clock() {
        let cpuid = |leaf, subleaf| {
            let words = std::arch::x86_64::__cpuid_count(leaf, subleaf);
            [words.eax, words.ebx, words.ecx, words.edx]
        };
        for vectors in [Vectors::LEGACY, Vectors::of_processor(cpuid)] {
            let (_, batch) = run_with(vectors, &mut pages(100), VERIFY);
            assert_eq!(batch.compare(SEED), None);
            assert_eq!(batch.progress, PROGRESS);
            // One reading for each page, one at the end
            assert_eq!(batch.reads, 4);
            assert!(batch.gap_end <= batch.last);
        }
    }
}
