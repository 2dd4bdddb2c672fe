//! How a machine and its motion stand, in the words of QMP.

use crate::Error;
use crate::blocktime;
use crate::monitor::{Monitor, devices_of};
use crate::observer::migration_status;
use crate::outgoing::Outgoing;
use crate::view::{MachineView, MemoryView};
use devices::console::{Console, Spec};
use devices::lock;
use memory::{PAGE_SIZE, PageRange};
use motion::{Machine, Progress, Report, SourceMachine, Status};
use qmp::command::SocketAddress;
use qmp::reply::{MigrationInfo, MigrationRam, MigrationStatus, Undecided};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

impl Monitor {
    /// `x-whimbrel-query-machine`
    pub fn view(&self) -> Result<MachineView, Error> {
        let (guest, since, incoming) = {
            let state = self.state();
            (state.guest.clone(), state.since, state.incoming.clone())
        };
        let memory = match &guest {
            None => None,
            Some(guest) => {
                let ram = guest.ram();
                let touched = ram
                    .resident(PageRange::new(0, ram.pages()))
                    .map_err(|e| Error::host("cannot look at the guest's memory", &e))?;
                Some(MemoryView {
                    size: ram.layout().size(),
                    touched: touched.iter().map(|range| range.bytes()).sum(),
                    backing: ram.backing().as_str().to_owned(),
                })
            }
        };
        let waits = incoming.filter(|_| guest.is_none());
        Ok(MachineView {
            name: self.name.to_string(),
            uuid: guest.as_ref().map(|guest| guest.config().uuid.to_string()),
            pid: std::process::id(),
            status: self.run_state(),
            reason: guest.as_ref().and_then(|guest| guest.failure()),
            uptime_seconds: since.map(|since| since.elapsed().as_secs_f64()),
            memory,
            cpus: guest.as_ref().map_or(0, |guest| guest.config().vcpus),
            devices: guest.as_ref().map(|guest| devices_of(guest)).unwrap_or_default(),
            console: self.console_place(),
            qmp: self.sockets.iter().map(|path| path.display().to_string()).collect(),
            incoming: waits.map(|waiting| waiting.address().to_string()),
            motion: self.migration().status.unwrap_or_default(),
            undecided: self.undecided_handover().into_iter().collect(),
        })
    }

    /// Where people find the console.
    pub fn console_place(&self) -> String {
        let spec = &self.config.console;
        if *spec != Spec::Pty {
            return spec.to_string();
        }
        match lock(&self.console).as_ref().and_then(Console::location) {
            Some(path) => format!("pty {}", path.display()),
            None => spec.to_string(),
        }
    }

    /// `query-migrate`
    pub fn migration(&self) -> MigrationInfo {
        let (guest, outgoing, incoming, restoring, succession) = {
            let state = self.state();
            if let (None, None, Some(info)) = (&state.outgoing, &state.succession, &state.succeeded)
            {
                return info.clone();
            }
            let (outgoing, incoming) = (state.outgoing.clone(), state.incoming.clone());
            let (restoring, succession) = (state.restoring.clone(), state.succession.clone());
            (state.guest.clone(), outgoing, incoming, restoring, succession)
        };
        if let Some(succession) = succession {
            let once_more = |motion: &Outgoing| succession.goes_back() && motion.has_failed();
            if outgoing.as_deref().is_none_or(once_more) {
                return MigrationInfo {
                    status: Some(MigrationStatus::Device),
                    ..MigrationInfo::default()
                };
            }
        }
        match (outgoing, incoming, restoring) {
            (Some(motion), ..) => {
                let (mut progress, report) = (motion.progress(), motion.report());
                // Between the command and its first step.
                if report.is_none() && progress.status.0 == Status::None {
                    progress.status.0 = Status::Setup;
                }
                let mut info = info(&progress, report, motion.begun());
                if let Some((from, to)) = motion.versions()
                    && let Some(report) = &mut info.report
                {
                    report["update"] = json!({ "from": from, "to": to });
                    if motion.is_unguarded() {
                        report["update"]["unguarded"] = json!(true);
                    }
                }
                info
            }
            (None, None, Some(restoring)) => {
                let report = restoring.report();
                let fill = report.restore.as_ref().and_then(|restore| restore.fill.clone());
                let mut info = info(&restoring.progress(), Some(report), restoring.begun());
                if let Some(fill) = fill {
                    let vcpus = crate::threads::of_vcpus().unwrap_or_default();
                    blocktime::tell(&mut info, &fill, &vcpus);
                }
                info
            }
            (None, Some(waiting), _) => {
                let progress = waiting.progress();
                let report = waiting.report();
                let mut info = info(&progress, Some(report), waiting.begun());
                info.socket_address = socket_address(waiting.address());
                info
            }
            (None, None, None) => {
                let refusals = guest.map(|guest| guest.refusals()).unwrap_or_default();
                let reasons: Vec<_> = refusals.iter().map(ToString::to_string).collect();
                let blocked_reasons = (!reasons.is_empty()).then_some(reasons);
                MigrationInfo { blocked_reasons, ..MigrationInfo::default() }
            }
        }
    }
}

