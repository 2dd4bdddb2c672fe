//! The slice of a thread: after how long on a processor the scheduler has it wait for its next turn.
//!
//! A thread that ends its turn early (`sched_yield(2)`) forfeits what is left of its slice, scaled by its
//! priority. With the usual slice of some milliseconds one of low priority would wait for tens of
//! milliseconds each time: so turns are only worth ending where the slice can be made as short as they
//! are, which is since Linux 6.12 (`sched_setattr(2)`: `sched_runtime` of a thread that is no real-time
//! one; Linux `Documentation/scheduler/sched-eevdf.rst`).

use libc::{SYS_sched_getattr, SYS_sched_setattr, c_int, c_uint, sched_attr, syscall};
use std::time::Duration;

/// Of the structure that is passed: the first version, which all kernels know (`SCHED_ATTR_SIZE_VER0`).
const SIZE: u32 = 48;
const _: () = assert!(size_of::<sched_attr>() == SIZE as usize);

/// Asks for a slice for the calling thread, and says whether it has it now. Slices are from 0.1 to 100 ms.
pub(crate) fn request(slice: Duration) -> bool {
    let Some(mut attributes) = get() else { return false };
    let usual = [libc::SCHED_OTHER, libc::SCHED_BATCH].map(c_int::cast_unsigned);
    if !usual.contains(&attributes.sched_policy) {
        return false;
    }
    let Ok(nanoseconds) = u64::try_from(slice.as_nanos()) else { return false };
    attributes.sched_runtime = nanoseconds;
    // Kernels that know of no such slices take the number and ignore it.
    set(&attributes) && get().is_some_and(|now| now.sched_runtime == nanoseconds)
}

fn get() -> Option<sched_attr> {
    let mut attributes = sched_attr {
        size: SIZE,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let (this, flags): (libc::pid_t, c_uint) = (0, 0);
    // SAFETY: the kernel writes at most the size that it is told, which is that of the structure.
    let outcome =
        unsafe { syscall(SYS_sched_getattr, this, &raw mut attributes, SIZE as c_uint, flags) };
    (outcome == 0).then_some(attributes)
}

fn set(attributes: &sched_attr) -> bool {
    let (this, flags): (libc::pid_t, c_uint) = (0, 0);
    // SAFETY: the kernel reads the structure, of the size that it names.
    unsafe { syscall(SYS_sched_setattr, this, std::ptr::from_ref(attributes), flags) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_had_or_not_and_the_priority_stays() {
        std::thread::spawn(|| {
            rustix::process::setpriority_process(None, 7).unwrap();
            let had = request(Duration::from_micros(200));
            let now = get().unwrap();
            assert_eq!((now.sched_nice, now.sched_policy), (7, 0));
            assert_eq!(had, now.sched_runtime == 200_000);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_slice_that_nobody_can_have_is_refused() {
        std::thread::spawn(|| assert!(!request(Duration::from_secs(10)))).join().unwrap();
    }
}
