//! Arguments of `migrate` and `migrate-incoming`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Address, Arguments, Mode, Parameters, Update, UpdateMode};
use crate::error::Error;
use crate::json;

/// Arguments of `migrate`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Migrate {
    /// The destination, as in [`Address`]; or `channels` instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The destination as an object: exactly one channel, of type `main`. In mode `cpr-transfer` one of
    /// type `cpr`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::some_objects"
    )]
    pub channels: Option<Vec<Channel>>,
    /// Means nothing, since no command waits for a motion; accepted when true, as old clients
    /// send it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detach: Option<bool>,
    /// To resume an interrupted postcopy; refused, because this version has no postcopy.
    #[serde(default, skip_serializing_if = "is_false")]
    pub resume: bool,
    /// The guest is stopped first, and stays so at the source until the job ends.
    #[serde(default, rename = "x-whimbrel-frozen", skip_serializing_if = "is_false")]
    pub frozen: bool,
    /// To a file: the guest goes on as soon as the copy is taken. Without it, and without
    /// `x-whimbrel-frozen`, it stays stopped, as with QEMU, and may be continued.
    #[serde(default, rename = "x-whimbrel-snapshot", skip_serializing_if = "is_false")]
    pub snapshot: bool,
    /// With `x-whimbrel-snapshot`: the moment that the copy is of. Unless it is said the capability
    /// `background-snapshot` decides.
    #[serde(default, rename = "x-whimbrel-at", skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
    /// What it is for; by default as the parameter `mode` says.
    #[serde(default, rename = "x-whimbrel-mode", skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// To a file: replace one that is there, once the new one is complete.
    #[serde(default, rename = "x-whimbrel-force", skip_serializing_if = "is_false")]
    pub force: bool,
    /// `cont` during the job cancels it, instead of being refused.
    #[serde(default, rename = "x-whimbrel-cont-cancels", skip_serializing_if = "is_false")]
    pub cont_cancels: bool,
    /// Only ask the destination whether it would take the machine.
    #[serde(default, rename = "x-whimbrel-check", skip_serializing_if = "is_false")]
    pub check: bool,
    /// Milliseconds after which a motion that has not switched over does `timeout_action`.
    #[serde(rename = "x-whimbrel-timeout", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// What happens then; cancelling unless said otherwise.
    #[serde(rename = "x-whimbrel-timeout-action", skip_serializing_if = "Option::is_none")]
    pub timeout_action: Option<TimeoutAction>,
    /// Allow `tcp:` beyond loopback although nothing is encrypted.
    #[serde(default, rename = "x-whimbrel-insecure", skip_serializing_if = "is_false")]
    pub insecure: bool,
}

/// What a motion does when its time is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeoutAction {
    /// It gives up, and the guest goes on at the source.
    #[default]
    Cancel,
    /// It switches over, whatever the blackout.
    Switch,
}

/// The moment that a copy is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// When it begins: memory is copied before the guest overwrites it.
    Start,
    /// When it ends: memory is copied again when the guest has written it.
    End,
}

impl Migrate {
    /// Where to.
    pub fn address(&self) -> Result<Address, Error> {
        address(self.uri.as_deref(), self.channels.as_deref())
    }
}

impl Migrate {
    /// The update that this is in a mode that means one.
    pub fn update(&self, parameters: &Parameters) -> Result<Option<Update>, Error> {
        let check = self.check;
        let update = match self.mode.unwrap_or(parameters.mode) {
            Mode::Normal | Mode::CprReboot => return Ok(None),
            Mode::CprTransfer => {
                let to = Some(self.successor()?);
                Update { to, mode: Some(UpdateMode::Transfer), check, ..Update::default() }
            }
            Mode::CprExec if self.uri.is_some() || self.channels.is_some() => {
                return Err(Error::invalid(
                    "in mode `cpr-exec` nothing goes anywhere: leave `uri` and `channels` out",
                ));
            }
            Mode::CprExec => {
                let binary = parameters.cpr_exec_command.first().map(Into::into);
                Update { binary, mode: Some(UpdateMode::Exec), check, ..Update::default() }
            }
        };
        if self.frozen || self.snapshot || self.timeout.is_some() {
            return Err(Error::invalid(
                "an update sends no memory: `x-whimbrel-frozen`, `x-whimbrel-snapshot` and \
                 `x-whimbrel-timeout` mean nothing to it",
            ));
        }
        update.check()?;
        Ok(Some(update))
    }

