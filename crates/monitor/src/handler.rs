//! QMP's commands, each handed to whoever knows what it means.

use crate::monitor::Monitor;
use crate::restoring::{Manner, OpenFile};
use crate::{Ending, Error, How, Terms};
use devices::lock;
use links::Descriptors;
use motion::{Machine, SourceOptions};
use qmp::command::{Address, Command, MigrateIncoming, RestoreClock};
use qmp::reply::{
    CpuInfo, KvmInfo, MemoryInfo, MigrationStatus, NameInfo, Reply, RunState, StatusInfo, UuidInfo,
};
use qmp::{Access, SetFiles};
use qmp::{Context, Handler};
use rustix::fs::FileType;
use snapshot::Origin;
use state::Code;
use std::sync::{Arc, Mutex};
use vmm::GuestClock;

/// Answers QMP for one machine.
pub(crate) struct Control {
    monitor: Arc<Monitor>,
    /// Held by ordinary commands, so that one that stops the guest and one that starts it do not
    /// meet, whichever thread they come on.
    one_at_a_time: Mutex<()>,
}

impl Control {
    pub fn new(monitor: Arc<Monitor>) -> Self {
        Self { monitor, one_at_a_time: Mutex::new(()) }
    }
}

impl Handler for Control {
    fn execute(&self, command: Command, context: &Context) -> Result<Reply, qmp::Error> {
        let _turn = (!context.oob()).then(|| lock(&self.one_at_a_time));
        execute(&self.monitor, command, context).map_err(Into::into)
    }
}

fn execute(monitor: &Arc<Monitor>, command: Command, context: &Context) -> Result<Reply, Error> {
    match command {
        Command::QueryStatus => {
            let status = monitor.run_state();
            Ok(StatusInfo { running: status == RunState::Running, status }.into())
        }
        Command::QueryName => Ok(NameInfo { name: Some(monitor.name.to_string()) }.into()),
        Command::QueryUuid => {
            let guest = monitor.state().guest.clone();
            let uuid = guest.map_or(uuid::Uuid::nil(), |guest| guest.config().uuid);
            Ok(UuidInfo { uuid: uuid.to_string() }.into())
        }
        Command::QueryKvm => Ok(KvmInfo { enabled: true, present: true }.into()),
        Command::QueryCpusFast => {
            let cpus = crate::threads::of_vcpus();
            let cpus = cpus.map_err(|e| Error::host("cannot look for the processors", &e))?;
            Ok(cpus.into_iter().map(|(cpu, id)| CpuInfo::new(cpu, id)).collect::<Vec<_>>().into())
        }
        Command::QueryMemorySizeSummary => {
            let guest = monitor.state().guest.clone();
            let base_memory = guest.map_or(0, |guest| guest.ram().layout().size());
            Ok(MemoryInfo { base_memory }.into())
        }
        Command::QueryMachine => match serde_json::to_value(monitor.view()?) {
            Ok(serde_json::Value::Object(view)) => Ok(view.into()),
            _ => Err(Error::new(Code::Internal, "the machine cannot be described")),
        },
        Command::Stop => monitor.stop().map(Into::into),
        Command::Cont => monitor.cont().map(Into::into),
        Command::SystemReset => monitor.reset(false).map(Into::into),
        Command::SystemPowerdown => monitor.power_down().map(Into::into),
        Command::Quit => monitor.quit(Ending::Quit).map(Into::into),
        Command::Migrate(migrate) => {
            let update = migrate.update(&monitor.state().parameters)?;
            if let Some(update) = update {
                return monitor.update(&update).map(Into::into);
            }
            let address = migrate.address()?;
            let given = Arc::new(descriptors(&address, context)?);
            let set = files_of_set(&address, context, Access::Write)?;
            monitor.migrate(&migrate, given, set).map(Into::into)
        }
        Command::Update(update) => monitor.update(&update).map(Into::into),
        Command::MigrateIncoming(incoming) => receive(monitor, &incoming, context).map(Into::into),
        Command::MigrateCancel => monitor.cancel(context.oob()).map(Into::into),
        Command::MigrateContinue(at) if at.state == MigrationStatus::PreSwitchover => {
            let motion = monitor.motion_under_way().ok_or_else(|| {
                Error::new(Code::InvalidState, "there is no motion that waits to go on")
            })?;
            motion.proceed().map(Into::into)
        }
        Command::MigrateContinue(_) => Err(Error::new(
            Code::InvalidArgument,
            "migrate-continue goes on from the state `pre-switchover` and from no other",
        )),
        Command::QueryMigrate => {
            let info = monitor.migration();
            if info.status == Some(MigrationStatus::Completed) {
                monitor.has_told();
            }
            Ok(info.into())
        }
        Command::MigrateSetCapabilities(set) => {
            monitor.state().capabilities.set(&set).map(Into::into).map_err(Into::into)
        }
        Command::QueryMigrateCapabilities => Ok(monitor.state().capabilities.list().into()),
        Command::MigrateSetParameters(set) => monitor.set_parameters(&set).map(Into::into),
        Command::QueryMigrateParameters => Ok(monitor.state().parameters.clone().into()),
        Command::HandoverQuery(query) => monitor.handovers(query.token.as_deref()).map(Into::into),
        Command::HandoverResolve(resolve) => monitor.resolve(&resolve).map(Into::into),
    }
}

