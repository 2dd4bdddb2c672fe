//! Serves a machine that only pretends, until `quit`: something to try QMP clients on.
//!
//! ```text
//! cargo run -p whimbrel-qmp --example echo_server -- /tmp/qmp.sock
//! ```

#[path = "../tests/machine/mod.rs"]
mod machine;

use std::path::PathBuf;
use std::process::ExitCode;

use machine::Pretender;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: echo_server PATH");
        return ExitCode::from(2);
    };
    let pretender = Pretender::at(&path, qmp::Limits::default());
    println!("serving at {}", path.display());
    // The sender lives in the machine, which the server holds: this returns when `quit` came.
    let _ = pretender.quit.recv();
    pretender.server.shutdown();
    ExitCode::SUCCESS
}