    /// Where the process waits that is to take the machine over.
    fn successor(&self) -> Result<PathBuf, Error> {
        let channels = self.channels.as_deref().unwrap_or_default();
        let of = |wanted| channels.iter().filter(move |channel| channel.channel_type == wanted);
        let [cpr, main] = [of(ChannelType::Cpr).next(), of(ChannelType::Main).next()];
        let at = |channel: &Channel| match channel.addr.address()? {
            Address::Unix(path) => Ok(path),
            other => Err(Error::invalid(format!("an update goes over a Unix socket, not {other}"))),
        };
        let Some(cpr) = cpr.filter(|_| channels.len() <= 2) else {
            return Err(Error::invalid(
                "in mode `cpr-transfer` `channels` names one of type `cpr`, and perhaps the same one \
                 as `main`",
            ));
        };
        let path = at(cpr)?;
        match main.map(at).transpose()? {
            Some(main) if main != path => Err(Error::invalid(
                "the motion goes the same way: `main` is the same socket as `cpr`, or left out",
            )),
            _ => Ok(path),
        }
    }

    /// Whether it depends on the mode where it goes.
    fn is_update(&self) -> bool {
        let is_cpr = |channel: &Channel| channel.channel_type == ChannelType::Cpr;
        self.uri.is_none() && self.channels.as_ref().is_none_or(|all| all.iter().any(is_cpr))
    }
}

impl Arguments for Migrate {
    fn check(&self) -> Result<(), Error> {
        if self.is_update() {
            return Ok(());
        }
        self.address()?;
        if self.resume {
            return Err(Error::unsupported(
                "`resume` continues an interrupted postcopy, and this version has no postcopy",
            ));
        }
        if self.detach == Some(false) {
            return Err(Error::unsupported(
                "`detach` cannot be false: no command waits for a motion; ask query-migrate",
            ));
        }
        if self.snapshot && self.frozen {
            return Err(Error::invalid(
                "`x-whimbrel-frozen` promises that the guest does not run again, and \
                 `x-whimbrel-snapshot` that it does",
            ));
        }
        if self.at.is_some() && !self.snapshot {
            return Err(Error::invalid("`x-whimbrel-at` needs `x-whimbrel-snapshot`"));
        }
        let to_a_file = matches!(self.address()?, Address::File { .. } | Address::Fd(_));
        for (name, is_set) in [("snapshot", self.snapshot), ("force", self.force)] {
            if is_set && !to_a_file {
                return Err(Error::invalid(format!("`x-whimbrel-{name}` is for files only")));
            }
        }
        match (self.timeout, self.timeout_action) {
            (Some(0), _) => Err(Error::invalid(
                "`x-whimbrel-timeout` is in milliseconds and at least 1; leave it out for none",
            )),
            (None, Some(_)) => {
                Err(Error::invalid("`x-whimbrel-timeout-action` needs `x-whimbrel-timeout`"))
            }
            _ => Ok(()),
        }
    }
}

