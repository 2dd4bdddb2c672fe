//! A guest whose RAM is in pages of 4 KiB here and in one page of 1 GiB there: refusals, a live move into such a page,
//! an update on it, a live move out of it, a save, restores onto either kind of pages and from either, a lazy
//! one onto a page of 1 GiB, a report, and its power button.
//!
//! The host has one such page.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::consoles::Consoles;
use crate::findings::Move;
use crate::machine::{Console, How, Machine, Place, WITH_THE_HOST};
use crate::pool;
use crate::programs::Programs;

/// How often the guest boots.
pub const BOOTS: usize = 1;
/// Files of the guest go to the host's memory: its emulated disk is slow.
const FILES: &str = "/tmp";
const GIBIBYTE: [&str; 2] = ["--hugepages", "1G"];
const SMALL: [&str; 2] = ["--hugepages", "off"];

pub fn play(programs: &Programs, consoles: &mut Consoles, moves: &mut Vec<Move>) -> Result<()> {
    let files = Path::new(FILES);
    let mut first = Machine::boot(programs, "a", ["--memory", "1G"].map(OsStr::new))?;
    consoles.watch_boot(first.console())?;
    must_have(&first, "off")?;

    pool::wait_until_free(1)?;

    let (address, here) = ("tcp:127.0.0.1:4444", Place::Here);
    let mut second = Machine::awaiting(programs, "b", address, Console::File, here, &GIBIBYTE)?;
    moves.push(first.move_to(&second, How::Live, consoles)?);
    consoles.go_on()?;
    first.kill()?;
    must_have(&second, "1G")?;
    must_be_one_page()?;

    // This guest has the only one: there is none for another, nor for this one in another process.
    let none = ["1 huge pages of 1 GiB", "0 are free", &pool::advice(2)];
    let another = ["--guest", "clock", "--memory", "1G", "--console", "off", "--name", "another"];
    must_say(&programs.refused("run", &[&another[..], &GIBIBYTE].concat())?, &none)?;
    let address = "tcp:127.0.0.1:4445";
    let mut waiting = Machine::awaiting(programs, "c", address, Console::Off, here, &GIBIBYTE)?;
    must_say(&programs.refused("migrate", &["b", address, "--check"])?, &none)?;
    waiting.kill()?;

    let file = files.join("b.start").display().to_string();
    let said = programs.refused("snapshot", &["b", &file, "--at", "start"])?;
    must_say(&said, &["pages of 1 GiB can only be copied whole", "--at end"])?;
    consoles.go_on()?;

    for mode in ["exec", "transfer"] {
        second.update(mode, consoles)?;
        consoles.go_on()?;
        must_have(&second, "1G")?;
        must_be_one_page()?;
    }

    let stdio = Console::Stdio;
    let mut third = Machine::awaiting(programs, "c", address, stdio, here, &SMALL)?;
    moves.push(second.move_to(&third, How::Live, consoles)?);
    consoles.work()?;
    second.kill()?;
    must_have(&third, "off")?;
    pool::wait_until_free(1)?;
    third.report(consoles)?;

    // Copies that never run, from one kind of pages to the other and back. Onto a page of 1 GiB all comes before
    // the guest unless it is said otherwise.
    let saved = third.save(files, consoles)?;
    let mut before = saved.clone();
    for (name, pages, how) in [("d", GIBIBYTE, &[][..]), ("e", SMALL, &["--eager"])] {
        let how = [&["--clone", "--paused"], &pages[..], how].concat();
        let mut copy = Machine::restored(programs, name, &before, Console::Off, &how)?;
        copy.wait_until("paused")?;
        must_have(&copy, pages[1])?;
        must_have_come(&copy, "eager")?;
        let after = copy.save(files, consoles)?;
        programs.must_have_the_same_ram(&before, &after)?;
        before = after;
        pool::wait_until_free(1)?;
    }

    // And the guest itself, which waits for all of the page when it touches the first of it.
    let how = [&["--lazy"], &WITH_THE_HOST[..], &GIBIBYTE].concat();
    let mut last = Machine::restored(programs, "f", &saved, Console::Stdio, &how)?;
    consoles.next(last.console())?;
    consoles.work()?;
    must_have(&last, "1G")?;
    must_be_one_page()?;
    must_have_come(&last, "lazy")?;
    last.report(consoles)?;
    last.power_off(consoles)?;
    pool::wait_until_free(1)?;
    consoles.check_all_read()
}

/// The machine's RAM is in pages of this kind.
fn must_have(machine: &Machine<'_>, pages: &str) -> Result<()> {
    let status = machine.status()?;
    let backing = status.pointer("/machine/memory/backing");
    let name = machine.name();
    ensure!(backing == Some(&Value::from(pages)), "{name} is not on pages `{pages}`: {status}");
    Ok(())
}

/// The page is taken, and the guest that runs on it has it as one.
fn must_be_one_page() -> Result<()> {
    pool::wait_until_free(0)?;
    ensure!(pool::mapped()? > 0, "KVM has mapped the page of 1 GiB for its guest in smaller parts");
    Ok(())
}

/// The machine's RAM came out of its file in this way.
fn must_have_come(machine: &Machine<'_>, way: &str) -> Result<()> {
    let status = machine.status()?;
    let found = status.pointer("/migration/x-whimbrel-report/restore/how");
    let name = machine.name();
    ensure!(found == Some(&Value::from(way)), "{name} was not restored `{way}`: {status}");
    Ok(())
}

/// A refusal says all of this.
fn must_say(said: &str, words: &[&str]) -> Result<()> {
    println!("refused: {said}");
    for word in words {
        ensure!(said.contains(word), "the refusal does not say `{word}`: {said}");
    }
    Ok(())
}
