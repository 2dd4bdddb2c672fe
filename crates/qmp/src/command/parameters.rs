//! The values of a motion (QAPI `MigrationParameters`).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Arguments;
use crate::error::Error;

/// Longest downtime limit, in milliseconds (QEMU's own bound).
const LONGEST_DOWNTIME: u64 = 2_000_000;
/// Most connections of one motion; more gain nothing.
const MOST_CHANNELS: u8 = 64;
/// Bounds of what a peer or a file may take, in milliseconds.
const STALL_LIMIT: std::ops::RangeInclusive<u64> = 10..=3_600_000;

/// QEMU's parameters that have no effect in this version.
const WITHOUT_EFFECT: &[&str] = &[
    "announce-initial",
    "announce-max",
    "announce-rounds",
    "announce-step",
    "block-bitmap-mapping",
    "cpu-throttle-increment",
    "cpu-throttle-initial",
    "cpu-throttle-tailslow",
    "max-cpu-throttle",
    "max-postcopy-bandwidth",
    "multifd-compression",
    "multifd-qatzip-level",
    "multifd-zlib-level",
    "multifd-zstd-level",
    "throttle-trigger-threshold",
    "tls-authz",
    "tls-creds",
    "tls-hostname",
    "vcpu-dirty-limit",
    "x-checkpoint-delay",
    "x-vcpu-dirty-limit-period",
    "xbzrle-cache-size",
    "zero-page-detection",
];

/// The values that exist, as they stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Parameters {
    /// What `migrate` does.
    pub mode: Mode,
    /// With [`Mode::CprExec`]: the program, and nothing else.
    pub cpr_exec_command: Vec<String>,
    /// Most bytes per second over all connections; 0 is unlimited.
    pub max_bandwidth: u64,
    /// Longest blackout, in milliseconds.
    pub downtime_limit: u64,
    /// No limit on the blackout; `downtime_limit` then means nothing.
    #[serde(rename = "x-whimbrel-downtime-unlimited")]
    pub downtime_unlimited: bool,
    /// Bytes per second that predictions count on for the switchover; 0 is what was measured.
    pub avail_switchover_bandwidth: u64,
    /// How many connections carry pages, at most 64; 0 lets the engine choose.
    pub multifd_channels: u8,
    /// Files are written and read past the page cache, where the file system can do that.
    pub direct_io: bool,
    /// How long a silent or stuck peer is put up with, in milliseconds.
    #[serde(rename = "x-whimbrel-stall-limit")]
    pub stall_limit: u64,
    /// How long a page of a guest that runs already may take to come out of its file, in
    /// milliseconds.
    #[serde(rename = "x-whimbrel-io-stall")]
    pub io_stall: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            cpr_exec_command: Vec::new(),
            max_bandwidth: 0,
            downtime_limit: 300,
            downtime_unlimited: false,
            avail_switchover_bandwidth: 0,
            multifd_channels: 0,
            direct_io: true,
            stall_limit: 5000,
            io_stall: 5000,
        }
    }
}

/// What `migrate` does (QAPI `MigMode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The guest goes to another machine monitor, or into a file.
    #[default]
    Normal,
    /// The machine goes to the process that waits at the channel `cpr`.
    CprTransfer,
    /// This process becomes the program of `cpr-exec-command`.
    CprExec,
    /// The host is about to start anew: RAM stays in its memory file, and the state goes into a file.
    CprReboot,
}

