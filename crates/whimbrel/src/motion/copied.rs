//! A copy of the beginning: what was protected, who had to wait, and for how long.

use super::{labelled, number};
use crate::output::{bytes, grouped, nanos};
use crate::terminal::{Line, Style};
use memory::PAGE_SIZE;
use serde_json::Value;

/// How it went, if the report is of such a copy.
pub fn details(report: &Value, style: &Style) -> Vec<Line> {
    let copy = &report["copy"];
    if !copy.is_object() {
        return Vec::new();
    }
    let size = |key: &str| bytes(number(&copy[key]).saturating_mul(PAGE_SIZE));
    let threads = number(&copy["protect_threads"]);
    let protected = format!(
        "{} of memory that was in use, within {} by {threads} thread{}",
        size("protected_pages"),
        nanos(number(&copy["protect_ns"])),
        if threads == 1 { "" } else { "s" },
    );
    let mut lines = labelled("protected", &protected, style);
    let copied = format!(
        "{} because the guest was about to write there, {} in order",
        size("fault_pages"),
        size("streamed_pages"),
    );
    lines.extend(labelled("copied", &copied, style));
    let latency = &copy["latency"];
    if number(&latency["count"]) > 0 {
        let of = |key: &str| nanos(number(&latency[key]));
        let waits = format!(
            "{} writes waited; half for no longer than {}, 99 of 100 than {}, none than {}",
            grouped(number(&latency["count"])),
            of("p50_ns"),
            of("p99_ns"),
            of("max_ns"),
        );
        lines.extend(labelled("waits", &waits, style));
    }
    let full = number(&copy["buffer_waits"]);
    if full > 0 {
        let text = format!(
            "{} were full {} times, and the guest waited for the disk",
            bytes(number(&copy["buffer_limit_bytes"])),
            grouped(full)
        );
        lines.extend(labelled("buffers", &text, style));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const STYLE: Style = Style { width: 120, height: 24, colour: false, unicode: false };

    #[test]
    fn what_the_guest_paid_for_a_copy_is_told() {
        let text = |report: Value| -> String {
            details(&report, &STYLE).iter().map(|line| line.whole(&STYLE) + "\n").collect()
        };
        assert_eq!(text(json!({})), "");
        let latency =
            json!({ "count": 4200, "p50_ns": 80_000, "p99_ns": 250_000, "max_ns": 900_000 });
        let full = text(json!({ "copy": {
            "protected_pages": 1 << 17, "protect_ns": 3_000_000, "protect_threads": 2,
            "fault_pages": 256, "streamed_pages": (1 << 17) - 256, "latency": latency,
            "buffer_limit_bytes": 64 << 20, "buffer_waits": 3,
        }}));
        let parts =
            ["512 MiB of memory", "by 2 threads", "1.0 MiB because", "4,200 writes", "were full 3"];
        for part in parts {
            assert!(full.contains(part), "{part}: {full}");
        }
        let quiet = text(json!({ "copy": { "protected_pages": 512, "latency": { "count": 0 } } }));
        assert!(!quiet.contains("waited"), "{quiet}");
    }
}
