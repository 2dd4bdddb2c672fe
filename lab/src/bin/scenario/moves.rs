//! A guest that is moved while it works and while it stands still: boot, a snapshot, an update in each way and two
//! moves while it works, a move while it is stopped, a report, a reboot, a save and a lazy restore, another
//! report, and its power button.

use std::ffi::OsStr;

use anyhow::Result;

use crate::consoles::Consoles;
use crate::findings::Move;
use crate::machine::{Console, How, Machine, Place, WITH_THE_HOST};
use crate::programs::Programs;

/// How often the guest boots.
pub const BOOTS: usize = 2;

pub fn play(programs: &Programs, consoles: &mut Consoles, moves: &mut Vec<Move>) -> Result<()> {
    let ram = programs.memory_file();
    let more = ["--memory", "256M", "--memory-file"].map(OsStr::new);
    let mut first = Machine::boot(programs, "a", more.into_iter().chain([ram.as_os_str()]))?;
    consoles.watch_boot(first.console())?;

    let limit = ["--max-blackout", "10s"];
    let snapshot = first.write("snapshot", &programs.folder, &limit, consoles)?;
    std::fs::remove_file(snapshot)?;
    consoles.go_on()?;

    // All processes end, as when the host starts anew.
    first.reboot(consoles)?;
    consoles.go_on()?;

    first.update("exec", consoles)?;
    consoles.go_on()?;

    let (place, file) = (Place::Here, Console::File);
    let mut second = Machine::awaiting(programs, "b", "tcp:127.0.0.1:4444", file, place, &[])?;
    moves.push(first.move_to(&second, How::Live, consoles)?);
    consoles.work()?;
    first.kill()?;
    std::fs::remove_file(ram)?;

    // Its RAM has no name here.
    second.update("transfer", consoles)?;
    consoles.go_on()?;

    // To another host and back, as its clocks see it.
    let (place, file) = (Place::Elsewhere, Console::File);
    let mut third = Machine::awaiting(programs, "c", "tcp:127.0.0.1:4445", file, place, &[])?;
    moves.push(second.move_to(&third, How::Live, consoles)?);
    consoles.work()?;
    second.kill()?;

    let (place, stdio) = (Place::Here, Console::Stdio);
    let mut fourth = Machine::awaiting(programs, "d", "tcp:127.0.0.1:4446", stdio, place, &[])?;
    moves.push(third.move_to(&fourth, How::Frozen, consoles)?);
    consoles.work()?;
    third.kill()?;
    fourth.report(consoles)?;

    fourth.say("reboot")?;
    consoles.wait("the guest's second boot", |seen| seen.boots() == 2 && seen.here("tick") > 0)?;
    println!("the guest has rebooted where it has come to");
    consoles.work()?;

    // Its kernel is too long for the file of so small a guest: there is no reboot after this.
    let file = fourth.save(&programs.folder, consoles)?;
    let how = [&["--lazy"], &WITH_THE_HOST[..]].concat();
    let mut last = Machine::restored(programs, "e", &file, Console::Stdio, &how)?;
    consoles.next(last.console())?;
    println!("d to e: saved and restored");
    consoles.work()?;
    last.report(consoles)?;
    last.power_off(consoles)?;
    consoles.check_all_read()
}