/// Arguments of `migrate-incoming`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MigrateIncoming {
    /// Where to wait, as in [`Address`]; or `channels` instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Where to wait, as an object.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "json::some_objects"
    )]
    pub channels: Option<Vec<Channel>>,
    /// Whether the process ends when the motion fails; otherwise it waits on.
    #[serde(default = "yes")]
    pub exit_on_error: bool,
    /// Of a file: make a copy with an identity of its own.
    #[serde(default, rename = "x-whimbrel-clone", skip_serializing_if = "is_false")]
    pub clone: bool,
    /// Of a file: take a saved guest although it was continued already.
    #[serde(default, rename = "x-whimbrel-reclaim", skip_serializing_if = "is_false")]
    pub reclaim: bool,
    /// Of a file: the guest runs on its pages, which are mapped and never read as a whole.
    #[serde(default, rename = "x-whimbrel-mmap", skip_serializing_if = "is_false")]
    pub mmap: bool,
    /// Of a file that is mapped: whether all of it is checked before the guest runs.
    #[serde(default = "yes", rename = "x-whimbrel-verify", skip_serializing_if = "is_true")]
    pub verify: bool,
    /// Of a file: what becomes of the guest's clocks; `continue` unless said otherwise.
    #[serde(default, rename = "x-whimbrel-clock", skip_serializing_if = "Option::is_none")]
    pub clock: Option<RestoreClock>,
    /// Of a file: the descriptor, named with `getfd`, of the device that userfaultfds are made from where
    /// this process may not make them otherwise.
    #[serde(default, rename = "x-whimbrel-userfault-fd", skip_serializing_if = "Option::is_none")]
    pub userfault: Option<String>,
    /// Allow `tcp:` beyond loopback although nothing is encrypted.
    #[serde(default, rename = "x-whimbrel-insecure", skip_serializing_if = "is_false")]
    pub insecure: bool,
}

/// What becomes of the clocks of a guest that comes out of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreClock {
    /// They go on where they stopped.
    Continue,
    /// They go on by the time that has passed since.
    Realtime,
}

impl MigrateIncoming {
    /// Where to wait, or what to restore.
    pub fn address(&self) -> Result<Address, Error> {
        address(self.uri.as_deref(), self.channels.as_deref())
    }
}

impl Arguments for MigrateIncoming {
    fn check(&self) -> Result<(), Error> {
        let address = self.address()?;
        if self.clone && self.reclaim {
            return Err(Error::invalid(
                "`x-whimbrel-clone` makes a copy, which needs no `x-whimbrel-reclaim`",
            ));
        }
        if !self.verify && !self.mmap {
            return Err(Error::invalid(
                "`x-whimbrel-verify` is for `x-whimbrel-mmap`; otherwise each page is always checked",
            ));
        }
        let Self { clone, reclaim, mmap, clock, userfault, .. } = self;
        let of_file = *clone || *reclaim || *mmap || clock.is_some() || userfault.is_some();
        if of_file && !matches!(address, Address::File { .. } | Address::Fd(_)) {
            return Err(Error::invalid(
                "`x-whimbrel-clone`, `x-whimbrel-reclaim`, `x-whimbrel-mmap`, `x-whimbrel-clock` and \
                 `x-whimbrel-userfault-fd` are for a guest that comes out of a file",
            ));
        }
        Ok(())
    }
}

/// One stream of a motion (QAPI `MigrationChannel`). The engine opens further connections to the
/// same address itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Channel {
    /// What it carries.
    pub channel_type: ChannelType,
    /// Where it goes to.
    #[serde(deserialize_with = "json::object")]
    pub addr: ChannelAddress,
}

/// What a channel carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelType {
    /// The motion.
    Main,
    /// What a process gets that takes the machine over, beside the motion.
    Cpr,
}

/// QAPI `MigrationAddress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "transport", rename_all = "kebab-case")]
pub enum ChannelAddress {
    /// A socket.
    Socket(SocketAddress),
    /// A file.
    File(FileAddress),
}

/// QAPI `SocketAddress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SocketAddress {
    /// TCP.
    Inet {
        /// Host name or address.
        host: String,
        /// Port number, as a string.
        port: String,
    },
    /// A Unix stream socket.
    Unix {
        /// Its path.
        path: String,
    },
    /// A descriptor.
    Fd {
        /// The name given to it with `getfd`.
        str: String,
    },
}

