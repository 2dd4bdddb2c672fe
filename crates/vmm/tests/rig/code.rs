//! Guests of a few instructions, assembled with the tests, and the ELF file around them.

use std::arch::global_asm;

/// Where the code is loaded and entered, in 32-bit mode.
const ENTRY: u64 = 0x10_0000;

/// A PVH ELF file of nothing but this code.
pub fn elf(code: &[u8]) -> Vec<u8> {
    let (headers, note, text) = (64u64, 64 + 2 * 56, 0x100u64);
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_EXEC for x86_64, version 1.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [ENTRY, headers, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [0u16, 0, 64, 56, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let length = code.len() as u64;
    // PT_LOAD of the code, PT_NOTE of the entry.
    for (kind, flags, words) in [
        (1u32, 7u32, [text, ENTRY, ENTRY, length, length, 0x1000]),
        (4, 4, [note, 0, 0, 20, 20, 4]),
    ] {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        words.iter().for_each(|word| file.extend(word.to_le_bytes()));
    }
    // XEN_ELFNOTE_PHYS32_ENTRY.
    for word in [4u32, 4, 18] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"Xen\0");
    file.extend(u32::try_from(ENTRY).unwrap().to_le_bytes());
    file.resize(usize::try_from(text).unwrap(), 0);
    file.extend(code);
    file
}

macro_rules! code {
    ($(#[$doc:meta])* $name:ident = $($line:literal)+) => {
        global_asm!(
            ".pushsection .rodata",
            ".code32",
            concat!(stringify!($name), "_start:"),
            $(concat!($line, "\n"),)+
            concat!(stringify!($name), "_end:"),
            ".code64",
            ".popsection",
            options(att_syntax),
        );

        $(#[$doc])*
        pub fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!(stringify!($name), "_start")]
                static START: u8;
                #[link_name = concat!(stringify!($name), "_end")]
                static END: u8;
            }
            // SAFETY: the two labels enclose the code in read-only data, which is there for ever.
            unsafe {
                let start = &raw const START;
                let length = (&raw const END).offset_from_unsigned(start);
                std::slice::from_raw_parts(start, length)
            }
        }
    };
}

code! {
    /// Does what it must not, without anybody to handle it.
    triple_fault = "ud2"
}

code! {
    /// Jumps to where there is neither memory nor a device.
    nowhere = "mov $0xd0000000, %eax" "jmp *%eax"
}

code! {
    /// Powers off if ports and addresses that nobody has read as all ones.
    probe =
        "in $0x80, %al"
        "cmp $0xff, %al"
        "jne 9f"
        "mov 0xd0000000, %eax"
        "cmp $-1, %eax"
        "jne 9f"
        "mov $0x600, %dx"
        "mov $0x34, %al"
        "out %al, %dx"
        "1: hlt"
        "jmp 1b"
        "9: ud2"
}

code! {
    /// Prints numbers, one after the other, and checks what it reads of the UART and the I/O APIC
    /// between any two.
    numbers =
        "xor %ebx, %ebx"
        "1:"
        "mov $0x3fd, %dx"
        "in %dx, %al"
        "cmp $0x60, %al"
        "jne 9f"
        "movl $1, 0xfec00000"
        "mov 0xfec00010, %eax"
        "cmp $0x170020, %eax"
        "jne 9f"
        "mov $0x3f8, %dx"
        "mov %ebx, %esi"
        "mov $8, %ecx"
        "2:"
        "rol $4, %esi"
        "mov %esi, %eax"
        "and $0xf, %al"
        "add $97, %al"
        "out %al, %dx"
        "dec %ecx"
        "jnz 2b"
        "mov $(0x100000 + numbers_tail - numbers_start), %esi"
        "mov $3, %ecx"
        "rep outsb"
        "inc %ebx"
        "jmp 1b"
        "9: ud2"
        "numbers_tail: .ascii \"..\\n\""
}

code! {
    /// Sleeps. A one-shot timer wakes it, and it prints a number that counts them; input wakes it
    /// by a level-triggered interrupt of the I/O APIC, and it prints that back.
    interrupts =
        "mov $0x180000, %esp"
        "lgdt 0x100000 + interrupts_gdtr - interrupts_start"
        "ljmp $0x10, $(0x100000 + 1f - interrupts_start)"
        "1:"
        "mov $0x18, %eax"
        "mov %eax, %ds"
        "mov %eax, %es"
        "mov %eax, %ss"
        // Gates for vectors 0x40 (timer), 0x41 (UART) and 0xff (spurious) at 0x170000.
        "mov $(0x100000 + interrupts_timer - interrupts_start), %eax"
        "mov $0x170200, %edi"
        "call 5f"
        "mov $(0x100000 + interrupts_uart - interrupts_start), %eax"
        "mov $0x170208, %edi"
        "call 5f"
        "mov $(0x100000 + interrupts_spurious - interrupts_start), %eax"
        "mov $0x1707f8, %edi"
        "call 5f"
        "lidt 0x100000 + interrupts_idtr - interrupts_start"
        // Local APIC on, timer one-shot, divided by one.
        "movl $0x1ff, 0xfee000f0"
        "movl $0x40, 0xfee00320"
        "movl $0xb, 0xfee003e0"
        // Pin 4: level-triggered, to the first vCPU.
        "movl $0x19, 0xfec00000"
        "movl $0, 0xfec00010"
        "movl $0x18, 0xfec00000"
        "movl $0x8041, 0xfec00010"
        "mov $0x3f9, %dx"
        "mov $1, %al"
        "out %al, %dx"
        "xor %ebx, %ebx"
        "movl $1000000, 0xfee00380"
        "interrupts_sleep:"
        "sti"
        "hlt"
        "jmp interrupts_sleep"
        // A gate at %edi for the handler at %eax.
        "5:"
        "mov %ax, (%edi)"
        "movw $0x10, 2(%edi)"
        "movw $0x8e00, 4(%edi)"
        "shr $16, %eax"
        "mov %ax, 6(%edi)"
        "ret"
        "interrupts_timer:"
        "mov $0x3f8, %dx"
        "mov $84, %al"
        "out %al, %dx"
        "mov %ebx, %esi"
        "mov $8, %ecx"
        "6:"
        "rol $4, %esi"
        "mov %esi, %eax"
        "and $0xf, %al"
        "add $97, %al"
        "out %al, %dx"
        "dec %ecx"
        "jnz 6b"
        "mov $10, %al"
        "out %al, %dx"
        "inc %ebx"
        "movl $1000000, 0xfee00380"
        "jmp interrupts_done"
        "interrupts_uart:"
        "mov $0x3fd, %dx"
        "in %dx, %al"
        "test $1, %al"
        "jz 7f"
        "mov $0x3f8, %dx"
        "mov $69, %al"
        "out %al, %dx"
        "in %dx, %al"
        "out %al, %dx"
        "mov $10, %al"
        "out %al, %dx"
        "jmp interrupts_uart"
        "7:"
        "interrupts_done:"
        "movl $0, 0xfee000b0"
        // Not every KVM can emulate IRET in protected mode; there is but one place to return to.
        "interrupts_spurious:"
        "add $12, %esp"
        "jmp interrupts_sleep"
        ".balign 8"
        "interrupts_gdt: .quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff"
        "interrupts_gdtr: .short 31"
        ".long 0x100000 + interrupts_gdt - interrupts_start"
        "interrupts_idtr: .short 0x7ff"
        ".long 0x170000"
}