/// `migrate-incoming`: from another machine monitor, or out of a file.
fn receive(
    monitor: &Arc<Monitor>,
    incoming: &MigrateIncoming,
    context: &Context,
) -> Result<(), Error> {
    let address = incoming.address()?;
    let keep_waiting = !incoming.exit_on_error;
    let restore = |origin, name: String| {
        monitor.is_vacant(&format!("cannot restore {name} as `{}`", monitor.name))?;
        let terms = match (incoming.clone, incoming.reclaim) {
            (true, _) => Terms::Clone,
            (false, true) => Terms::Reclaim,
            (false, false) => Terms::AsSaved,
        };
        let clock = match incoming.clock.unwrap_or(RestoreClock::Continue) {
            RestoreClock::Continue => GuestClock::Continue,
            RestoreClock::Realtime => GuestClock::Realtime,
        };
        let (postcopy, direct) = {
            let state = monitor.state();
            (state.capabilities.postcopy_ram, state.parameters.direct_io)
        };
        let how = match (incoming.mmap, postcopy) {
            (true, _) => How::Mapped,
            (false, true) => How::Lazy,
            (false, false) => How::Eager,
        };
        if let Some(name) = &incoming.userfault {
            let device = context.take_descriptor(name)?;
            memory::userfault::hand_over(device)
                .map_err(|e| Error::new(Code::InvalidArgument, format!("fd:{name}: {e}")))?;
        }
        let (how, verify) = (Some(how), incoming.verify);
        let manner = Manner { terms, how, verify, io_stall: None, clock, direct };
        let file = OpenFile::open(origin, name, manner, monitor.config.backing)?;
        monitor.restore(file, monitor.config.paused, keep_waiting, false)
    };
    let given = match &address {
        Address::File { path, offset } => {
            let (path, offset, name) = (path.clone(), *offset, address.to_string());
            let origin = match files_of_set(&address, context, Access::Read)? {
                None => Origin::Path { path, offset },
                Some(SetFiles { file, direct }) => {
                    Origin::Descriptor { file, direct, offset, name: name.clone() }
                }
            };
            return restore(origin, name);
        }
        Address::Fd(name) => {
            let given = descriptors(&address, context)?;
            let gone = || Error::new(Code::Internal, format!("fd:{name} was passed and is gone"));
            let file = given.take(name).ok_or_else(gone)?;
            let about = rustix::fs::fstat(&file)
                .map_err(|e| Error::host(format!("cannot look at fd:{name}"), &e.into()))?;
            if FileType::from_raw_mode(about.st_mode) == FileType::RegularFile {
                // What comes before where it stands is somebody else's.
                let offset = rustix::fs::tell(&file)
                    .map_err(|e| Error::host(format!("cannot look at fd:{name}"), &e.into()))?;
                let name = format!("fd:{name}");
                let origin = Origin::Descriptor { file, direct: None, offset, name: name.clone() };
                return restore(origin, name);
            }
            given.give(name, file);
            given
        }
        Address::Inet { .. } | Address::Unix(_) => Descriptors::none(),
    };
    let address = crate::address::of(&address)?;
    monitor.wait_for_guest(&address, &given, keep_waiting, incoming.insecure)
}

/// What is in the set that a `file:` address means, if it means one.
fn files_of_set(
    address: &Address,
    context: &Context,
    access: Access,
) -> Result<Option<SetFiles>, Error> {
    let Address::File { path, .. } = address else { return Ok(None) };
    let number = qmp::set_of(path)?;
    Ok(number.map(|number| context.take_set(number, access)).transpose()?)
}

/// The descriptors that an `fd:` address means: `NAME`, and for data connections `NAME-0`, …
fn descriptors(address: &Address, context: &Context) -> Result<Descriptors, Error> {
    let given = Descriptors::none();
    if let Address::Fd(name) = address {
        given.give(name, context.take_descriptor(name)?);
        for index in 0..SourceOptions::MOST_CONNECTIONS {
            let name = format!("{name}-{index}");
            let Ok(fd) = context.take_descriptor(&name) else { break };
            given.give(name, fd);
        }
    }
    Ok(given)
}