/// A motion in QMP's words: what is under way by its progress, what has ended by its report.
fn info(progress: &Progress, report: Option<Report>, begun: SystemTime) -> MigrationInfo {
    let ended = report.clone().filter(|report| report.status.0.is_terminal());
    let status = ended.as_ref().map_or(progress.status.0, |report| report.status.0);
    let mut info = MigrationInfo {
        status: Some(migration_status(status)).filter(|s| *s != MigrationStatus::None),
        ram: Some(ram(progress, report.as_ref())),
        total_time: Some(millis(progress.elapsed_ns)),
        report: Some(details(progress, report.as_ref())),
        undecided: progress.undecided.as_ref().map(|undecided| Undecided {
            token: undecided.token.clone(),
            peer: undecided.peer.clone(),
            since: crate::handovers::timestamp(
                begun
                    + Duration::from_nanos(progress.elapsed_ns.saturating_sub(undecided.since_ns)),
            ),
        }),
        ..MigrationInfo::default()
    };
    match ended {
        None => {
            let expected = progress.predicted_blackout_ns;
            info.expected_downtime = (expected != 0).then(|| millis_up(expected));
        }
        Some(report) => {
            info.total_time = Some(millis(report.total_ns));
            info.setup_time = Some(millis(report.setup_ns));
            info.downtime = report.blackout.as_ref().map(|blackout| millis_up(blackout.ns));
            info.error_desc = report.error.as_ref().map(|error| error.why.clone());
            info.error_code = report.error.as_ref().map(|error| error.code.to_string());
        }
    }
    if status == Status::None {
        info.ram = None;
        info.total_time = None;
    }
    info
}

fn ram(progress: &Progress, report: Option<&Report>) -> MigrationRam {
    let totals = report.map(|report| report.ram).unwrap_or_default();
    let left = progress.pass_pages.saturating_sub(progress.pass_done);
    let at_stop = report.and_then(|report| report.blackout.as_ref()).map_or(0, |b| b.bytes);
    let transferred = totals.bytes.max(progress.bytes);
    // Exact for any rate that a link has.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let mbps = progress.rate as f64 * 8.0 / 1e6;
    MigrationRam {
        transferred,
        remaining: left.saturating_mul(PAGE_SIZE),
        total: totals.total_pages.max(progress.pass_pages).saturating_mul(PAGE_SIZE),
        duplicate: totals.zero_pages.saturating_add(totals.skipped_pages),
        normal: totals.data_pages,
        normal_bytes: totals.data_pages.saturating_mul(PAGE_SIZE),
        dirty_pages_rate: progress.dirty_rate,
        mbps,
        dirty_sync_count: progress.pass.into(),
        postcopy_requests: 0,
        page_size: PAGE_SIZE,
        pages_per_second: progress.rate / PAGE_SIZE,
        precopy_bytes: transferred.saturating_sub(at_stop),
        downtime_bytes: at_stop,
        postcopy_bytes: 0,
    }
}

/// The whole report, as far as there is one, and how far the motion is.
fn details(progress: &Progress, report: Option<&Report>) -> Value {
    let mut details = report.map_or_else(|| json!({}), |report| json!(report));
    details["progress"] = json!(progress);
    details
}