/// QAPI `FileMigrationArgs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileAddress {
    /// Its path.
    pub filename: String,
    /// Where in the file to start, in bytes.
    pub offset: u64,
}

fn address(uri: Option<&str>, channels: Option<&[Channel]>) -> Result<Address, Error> {
    match (uri, channels) {
        (Some(uri), None) => uri.parse(),
        (None, Some([Channel { channel_type: ChannelType::Main, addr }])) => addr.address(),
        (None, Some([Channel { channel_type: ChannelType::Cpr, .. }])) => Err(Error::invalid(
            "channels of type `cpr` belong to the mode `cpr-transfer`; see migrate-set-parameters",
        )),
        (None, Some(_)) => Err(Error::invalid("`channels` must hold exactly one channel")),
        (Some(_), Some(_)) => Err(Error::invalid("`uri` and `channels` exclude each other")),
        (None, None) => Err(Error::invalid("either `uri` or `channels` must say the address")),
    }
}

impl ChannelAddress {
    fn address(&self) -> Result<Address, Error> {
        match self {
            // An IPv6 address has a field of its own here, and no brackets.
            Self::Socket(SocketAddress::Inet { host, port }) if host.contains(':') => {
                Address::inet(&format!("[{}]", host.trim_matches(['[', ']'])), port)
            }
            Self::Socket(SocketAddress::Inet { host, port }) => Address::inet(host, port),
            Self::Socket(SocketAddress::Unix { path }) => Address::unix(path),
            Self::Socket(SocketAddress::Fd { str }) => Address::fd(str),
            Self::File(FileAddress { filename, offset }) => Address::file(filename, *offset),
        }
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};
    use state::Code;

    use super::*;
    use crate::command::{AnyCommand, Command};

    fn parse(arguments: &serde_json::Value) -> Result<Migrate, Error> {
        let raw = to_raw_value(arguments).unwrap();
        match AnyCommand::parse("migrate", Some(&raw))? {
            AnyCommand::Machine(Command::Migrate(migrate)) => Ok(migrate),
            other => panic!("migrate was read as {other:?}"),
        }
    }

    fn through(addr: &serde_json::Value) -> Result<Address, Error> {
        parse(&json!({"channels": [{"channel-type": "main", "addr": addr}]}))?.address()
    }

    #[test]
    fn a_channel_says_the_same_as_its_uri() {
        for (uri, addr) in [
            ("tcp:h:44", json!({"transport": "socket", "type": "inet", "host": "h", "port": "44"})),
            (
                "tcp:[::1]:44",
                json!({"transport": "socket", "type": "inet", "host": "::1", "port": "44"}),
            ),
            ("unix:/p", json!({"transport": "socket", "type": "unix", "path": "/p"})),
            ("fd:n", json!({"transport": "socket", "type": "fd", "str": "n"})),
            ("file:/p,offset=7", json!({"transport": "file", "filename": "/p", "offset": 7})),
        ] {
            let by_uri = parse(&json!({"uri": uri})).unwrap().address().unwrap();
            assert_eq!(through(&addr).unwrap(), by_uri, "{uri}");
            let sent =
                serde_json::to_value(Migrate { uri: Some(uri.to_owned()), ..Migrate::default() });
            assert_eq!(sent.unwrap(), json!({"uri": uri}));
        }
    }

