//! Complaints of the guest's kernel that a move must not cause.

/// Parts of kernel messages, in lower case, that mean that time, RCU or a processor went wrong.
const COMPLAINTS: [&str; 17] = [
    "rcu_sched self-detected",
    "rcu_preempt self-detected",
    "rcu: info:",
    "detected stalls on",
    "kthread starved",
    "soft lockup",
    "hard lockup",
    "blocked for more than",
    "hogged cpu",
    "marking clocksource",
    "marking tsc unstable",
    "clocksource: watchdog",
    "timekeeping watchdog",
    "time went backwards",
    "clock skew",
    "workqueue lockup",
    "sched_clock: marking unstable",
];

/// Parts, with case, that mean that the kernel has found an error in itself.
const ERRORS: [&str; 6] =
    ["BUG:", "WARNING: CPU", "Oops", "Call Trace:", "general protection", "MCE:"];

/// Parts of messages that look like complaints and say nothing about the machine's behaviour.
const ORDINARY: [&str; 1] = [
    // What Linux assumes of any AMD processor with several cores whose TSC is not said to be
    // constant (`unsynchronized_tsc` in arch/x86/kernel/tsc.c), such as the emulated one.
    "Marking TSC unstable due to TSCs unsynchronized",
];

/// Whether this message of the kernel is a complaint.
#[must_use]
pub fn is_complaint(message: &str) -> bool {
    if ORDINARY.iter().any(|part| message.contains(part)) {
        return false;
    }
    let lower = message.to_lowercase();
    COMPLAINTS.iter().any(|part| lower.contains(part))
        || ERRORS.iter().any(|part| message.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_kernel_in_trouble_are_complaints() {
        for message in [
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [guest-init:1]",
            "clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable",
            "INFO: task kworker/0:1:8 blocked for more than 120 seconds.",
            "tsc: Marking TSC unstable due to check_tsc_sync_source failed",
            "WARNING: CPU: 0 PID: 1 at kernel/time/timekeeping.c:824",
        ] {
            assert!(is_complaint(message), "{message}");
        }
    }

    #[test]
    fn an_ordinary_boot_is_no_complaint() {
        for message in [
            "rcu: Hierarchical RCU implementation.",
            "clocksource: Switched to clocksource kvm-clock",
            "kvm-clock: using sched offset of 1267 cycles",
            "tsc: Marking TSC unstable due to TSCs unsynchronized",
            "Speculative Return Stack Overflow: WARNING: See https://kernel.org/doc/html/",
            "sched_clock: Marking stable (5936191995, 61765043)->(6947320876, -949363838)",
            // Says that the processor was slow for once, which under emulation it is.
            "hrtimer: interrupt took 27212233 ns",
            "NMI watchdog: Perf NMI watchdog permanently disabled",
            "rcu: \tRCU restricting CPUs from NR_CPUS=8192 to nr_cpu_ids=2.",
        ] {
            assert!(!is_complaint(message), "{message}");
        }
    }
}
