//! How a motion stands.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::Timestamp;

/// The status of a motion (QAPI `MigrationStatus`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MigrationStatus {
    /// There has been none.
    #[default]
    None,
    /// Connections are made and the machines compared.
    Setup,
    /// A cancel is being carried out.
    Cancelling,
    /// It was cancelled; the guest is at the source.
    Cancelled,
    /// Passes over memory.
    Active,
    /// The state goes over; the rest of memory follows.
    PostcopyDevice,
    /// The guest runs at the destination while memory follows.
    PostcopyActive,
    /// The same, with the link lost.
    PostcopyPaused,
    /// A new link is being made.
    PostcopyRecoverSetup,
    /// The two sides find out which pages are missing.
    PostcopyRecover,
    /// The guest is at the destination, with all its memory.
    Completed,
    /// An error is being cleared up after.
    Failing,
    /// An error ended it; the guest is at the source.
    Failed,
    /// Waits for `migrate-continue`.
    PreSwitchover,
    /// The guest is stopped, and its last pages and state go over.
    Device,
}

/// The answer of `query-migrate` (QAPI `MigrationInfo`). What is not known, or does not concern
/// the status, is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct MigrationInfo {
    /// Where it stands; left out when there has been no motion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<MigrationStatus>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram: Option<MigrationRam>,
    /// Milliseconds since it began, or that it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_time: Option<u64>,
    /// The blackout in milliseconds, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime: Option<u64>,
    /// The predicted blackout in milliseconds, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_downtime: Option<u64>,
    /// Milliseconds that the set-up took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup_time: Option<u64>,
    /// By how much the guest is slowed down, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_throttle_percentage: Option<u8>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_desc: Option<String>,
    /// Why the machine cannot be moved at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_reasons: Option<Vec<String>>,
    /// Where a destination waits (QAPI `SocketAddress`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_address: Option<Vec<crate::command::SocketAddress>>,
    /// Of a guest whose memory comes while it runs: what each processor waited for it, in
    /// milliseconds, by their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy_vcpu_blocktime: Option<Vec<u64>>,
    /// How long a page took to come on average, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy_latency: Option<u64>,
    /// How many took from 2ⁱ to less than 2ⁱ⁺¹ microseconds, for each i from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy_latency_dist: Option<Vec<u64>>,
    /// The average of each processor, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy_vcpu_latency: Option<Vec<u64>>,
    /// The average of all that waited and is no processor, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postcopy_non_vcpu_latency: Option<u64>,
    /// The typed report of the engine, whole.
    #[serde(rename = "x-whimbrel-report", skip_serializing_if = "Option::is_none")]
    pub report: Option<Value>,
    /// The stable word for why it failed, beside `error_desc`.
    #[serde(rename = "x-whimbrel-error-code", skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Present while it is not known which side owns the guest.
    #[serde(rename = "x-whimbrel-undecided", skip_serializing_if = "Option::is_none")]
    pub undecided: Option<Undecided>,
}

/// How memory stands (QAPI `MigrationRAMStats`). Sizes are in bytes unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct MigrationRam {
    /// Sent so far.
    pub transferred: u64,
    /// Still to be sent, as known at present.
    pub remaining: u64,
    /// All of the machine's memory.
    pub total: u64,
    /// Zero pages, in pages.
    pub duplicate: u64,
    /// Pages sent whole, in pages.
    pub normal: u64,
    /// The same in bytes.
    pub normal_bytes: u64,
    /// How fast the guest dirties memory, in pages per second.
    pub dirty_pages_rate: u64,
    /// Throughput in 10⁶ bits per second.
    pub mbps: f64,
    /// How often the dirty pages were collected.
    pub dirty_sync_count: u64,
    /// Pages that the destination asked for, in pages.
    pub postcopy_requests: u64,
    /// Size of a page.
    pub page_size: u64,
    /// Throughput in pages per second.
    pub pages_per_second: u64,
    /// Sent while the guest ran at the source.
    pub precopy_bytes: u64,
    /// Sent while it was stopped.
    pub downtime_bytes: u64,
    /// Sent while it ran at the destination.
    pub postcopy_bytes: u64,
}

/// A handover after COMMIT that the other side has not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undecided {
    /// The handover's token.
    pub token: String,
    /// The address of the other side.
    pub peer: String,
    /// Since when.
    pub since: Timestamp,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_machine_that_never_moved_has_nothing_to_say() {
        assert_eq!(serde_json::to_value(MigrationInfo::default()).unwrap(), json!({}));
    }

    #[test]
    fn what_is_known_stands_under_qemus_names() {
        let info = MigrationInfo {
            status: Some(MigrationStatus::Device),
            total_time: Some(5),
            ram: Some(MigrationRam { dirty_sync_count: 3, ..MigrationRam::default() }),
            undecided: Some(Undecided {
                token: "t".into(),
                peer: "tcp:h:1".into(),
                since: Timestamp { seconds: 1, microseconds: 2 },
            }),
            ..MigrationInfo::default()
        };
        let value = serde_json::to_value(&info).unwrap();
        assert_eq!(value["status"], "device");
        assert_eq!(value["total-time"], 5);
        assert_eq!(value["ram"]["dirty-sync-count"], 3);
        assert_eq!(value["ram"]["mbps"], 0.0);
        assert_eq!(value["x-whimbrel-undecided"]["since"]["seconds"], 1);
        assert_eq!(serde_json::from_value::<MigrationInfo>(value).unwrap(), info);
    }
}
