//! One line of a client, and the line that answers it.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::command::AnyCommand;
use crate::error::Error;
use crate::json::{self, Object};
use crate::reply::{Reply, VersionInfo};

/// The `id` of a command, given back exactly as it was written.
pub(crate) type Id = Option<Box<RawValue>>;

/// A command as a client sent it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: Id,
    /// Sent with `exec-oob`.
    pub(crate) oob: bool,
    pub(crate) command: Result<AnyCommand, Error>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(default, deserialize_with = "present")]
    id: Id,
    execute: Option<String>,
    #[serde(rename = "exec-oob")]
    exec_oob: Option<String>,
    #[serde(default, borrow, deserialize_with = "present_borrowed")]
    arguments: Option<&'a RawValue>,
}

/// What is looked for in a line that is no command, so that even its error can carry the `id`.
#[derive(Deserialize)]
struct IdOnly {
    #[serde(default, deserialize_with = "present")]
    id: Id,
}

/// A value that is there, even if it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Id, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

fn present_borrowed<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Request {
    /// Reads a line; never fails, because a line that is no command is answered too.
    pub(crate) fn parse(line: &[u8]) -> Self {
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => {
                let place = error.valid_up_to() + 1;
                let error = Error::invalid(format!("the command is not UTF-8 at byte {place}"));
                return Self { id: None, oob: false, command: Err(error) };
            }
        };
        match serde_json::from_str(text) {
            Ok(Object(envelope)) => Self::of(envelope),
            Err(error) => {
                let id = serde_json::from_str(text).map_or(None, |Object(IdOnly { id })| id);
                let error = Error::invalid(format!(
                    "not a command: {}, near byte {}; a command is one JSON object on one line",
                    json::message(&error),
                    error.column(),
                ));
                Self { id, oob: false, command: Err(error) }
            }
        }
    }

    fn of(envelope: Envelope<'_>) -> Self {
        let Envelope { id, execute, exec_oob, arguments } = envelope;
        let oob = exec_oob.is_some();
        let command = match (execute, exec_oob) {
            (Some(name), None) | (None, Some(name)) => AnyCommand::parse(&name, arguments),
            (Some(_), Some(_)) => {
                Err(Error::invalid("not a command: `execute` and `exec-oob` exclude each other"))
            }
            (None, None) => Err(Error::invalid("not a command: it has no `execute`")),
        };
        let command = match command {
            Ok(command) if oob && !command.allows_oob() => Err(Error::invalid(format!(
                "{}: cannot be sent with `exec-oob`; send it with `execute`",
                command.name()
            ))),
            other => other,
        };
        Self { id, oob, command }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome<'a> {
    Return(&'a Reply),
    Error(&'a Error),
}

#[derive(Serialize)]
struct Response<'a> {
    #[serde(flatten)]
    outcome: Outcome<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
}

/// The line that answers a command.
pub(crate) fn answer(id: &Id, result: &Result<Reply, Error>) -> String {
    let outcome = match result {
        Ok(reply) => Outcome::Return(reply),
        Err(error) => Outcome::Error(error),
    };
    line(&Response { outcome, id: id.as_deref() })
}

/// What a client is told first.
pub(crate) fn greeting() -> String {
    #[derive(Serialize)]
    struct Greeting {
        #[serde(rename = "QMP")]
        qmp: Qmp,
    }
    #[derive(Serialize)]
    struct Qmp {
        version: VersionInfo,
        capabilities: [&'static str; 1],
    }
    line(&Greeting { qmp: Qmp { version: VersionInfo::this(), capabilities: ["oob"] } })
}

/// A value as a line of its own.
pub(crate) fn line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value)
        .expect("replies and events have string keys and no fallible Serialize of their own");
    // QEMU's lines end so, and some clients are particular about it.
    text.push_str("\r\n");
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use state::Code;

    use super::*;
    use crate::command::{Command, SessionCommand};
    use crate::error::Class;

    fn parse(line: &str) -> Request {
        Request::parse(line.as_bytes())
    }

    fn id(request: &Request) -> Option<&str> {
        request.id.as_deref().map(RawValue::get)
    }

    #[test]
    fn a_command_is_read_with_its_id() {
        let request = parse(r#"{"execute": "stop", "id": {"a": [1.50, 18446744073709551616]}}"#);
        assert!(matches!(request.command, Ok(AnyCommand::Machine(Command::Stop))));
        assert_eq!(id(&request), Some(r#"{"a": [1.50, 18446744073709551616]}"#));
        assert!(!request.oob);
        let request = parse(r#"{"exec-oob": "query-version", "id": null, "arguments": {}}"#);
        assert!(matches!(request.command, Ok(AnyCommand::Session(SessionCommand::QueryVersion))));
        assert_eq!(id(&request), Some("null"));
        assert!(request.oob);
    }

    #[test]
    fn what_is_no_command_is_an_error_that_still_carries_the_id() {
        for line in [
            r#"{"id": 7}"#,
            r#"{"execute": "stop", "exec-oob": "stop", "id": 7}"#,
            r#"{"execute": "stop", "execute": "stop", "id": 7}"#,
            r#"{"execute": "stop", "extra": 1, "id": 7}"#,
            r#"{"execute": 1, "id": 7}"#,
            r#"{"execute": "stop", "arguments": [], "id": 7}"#,
            r#"{"execute": "stop", "arguments": null, "id": 7}"#,
            r#"{"execute": "stop", "arguments": {"x": 1}, "id": 7}"#,
            r#"{"execute": "getfd", "id": 7}"#,
            r#"{"execute": "getfd", "arguments": {"fdname": "a", "fdname": "b"}, "id": 7}"#,
            r#"{"execute": "getfd", "arguments": {"fdname": 1}, "id": 7}"#,
            r#"{"execute": "getfd", "arguments": ["a"], "id": 7}"#,
            r#"{"exec-oob": "stop", "id": 7}"#,
        ] {
            let request = parse(line);
            let error = request.command.as_ref().unwrap_err();
            assert_eq!((error.code, error.class), (Code::InvalidArgument, Class::GenericError));
            assert_eq!(id(&request), Some("7"), "{line}");
        }
        for line in ["", "[]", "7", "null", "{", "}", r#"["stop"]"#, r#"{"execute": "stop",}"#] {
            let request = parse(line);
            assert_eq!(request.command.unwrap_err().code, Code::InvalidArgument, "{line}");
        }
        let error = Request::parse(b"{\"execute\": \"\xff\"}").command.unwrap_err();
        assert!(error.desc.contains("UTF-8 at byte 14"), "{error}");
    }

    #[test]
    fn a_command_that_does_not_exist_has_a_class_of_its_own() {
        for (name, code) in [
            ("no-such-command", Code::InvalidArgument),
            ("human-monitor-command", Code::Unsupported),
        ] {
            let request = parse(&json!({"execute": name, "arguments": {"x": 1}}).to_string());
            let error = request.command.unwrap_err();
            assert_eq!((error.class, error.code), (Class::CommandNotFound, code));
            assert!(error.desc.contains(name));
        }
    }

    #[test]
    fn nesting_however_deep_is_an_error_or_skipped_but_no_crash() {
        let deep = |open: &str, close: &str| [open.repeat(200_000), close.repeat(200_000)].concat();
        let list = deep("[", "]");
        for line in [
            deep("{\"a\":", "}"),
            list.clone(),
            format!(r#"{{"execute":"stop","arguments":{{"x":{list}}}}}"#),
            format!(r#"{{"execute":"migrate-set-parameters","arguments":{{"x":{list}}}}}"#),
            format!(r#"{{"execute":"migrate","arguments":{{"channels":{list}}}}}"#),
            format!(
                r#"{{"execute":"migrate","arguments":{{"channels":[{{"channel-type":"main","addr":{{"x":{list}}}}}]}}}}"#
            ),
        ] {
            assert_eq!(parse(&line).command.unwrap_err().code, Code::InvalidArgument);
        }
        let request = parse(&format!(r#"{{"execute":"stop","id":{list}}}"#));
        assert!(request.command.is_ok());
        assert_eq!(id(&request), Some(list.as_str()));
    }

    #[test]
    fn an_answer_is_one_line_with_the_id_as_it_was_sent() {
        let request = parse(r#"{"execute": "stop", "id": 1e2}"#);
        assert_eq!(answer(&request.id, &Ok(().into())), "{\"return\":{},\"id\":1e2}\r\n");
        let line = answer(&None, &Err(Error::new(Code::Busy, "two\nlines")));
        assert_eq!(
            line,
            "{\"error\":{\"class\":\"GenericError\",\"desc\":\"two\\nlines\",\
             \"x-whimbrel-code\":\"busy\"}}\r\n"
        );
    }

    #[test]
    fn the_greeting_is_what_clients_expect() {
        let greeting: Value = serde_json::from_str(&greeting()).unwrap();
        assert!(greeting["QMP"]["version"]["qemu"]["major"].is_u64());
        let package = greeting["QMP"]["version"]["package"].as_str().unwrap();
        assert!(package.starts_with("whimbrel-"), "{package}");
        assert_eq!(greeting["QMP"]["capabilities"], json!(["oob"]));
    }

    #[test]
    fn every_command_is_listed_once() {
        let names = AnyCommand::names();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
        assert!(!names.contains(&"human-monitor-command"));
        for name in names {
            // A listed command is known: whatever is wrong with it, it is not that.
            let error = parse(&json!({"execute": name, "arguments": {"?": 0}}).to_string());
            assert_eq!(error.command.unwrap_err().class, Class::GenericError, "{name}");
        }
    }

    #[test]
    fn a_machine_command_written_by_a_client_reads_back_the_same() {
        let migrate = crate::command::Migrate {
            uri: Some("tcp:192.0.2.1:1".into()),
            frozen: true,
            timeout: Some(5),
            ..Default::default()
        };
        for command in [Command::Stop, Command::Migrate(migrate)] {
            let line = serde_json::to_string(&command).unwrap();
            let Ok(AnyCommand::Machine(read)) = parse(&line).command else {
                panic!("{line} is no machine command")
            };
            assert_eq!(read, command);
        }
    }

    proptest! {
        #[test]
        fn reading_arbitrary_bytes_never_panics(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let request = Request::parse(&line);
            let _ = answer(&request.id, &request.command.map(|_| ().into()));
        }

        #[test]
        fn reading_broken_commands_never_panics(
            name in prop::sample::select(AnyCommand::names()),
            arguments in r#"[\[\]{}:,"a-z0-9 ]{0,40}"#,
            cut in any::<prop::sample::Index>(),
        ) {
            let line = format!(r#"{{"execute":"{name}","arguments":{arguments},"id":1}}"#);
            let _ = parse(&line[..cut.index(line.len())]);
            let _ = parse(&line);
        }
    }
}
