//! `whimbrel guest`

use crate::exit::Exit;
use crate::output::{print_json, print_line, table};
use anyhow::Context;
use clap::Subcommand;
use guest::Builtin;
use serde_json::json;
use std::path::PathBuf;

/// The built-in guests
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  whimbrel guest list\n  whimbrel guest export clock clock.elf")]
pub struct Guest {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show them, with the parameters that each takes on its command line
    List(List),
    /// Write one to a file: an ELF image with a PVH note, which QEMU boots too
    Export(Export),
}

#[derive(Debug, clap::Args)]
struct List {
    /// One JSON object per guest and line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Export {
    /// Which guest
    #[arg(value_parser = |name: &str| name.parse::<Builtin>())]
    guest: Builtin,
    /// Where to; an existing file is replaced
    file: PathBuf,
    /// Answer with a JSON object
    #[arg(long)]
    json: bool,
}

impl Guest {
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.action {
            Action::List(list) => list.run(),
            Action::Export(export) => export.run(),
        }
    }

    pub fn wants_json(&self) -> bool {
        match &self.action {
            Action::List(list) => list.json,
            Action::Export(export) => export.json,
        }
    }
}

impl List {
    fn run(self) -> anyhow::Result<Exit> {
        for guest in Builtin::ALL {
            if self.json {
                let parameters: Vec<_> = guest
                    .parameters()
                    .map(|key| json!({ "name": key.name, "value": key.value, "help": key.help }))
                    .collect();
                print_json(&json!({
                    "guest": guest.name(),
                    "description": guest.describe(),
                    "parameters": parameters,
                }))?;
                continue;
            }
            print_line(&format!("{guest}: {}", guest.describe()));
            let rows: Vec<_> = guest
                .parameters()
                .map(|key| vec![format!("  {}={}", key.name, key.value), key.help.to_owned()])
                .collect();
            for line in table(&rows) {
                print_line(&line);
            }
        }
        Ok(Exit::Done)
    }
}

impl Export {
    fn run(self) -> anyhow::Result<Exit> {
        let image = self.guest.image();
        std::fs::write(&self.file, image).with_context(|| {
            format!("cannot write the guest {} to {}", self.guest, self.file.display())
        })?;
        if self.json {
            let file = self.file.to_string_lossy();
            print_json(&json!({ "guest": self.guest.name(), "file": file, "size": image.len() }))?;
        }
        Ok(Exit::Done)
    }
}
