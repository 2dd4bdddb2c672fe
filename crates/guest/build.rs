//! Compiles the bare-metal guests with the host's own compiler

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const GUESTS: [&str; 3] = ["workload", "selfcheck", "clock"];

fn main() {
    let source = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("bare");
    let output = PathBuf::from(env::var("OUT_DIR").expect("set by cargo"));
    println!("cargo::rerun-if-changed=bare");
    println!("cargo::rerun-if-changed=src/shared");

    compile(&source.join("rt/lib.rs"), &output.join("librt.rlib"), |rustc| {
        rustc.args(["--crate-type=rlib", "--crate-name=rt"]);
    });
    for guest in GUESTS {
        compile(&source.join(guest).with_extension("rs"), &output.join(guest), |rustc| {
            rustc.args(["--crate-type=bin", "--crate-name", guest, "--extern"]);
            rustc.arg(format!("rt={}", output.join("librt.rlib").display()));
            rustc.args(["-nostdlib", "-nostartfiles", "-static", "-no-pie"].map(link));
            rustc.arg(link(&format!("-Wl,-T,{}", source.join("link.ld").display())));
            rustc.args(["-Wl,--build-id=none", "-Wl,--gc-sections"].map(link));
        });
    }
}

fn link(argument: &str) -> String {
    format!("-Clink-arg={argument}")
}

/// The guests are 64-bit x86 programs whatever the host is, always optimised:
/// their loops are what is measured
fn compile(source: &Path, output: &Path, arguments: impl FnOnce(&mut Command)) {
    let mut rustc = Command::new(env::var_os("RUSTC").expect("set by cargo"));
    rustc.args(["--edition=2024", "--target=x86_64-unknown-linux-gnu"]);
    rustc.args(["-Copt-level=3", "-Cpanic=abort", "-Cstrip=symbols"]);
    rustc.args(["-Crelocation-model=static", "-Cno-redzone=yes", "-Ccodegen-units=1"]);
    arguments(&mut rustc);
    rustc.arg(source).arg("-o").arg(output);
    let status = rustc.status().expect("the compiler that cargo names can be run");
    assert!(status.success(), "compiling {} failed", source.display());
}
