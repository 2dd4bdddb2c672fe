//! The commands and their arguments.

mod address;
mod capabilities;
mod handover;
mod migrate;
mod parameters;
mod update;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use state::Code;

pub use address::Address;
pub use capabilities::{Capabilities, Capability, CapabilityState, SetCapabilities};
pub use handover::{HandoverQuery, HandoverResolve, Owner};
pub use migrate::{
    At, Channel, ChannelAddress, ChannelType, FileAddress, Migrate, MigrateIncoming, RestoreClock,
    SocketAddress, TimeoutAction,
};
pub use parameters::{Mode, Parameters, SetParameters};
pub use update::{Update, UpdateMode};

use crate::error::{Error, clip};
use crate::json::{self, Object};

/// Arguments of a command: read strictly, then checked as a whole.
trait Arguments: DeserializeOwned {
    /// What no single field can say about itself.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Defines an enum of commands, with the name that each has in QMP.
macro_rules! commands {
    (
        $(#[$doc:meta])* $vis:vis enum $enum:ident {
            $($(#[$variant_doc:meta])* $name:literal => $variant:ident $(($arguments:ty))?,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(tag = "execute", content = "arguments")]
        $vis enum $enum {
            $($(#[$variant_doc])* #[serde(rename = $name)] $variant $(($arguments))?,)+
        }

        impl $enum {
            /// The names of these commands.
            $vis const NAMES: &'static [&'static str] = &[$($name),+];

            /// The command's name.
            #[must_use]
            $vis fn name(&self) -> &'static str {
                match self { $(commands!(@pattern $variant $(($arguments))?) => $name,)+ }
            }

            /// The command of that name, or `None` if none of these has it.
            fn parse(name: &str, arguments: Option<&RawValue>) -> Option<Result<Self, Error>> {
                Some(match name {
                    $($name => commands!(@parse $name, arguments, $variant $(($arguments))?),)+
                    _ => return None,
                })
            }
        }
    };
    (@pattern $variant:ident) => { Self::$variant };
    (@pattern $variant:ident ($arguments:ty)) => { Self::$variant(_) };
    (@parse $name:literal, $raw:ident, $variant:ident) => {
        read::<NoArguments>($name, $raw).map(|NoArguments {}| Self::$variant)
    };
    (@parse $name:literal, $raw:ident, $variant:ident ($arguments:ty)) => {
        read::<$arguments>($name, $raw).map(Self::$variant)
    };
}

commands! {
    /// A command that concerns the machine, with arguments that have been checked.
    pub enum Command {
        /// The run state.
        "query-status" => QueryStatus,
        /// The machine's name.
        "query-name" => QueryName,
        /// The machine's UUID.
        "query-uuid" => QueryUuid,
        /// Whether KVM is there and used.
        "query-kvm" => QueryKvm,
        /// The processors and their threads.
        "query-cpus-fast" => QueryCpusFast,
        /// The size of the machine's memory.
        "query-memory-size-summary" => QueryMemorySizeSummary,
        /// Everything there is to say about the machine, for people.
        "x-whimbrel-query-machine" => QueryMachine,
        /// Stops the guest's processors.
        "stop" => Stop,
        /// Lets them run again.
        "cont" => Cont,
        /// Resets the machine.
        "system_reset" => SystemReset,
        /// Asks the guest to power off.
        "system_powerdown" => SystemPowerdown,
        /// Ends the machine at once.
        "quit" => Quit,
        /// Starts a motion to another machine monitor.
        "migrate" => Migrate(Migrate),
        /// Tells a machine that was started to wait for a guest where to wait for it.
        "migrate-incoming" => MigrateIncoming(MigrateIncoming),
        /// Gives up the motion under way; the guest goes on here.
        "migrate_cancel" => MigrateCancel,
        /// Goes on from `pre-switchover`.
        "migrate-continue" => MigrateContinue(MigrateContinue),
        /// Replaces the process of the machine while its guest runs.
        "x-whimbrel-update" => Update(Update),
        /// How the present or last motion stands.
        "query-migrate" => QueryMigrate,
        /// Sets switches of the motions to come.
        "migrate-set-capabilities" => MigrateSetCapabilities(SetCapabilities),
        /// The switches as they stand.
        "query-migrate-capabilities" => QueryMigrateCapabilities,
        /// Sets values of the motions to come, and of the one under way.
        "migrate-set-parameters" => MigrateSetParameters(SetParameters),
        /// The values as they stand.
        "query-migrate-parameters" => QueryMigrateParameters,
        /// What is recorded of handovers.
        "x-whimbrel-handover-query" => HandoverQuery(HandoverQuery),
        /// Decides a handover that cannot decide itself.
        "x-whimbrel-handover-resolve" => HandoverResolve(HandoverResolve),
    }
}

commands! {
    /// A command that concerns the connection, and that the server answers itself.
    pub(crate) enum SessionCommand {
        "qmp_capabilities" => Negotiate(Negotiate),
        "query-version" => QueryVersion,
        "query-commands" => QueryCommands,
        "getfd" => GetFd(DescriptorName),
        "closefd" => CloseFd(DescriptorName),
        "add-fd" => AddFd(AddFd),
        "remove-fd" => RemoveFd(RemoveFd),
        "query-fdsets" => QueryFdSets,
    }
}

impl Command {
    /// Whether the command may be sent with `exec-oob`: it is then answered even while another
    /// command runs.
    #[must_use]
    pub fn allows_oob(&self) -> bool {
        matches!(
            self,
            Self::QueryStatus | Self::QueryMigrate | Self::MigrateCancel | Self::HandoverQuery(_)
        )
    }
}

impl SessionCommand {
    /// As [`Command::allows_oob`].
    pub(crate) fn allows_oob(&self) -> bool {
        matches!(self, Self::QueryVersion | Self::QueryCommands | Self::QueryFdSets)
    }
}

/// A command of either kind.
#[derive(Debug)]
pub(crate) enum AnyCommand {
    Session(SessionCommand),
    Machine(Command),
}

impl AnyCommand {
    pub(crate) fn allows_oob(&self) -> bool {
        match self {
            Self::Session(command) => command.allows_oob(),
            Self::Machine(command) => command.allows_oob(),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Session(command) => command.name(),
            Self::Machine(command) => command.name(),
        }
    }

    /// Reads a command strictly: an unknown name, an argument that is unknown, missing, given
    /// twice, of the wrong type or out of range is an error that says so.
    pub(crate) fn parse(name: &str, arguments: Option<&RawValue>) -> Result<Self, Error> {
        if let Some(command) = Command::parse(name, arguments) {
            return command.map(Self::Machine);
        }
        if let Some(command) = SessionCommand::parse(name, arguments) {
            return command.map(Self::Session);
        }
        Err(match name {
            "human-monitor-command" => Error::command_not_found(
                Code::Unsupported,
                "human-monitor-command: there is no human monitor here; what it offers is a QMP \
                 command or a verb of the `whimbrel` command line",
            ),
            _ => Error::command_not_found(
                Code::InvalidArgument,
                clip(format!("the command `{name}` does not exist; query-commands lists all")),
            ),
        })
    }

    /// The names of all commands, sorted.
    pub(crate) fn names() -> Vec<&'static str> {
        let mut names = [Command::NAMES, SessionCommand::NAMES].concat();
        names.sort_unstable();
        names
    }
}

fn read<A: Arguments>(name: &str, raw: Option<&RawValue>) -> Result<A, Error> {
    let text = raw.map_or("{}", RawValue::get);
    let Object(arguments) = serde_json::from_str::<Object<A>>(text)
        .map_err(|e| Error::invalid(format!("{name}: arguments: {}", json::message(&e))))?;
    arguments.check().map_err(|e| Error { desc: format!("{name}: {}", e.desc), ..e })?;
    Ok(arguments)
}

/// For commands that take no arguments.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoArguments {}

impl Arguments for NoArguments {}

/// Arguments of `migrate-continue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrateContinue {
    /// The status that the caller believes the motion to be in.
    pub state: crate::reply::MigrationStatus,
}

impl Arguments for MigrateContinue {}

/// Arguments of `qmp_capabilities`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Negotiate {
    #[serde(default)]
    pub(crate) enable: Vec<SessionCapability>,
}

impl Arguments for Negotiate {}

/// Capabilities of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SessionCapability {
    Oob,
}

/// Arguments of `getfd` and `closefd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DescriptorName {
    pub(crate) fdname: String,
}

impl Arguments for DescriptorName {}

/// Arguments of `add-fd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddFd {
    /// The set; a new one if it is left out.
    #[serde(default, rename = "fdset-id")]
    pub(crate) fdset_id: Option<u32>,
    /// Whatever the client wants to remember.
    #[serde(default)]
    pub(crate) opaque: Option<String>,
}

impl Arguments for AddFd {}

/// Arguments of `remove-fd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveFd {
    #[serde(rename = "fdset-id")]
    pub(crate) fdset_id: u32,
    /// The descriptor, by its number here; all of the set if it is left out.
    #[serde(default)]
    pub(crate) fd: Option<i32>,
}

impl Arguments for RemoveFd {}