    #[test]
    fn an_address_that_is_wrong_in_any_way_is_refused() {
        let socket = json!({"transport": "socket", "type": "unix", "path": "/p"});
        for arguments in [
            json!({"uri": "unix:/p", "channels": [{"channel-type": "main", "addr": socket}]}),
            json!({"channels": []}),
            json!({"channels": null}),
            json!({"channels": [["main", socket]]}),
            json!({"channels": [{"channel-type": "main", "addr": ["socket"]}]}),
            json!({"channels": [{"channel-type": "data", "addr": socket}]}),
            json!({"channels": [{"channel-type": "main"}]}),
            json!({"channels": [{"channel-type": "main", "addr": socket, "x": 1}]}),
            json!({"channels": [
                {"channel-type": "main", "addr": socket},
                {"channel-type": "main", "addr": socket},
            ]}),
            json!({"uri": 7}),
            json!(["unix:/p"]),
            json!({"uri": "unix:/p", "x-whimbrel-frozen": 1}),
            json!({"uri": "unix:/p", "x-whimbrel-timeout": 0}),
            json!({"uri": "unix:/p", "x-whimbrel-timeout": -1}),
            json!({"uri": "unix:/p", "x-whimbrel-timeout-action": "switch"}),
            json!({"uri": "unix:/p", "blk": true}),
        ] {
            assert_eq!(parse(&arguments).unwrap_err().code, Code::InvalidArgument, "{arguments}");
        }
        for addr in [
            json!({"transport": "exec", "args": ["cat"]}),
            json!({"transport": "socket", "type": "vsock", "cid": "3", "port": "4"}),
            json!({"transport": "socket", "type": "unix", "path": "/p", "abstract": true}),
            json!({"transport": "socket", "type": "inet", "host": "h", "port": 44}),
            json!({"transport": "socket", "type": "inet", "host": "h"}),
            json!({"transport": "file", "filename": "/p"}),
            json!({"transport": "file", "filename": "/p", "offset": 0, "x": 1}),
        ] {
            assert_eq!(through(&addr).unwrap_err().code, Code::InvalidArgument, "{addr}");
        }
    }

    #[test]
    fn what_this_version_does_not_have_is_refused_as_such() {
        for arguments in
            [json!({"uri": "unix:/p", "resume": true}), json!({"uri": "unix:/p", "detach": false})]
        {
            assert_eq!(parse(&arguments).unwrap_err().code, Code::Unsupported, "{arguments}");
        }
    }

    #[test]
    fn the_mode_says_whether_it_is_an_update() {
        let in_mode = |mode, arguments: &serde_json::Value| {
            let parameters = Parameters {
                mode,
                cpr_exec_command: vec!["/bin/new".to_owned()],
                ..Parameters::default()
            };
            parse(arguments).unwrap().update(&parameters)
        };
        let at = |path: &str| json!({"transport": "socket", "type": "unix", "path": path});
        let cpr = |path: &str| json!({"channel-type": "cpr", "addr": at(path)});
        let main = |path: &str| json!({"channel-type": "main", "addr": at(path)});
        let tcp = json!({"transport": "socket", "type": "inet", "host": "h", "port": "1"});

        for channels in [json!([cpr("/p")]), json!([main("/p"), cpr("/p")])] {
            let arguments = json!({ "channels": channels });
            let update = in_mode(Mode::CprTransfer, &arguments).unwrap().unwrap();
            assert_eq!((update.to, update.binary), (Some("/p".into()), None));
            // Elsewhere that is no address.
            assert_eq!(in_mode(Mode::Normal, &arguments).unwrap(), None);
            assert!(parse(&arguments).unwrap().address().is_err());
        }
        for arguments in [
            json!({}),
            json!({"uri": "unix:/p"}),
            json!({"channels": [main("/p")]}),
            json!({"channels": [main("/p"), cpr("/q")]}),
            json!({"channels": [cpr("/p"), cpr("/p"), cpr("/p")]}),
            json!({"channels": [{"channel-type": "cpr", "addr": tcp}]}),
            json!({"channels": [cpr("/p")], "x-whimbrel-frozen": true}),
            json!({"channels": [cpr("relative")]}),
        ] {
            assert!(in_mode(Mode::CprTransfer, &arguments).is_err(), "{arguments}");
        }
        let update = in_mode(Mode::CprExec, &json!({})).unwrap().unwrap();
        assert_eq!(update.binary, Some("/bin/new".into()));
        assert_eq!(update.mode, Some(UpdateMode::Exec));
        assert!(in_mode(Mode::CprExec, &json!({"uri": "unix:/p"})).is_err());
        assert!(parse(&json!({})).unwrap().address().is_err());
    }
}
