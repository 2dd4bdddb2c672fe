//! What somebody at a terminal sees of a move: nothing wider than the terminal, and only what it can show.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::Read;
use std::thread;
use support::Host;

const SHAPE: [&str; 6] = ["--memory", "64M", "--cpus", "1", "--cmdline", "ws=32M rate=1000"];
/// Columns of the terminal.
const COLUMNS: u16 = 80;
/// Slow enough for the display to be drawn anew some times.
const SLOWLY: [&str; 2] = ["--max-bandwidth", "32M"];

/// Moves the machine at a terminal, with these variables, and gives all that was written there.
fn moved(host: &Host, from: &str, to: &str, variables: &[(&str, &str)]) -> String {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = openpt(flags).unwrap();
    grantpt(&screen).unwrap();
    unlockpt(&screen).unwrap();
    let size = Winsize { ws_row: 24, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&screen, size).unwrap();
    let terminal = File::from(ioctl_tiocgptpeer(&screen, flags).unwrap());
    let reader = thread::spawn(move || {
        let (mut screen, mut seen, mut some) = (File::from(screen), Vec::new(), [0; 4096]);
        // A terminal that nobody has open any more gives an error (EIO).
        while let Ok(count @ 1..) = screen.read(&mut some) {
            seen.extend_from_slice(&some[..count]);
        }
        String::from_utf8(seen).unwrap()
    });
    let arguments = [&["migrate", from, to], &SLOWLY[..]].concat();
    let mut command = host.whimbrel(&arguments);
    command.env_remove("NO_COLOR").env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
    command.envs(variables.iter().copied());
    command.stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let status = command.status().unwrap();
    // The command has the other ends.
    drop(command);
    let seen = reader.join().unwrap();
    assert!(status.success(), "{seen}");
    assert!(seen.contains("completed"), "{seen}");
    seen
}

/// Lines as they are drawn, without what moves the cursor or changes colours (ECMA-48, 5.4: a control sequence
/// ends with a byte from `@` to `~`).
fn lines(seen: &str) -> Vec<String> {
    let mut text = String::new();
    let mut rest = seen.chars();
    while let Some(char) = rest.next() {
        match char {
            '\x1b' if rest.next() == Some('[') => {
                // A line that is drawn over another begins where that did.
                let end = rest.find(|char| ('@'..='~').contains(char));
                if end != Some('m') {
                    text.push('\n');
                }
            }
            '\r' => text.push('\n'),
            char => text.push(char),
        }
    }
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_move_is_shown_as_the_terminal_can_show_it() {
    let host = Host::new();
    let machines = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")];
    let first = host.selfcheck("a", &SHAPE);
    let mut seen = Vec::new();
    let mut last = first;
    let variables: [&[(&str, &str)]; 4] =
        [&[], &[("NO_COLOR", "1")], &[("LC_ALL", "C")], &[("TERM", "dumb")]];
    for ((from, to), variables) in machines.into_iter().zip(variables) {
        let (machine, address) = host.incoming(to, &[]);
        seen.push(moved(&host, from, &address, variables));
        host.ok(&["kill", from]);
        last = machine;
    }
    last.check_all();
    let [coloured, plain, ascii, dumb] = &seen[..] else { unreachable!("as many as moves") };

    // What is drawn in its place must not be broken; what is printed once may be.
    for seen in [coloured, plain, ascii] {
        for line in lines(seen) {
            assert!(line.chars().count() <= COLUMNS.into(), "{line:?} of\n{seen}");
        }
    }
    let ink = |seen: &str| {
        seen.split("\x1b[").skip(1).any(|rest| {
            rest.find(|char| ('@'..='~').contains(&char))
                .is_some_and(|end| rest[end..].starts_with('m'))
        })
    };
    assert!(ink(coloured), "no colour: {coloured}");
    assert!(!ink(plain), "a colour: {plain}");
    assert!(plain.contains("\x1b["), "the display is drawn in its place: {plain:?}");
    assert!(!coloured.is_ascii() && !plain.is_ascii(), "bars: {plain}");
    assert!(ascii.is_ascii(), "{ascii}");
    assert!(!dumb.contains('\x1b'), "{dumb:?}");
}
