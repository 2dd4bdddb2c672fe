//! A guest that talks without end, each byte of which is known, until its power button is pressed. Then it
//! powers off.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::support::{Host, Machine, wait};

/// Where it is loaded and begins: the first MiB is the boot information's.
const ENTRY: u32 = 0x10_0000;
/// What it says: seven bits of each state of a generator (Numerical Recipes, 7.1, "quick and dirty").
const FACTOR: u32 = 1_664_525;
const TERM: u32 = 1_013_904_223;

/// The program, in 32-bit protected mode without paging, as PVH begins.
#[rustfmt::skip]
const CODE: [u8; 48] = [
    0xb8, 1, 0, 0, 0,                   //     mov eax, 1
    0x69, 0xc0, 0x0d, 0x66, 0x19, 0,    // 1:  imul eax, eax, FACTOR
    0x05, 0x5f, 0xf3, 0x6e, 0x3c,       //     add eax, TERM
    0x89, 0xc1,                         //     mov ecx, eax
    0xc1, 0xe8, 25,                     //     shr eax, 25
    0xba, 0xf8, 0x03, 0, 0,             //     mov edx, 0x3f8   the UART's data
    0xee,                               //     out dx, al
    0xba, 0x04, 0x06, 0, 0,             //     mov edx, 0x604   what happened
    0xec,                               //     in al, dx
    0xa8, 1,                            //     test al, 1       the button
    0x89, 0xc8,                         //     mov eax, ecx
    0x74, 0xde,                         //     jz 1b
    0xb0, 0x34,                         //     mov al, 0x34     S5, now
    0xba, 0, 0x06, 0, 0,                //     mov edx, 0x600   sleep control
    0xee,                               //     out dx, al
    0xf4,                               // 2:  hlt
];

/// An ELF file with a PVH entry note (System V gABI, chapters 4 and 5; Xen, `public/elfnote.h`).
fn kernel() -> Vec<u8> {
    let mut note = Vec::new();
    [4u32, 4, 18].iter().for_each(|word| note.extend(word.to_le_bytes()));
    note.extend(b"Xen\0");
    note.extend(ENTRY.to_le_bytes());
    let (headers, code, about) = (64u64, 64 + 2 * 56, 64 + 2 * 56 + CODE.len() as u64);
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01");
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    [u64::from(ENTRY), headers, 0].iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let parts =
        [(1u32, code, u64::from(ENTRY), CODE.len() as u64), (4, about, 0, note.len() as u64)];
    for (kind, offset, address, size) in parts {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for word in [offset, address, address, size, size, 4] {
            file.extend(word.to_le_bytes());
        }
    }
    file.extend(CODE);
    file.extend(note);
    file
}

/// Starts a machine with this guest.
pub fn talker(host: &Host, name: &str, more: &[&str]) -> Machine {
    let path = host.folder().join("talker");
    std::fs::write(&path, kernel()).unwrap();
    let kernel = ["--kernel", path.to_str().unwrap(), "--memory", "16M"];
    let machine = host.start(name, &[&kernel, more].concat());
    hears(&machine, 1);
    machine
}

/// How many bytes of what the guest says have come: all of them, from its first one on, none of them twice.
pub fn heard(machine: &Machine) -> usize {
    let said = machine.said();
    let mut state = 1u32;
    for (at, byte) in said.bytes().enumerate() {
        state = state.wrapping_mul(FACTOR).wrapping_add(TERM);
        let expected = state.to_le_bytes()[3] >> 1;
        assert_eq!(byte, expected, "byte {at} of the {} that came", said.len());
    }
    said.len()
}

/// Waits for so many more.
pub fn hears(machine: &Machine, more: usize) {
    let until = heard(machine) + more;
    wait("the guest to go on talking", || (heard(machine) >= until).then_some(()));
}