fn socket_address(address: &links::Address) -> Option<Vec<SocketAddress>> {
    let address = match address {
        links::Address::Tcp { host, port } => {
            SocketAddress::Inet { host: host.clone(), port: port.to_string() }
        }
        links::Address::Unix(path) => SocketAddress::Unix { path: path.display().to_string() },
        links::Address::Fd(name) => SocketAddress::Fd { str: name.clone() },
        links::Address::File(_) => return None,
    };
    Some(vec![address])
}

fn millis(nanos: u64) -> u64 {
    nanos / 1_000_000
}

/// A blackout is never said to be shorter than it is.
fn millis_up(nanos: u64) -> u64 {
    nanos.div_ceil(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use motion::{BlackoutReport, ErrorReport, RamReport, StatusOrNone};
    use state::Code;

    fn progress() -> Progress {
        Progress {
            status: StatusOrNone(Status::Active),
            elapsed_ns: 2_999_999,
            pass: 3,
            pass_pages: 100,
            pass_done: 40,
            bytes: 5_000,
            rate: 8_192_000,
            dirty_rate: 77,
            predicted_blackout_ns: 1_000_001,
            ..Progress::default()
        }
    }

    fn report(status: Status) -> Report {
        Report {
            status: StatusOrNone(status),
            ram: RamReport {
                total_pages: 1_000,
                data_pages: 10,
                zero_pages: 3,
                skipped_pages: 4,
                bytes: 50_000,
            },
            total_ns: 9_999_999,
            setup_ns: 1_500_000,
            blackout: Some(BlackoutReport {
                ns: 2_000_001,
                uncertainty_ns: 0,
                predicted_ns: 0,
                limit_ns: None,
                pages: 2,
                bytes: 20_000,
                stages: Vec::new(),
            }),
            error: Some(ErrorReport { code: Code::LinkStalled, why: "silence".into() }),
            ..Report::default()
        }
    }

    #[test]
    fn what_is_under_way_is_told_by_its_progress() {
        let now = SystemTime::now();
        let told = info(&progress(), None, now);
        assert_eq!(told.status, Some(MigrationStatus::Active));
        assert_eq!((told.total_time, told.expected_downtime), (Some(2), Some(2)));
        assert_eq!((told.setup_time, told.downtime, told.error_desc), (None, None, None));
        let ram = told.ram.unwrap();
        assert_eq!((ram.transferred, ram.precopy_bytes, ram.downtime_bytes), (5_000, 5_000, 0));
        assert_eq!((ram.remaining, ram.total), (60 * 4096, 100 * 4096));
        assert_eq!((ram.dirty_sync_count, ram.dirty_pages_rate), (3, 77));
        assert_eq!((ram.pages_per_second, ram.page_size), (2_000, 4096));
        assert!((ram.mbps - 65.536).abs() < 1e-9, "{ram:?}");
        assert_eq!(told.report.unwrap()["progress"]["pass"], 3);
    }

    #[test]
    fn what_has_ended_is_told_by_its_report() {
        let told = info(&progress(), Some(report(Status::Failed)), SystemTime::now());
        assert_eq!(told.status, Some(MigrationStatus::Failed));
        assert_eq!((told.total_time, told.setup_time), (Some(9), Some(1)));
        assert_eq!(
            (told.downtime, told.expected_downtime),
            (Some(3), None),
            "never less than it was"
        );
        assert_eq!(told.error_desc.as_deref(), Some("silence"));
        assert_eq!(told.error_code.as_deref(), Some("link-stalled"));
        let ram = told.ram.unwrap();
        assert_eq!(
            (ram.transferred, ram.precopy_bytes, ram.downtime_bytes),
            (50_000, 30_000, 20_000)
        );
        assert_eq!((ram.total, ram.normal, ram.duplicate), (1_000 * 4096, 10, 7));
        assert_eq!(ram.normal_bytes, 10 * 4096);
    }

    #[test]
    fn where_there_was_no_motion_there_is_nothing_to_tell() {
        let told = info(&Progress::default(), None, SystemTime::now());
        assert_eq!((told.status, told.ram, told.total_time), (None, None, None));
    }
}
