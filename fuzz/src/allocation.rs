//! What one input may allocate.

use cap::Cap;
use std::alloc::System;
use std::sync::Once;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Allowed whatever the input: buffers that have a fixed size, and the machinery around them.
const BASE: usize = 4 << 20;
/// Allowed for each byte of input. Decoded, the shortest values are some tens of times as long as
/// their encoding.
const FACTOR: usize = 256;

/// Does `work` for an input of `length` bytes. The process is aborted, which is a finding, when it
/// holds more memory at any time than so much input warrants.
pub fn bounded<T>(length: usize, work: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Telling where it was takes as much memory as it takes.
            let _ = ALLOCATOR.set_limit(usize::MAX);
            told(panic);
        }));
    });
    let most = ALLOCATOR.allocated() + BASE + FACTOR * length;
    ALLOCATOR.set_limit(most).expect("the limit is above what is allocated");
    let result = work();
    ALLOCATOR.set_limit(usize::MAX).expect("there is no higher limit");
    result
}