/// Arguments of `migrate-set-parameters`; what is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SetParameters {
    /// See [`Parameters::mode`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// See [`Parameters::cpr_exec_command`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpr_exec_command: Option<Vec<String>>,
    /// See [`Parameters::max_bandwidth`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bandwidth: Option<u64>,
    /// See [`Parameters::downtime_limit`]. Setting it ends `downtime_unlimited`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_limit: Option<u64>,
    /// See [`Parameters::downtime_unlimited`].
    #[serde(rename = "x-whimbrel-downtime-unlimited", skip_serializing_if = "Option::is_none")]
    pub downtime_unlimited: Option<bool>,
    /// See [`Parameters::avail_switchover_bandwidth`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avail_switchover_bandwidth: Option<u64>,
    /// See [`Parameters::multifd_channels`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multifd_channels: Option<u8>,
    /// See [`Parameters::direct_io`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_io: Option<bool>,
    /// See [`Parameters::stall_limit`].
    #[serde(rename = "x-whimbrel-stall-limit", skip_serializing_if = "Option::is_none")]
    pub stall_limit: Option<u64>,
    /// See [`Parameters::io_stall`].
    #[serde(rename = "x-whimbrel-io-stall", skip_serializing_if = "Option::is_none")]
    pub io_stall: Option<u64>,
    /// Anything else, kept so that it can be refused by name.
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Arguments for SetParameters {
    fn check(&self) -> Result<(), Error> {
        if let Some(name) = self.others.keys().next() {
            return Err(if WITHOUT_EFFECT.contains(&name.as_str()) {
                Error::unsupported(format!(
                    "`{name}` has no effect in this version, and a parameter without effect is \
                     not accepted"
                ))
            } else {
                Error::invalid(format!(
                    "there is no parameter `{name}`; query-migrate-parameters lists all"
                ))
            });
        }
        match self.downtime_limit {
            Some(0) => {
                return Err(Error::invalid(
                    "`downtime-limit` cannot be 0; for no limit set \
                     `x-whimbrel-downtime-unlimited` to true",
                ));
            }
            Some(limit) if limit > LONGEST_DOWNTIME => {
                return Err(Error::invalid(format!(
                    "`downtime-limit` is in milliseconds and at most {LONGEST_DOWNTIME}; for no \
                     limit set `x-whimbrel-downtime-unlimited` to true"
                )));
            }
            Some(_) if self.downtime_unlimited == Some(true) => {
                return Err(Error::invalid(
                    "`downtime-limit` and `x-whimbrel-downtime-unlimited` exclude each other",
                ));
            }
            _ => {}
        }
        if let Some([program, rest @ ..]) = self.cpr_exec_command.as_deref()
            && (!program.starts_with('/') || !rest.is_empty())
        {
            return Err(Error::invalid(
                "`cpr-exec-command` is the absolute path of a program and nothing else: what it is \
                 told comes from this process",
            ));
        }
        if self.multifd_channels.is_some_and(|channels| channels > MOST_CHANNELS) {
            return Err(Error::invalid(format!(
                "`multifd-channels` is at most {MOST_CHANNELS}; 0 lets the engine choose"
            )));
        }
        for (name, limit) in [("stall-limit", self.stall_limit), ("io-stall", self.io_stall)] {
            if limit.is_some_and(|limit| !STALL_LIMIT.contains(&limit)) {
                let (least, most) = (STALL_LIMIT.start(), STALL_LIMIT.end());
                return Err(Error::invalid(format!(
                    "`x-whimbrel-{name}` is in milliseconds, from {least} to {most}"
                )));
            }
        }
        Ok(())
    }
}

impl Parameters {
    /// Sets what is said, or nothing if anything of it is refused.
    pub fn set(&mut self, set: &SetParameters) -> Result<(), Error> {
        set.check()?;
        let SetParameters {
            mode,
            cpr_exec_command,
            max_bandwidth,
            downtime_limit,
            downtime_unlimited,
            avail_switchover_bandwidth,
            multifd_channels,
            direct_io,
            stall_limit,
            io_stall,
            others: _,
        } = set;
        // A limit that was just set must hold: it would be in vain beside an older "unlimited".
        let unlimited = downtime_unlimited.or(downtime_limit.map(|_| false));
        replace(&mut self.mode, *mode);
        replace(&mut self.cpr_exec_command, cpr_exec_command.clone());
        replace(&mut self.max_bandwidth, *max_bandwidth);
        replace(&mut self.downtime_limit, *downtime_limit);
        replace(&mut self.downtime_unlimited, unlimited);
        replace(&mut self.avail_switchover_bandwidth, *avail_switchover_bandwidth);
        replace(&mut self.multifd_channels, *multifd_channels);
        replace(&mut self.direct_io, *direct_io);
        replace(&mut self.stall_limit, *stall_limit);
        replace(&mut self.io_stall, *io_stall);
        Ok(())
    }
}

fn replace<T>(value: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *value = new;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};
    use state::Code;

    use super::*;
    use crate::command::{AnyCommand, Command};

    fn parse(arguments: &Value) -> Result<SetParameters, Error> {
        let raw = to_raw_value(arguments).unwrap();
        match AnyCommand::parse("migrate-set-parameters", Some(&raw))? {
            AnyCommand::Machine(Command::MigrateSetParameters(set)) => Ok(set),
            other => panic!("migrate-set-parameters was read as {other:?}"),
        }
    }

    #[test]
    fn every_parameter_that_is_listed_can_be_set_to_what_it_is() {
        let parameters = Parameters::default();
        let Value::Object(listed) = serde_json::to_value(&parameters).unwrap() else {
            panic!("parameters are an object")
        };
        for (name, value) in listed {
            let mut same = parameters.clone();
            same.set(&parse(&json!({ name: value })).unwrap()).unwrap();
            assert_eq!(same, parameters);
        }
    }

    #[test]
    fn what_is_set_is_there_and_the_rest_stays() {
        let mut parameters = Parameters::default();
        parameters
            .set(&parse(&json!({"max-bandwidth": 5, "multifd-channels": 4})).unwrap())
            .unwrap();
        let want = Parameters { max_bandwidth: 5, multifd_channels: 4, ..Parameters::default() };
        assert_eq!(parameters, want);
    }

    #[test]
    fn a_new_downtime_limit_ends_unlimited() {
        let mut parameters = Parameters::default();
        parameters.set(&parse(&json!({"x-whimbrel-downtime-unlimited": true})).unwrap()).unwrap();
        assert!(parameters.downtime_unlimited);
        parameters.set(&parse(&json!({"downtime-limit": 100})).unwrap()).unwrap();
        assert_eq!((parameters.downtime_limit, parameters.downtime_unlimited), (100, false));
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for arguments in [
            json!({"downtime-limit": 0}),
            json!({"downtime-limit": LONGEST_DOWNTIME + 1}),
            json!({"downtime-limit": 1, "x-whimbrel-downtime-unlimited": true}),
            json!({"downtime-limit": "1"}),
            json!({"max-bandwidth": -1}),
            json!({"max-bandwidth": 1.5}),
            json!({"mode": "sideways"}),
            json!({"cpr-exec-command": ["whimbrel"]}),
            json!({"cpr-exec-command": ["/bin/whimbrel", "--log"]}),
            json!({"multifd-channels": 65}),
            json!({"multifd-channels": 256}),
            json!({"x-whimbrel-stall-limit": 9}),
            json!({"x-whimbrel-stall-limit": 3_600_001}),
            json!({"max-bandwith": 1}),
        ] {
            assert_eq!(parse(&arguments).unwrap_err().code, Code::InvalidArgument, "{arguments}");
        }
        let error = parse(&json!({"downtime-limit": 0})).unwrap_err();
        assert!(error.desc.contains("x-whimbrel-downtime-unlimited"), "{error}");
    }

    #[test]
    fn a_parameter_without_effect_is_refused_by_name() {
        for name in WITHOUT_EFFECT {
            let error = parse(&json!({ *name: 1 })).unwrap_err();
            assert_eq!(error.code, Code::Unsupported);
            assert!(error.desc.contains(name), "{error}");
        }
    }
}
