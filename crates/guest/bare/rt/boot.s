# From the PVH entry, or a start-up IPI, to ring 3.
#
# Ring 0 may be interpreted by the hypervisor at microseconds an instruction,
# so it does only what nothing else can do; the rest is done from ring 3, for
# which all of memory, all I/O ports and the services below are open.

.set CR4_BITS, 0x620            # PAE, OSFXSR, OSXMMEXCPT
.set CR4_OSXSAVE, 0x40000
.set CR0_BITS, 0x80000033       # PG, NE, ET, MP, PE
.set EFER_BITS, 0x101           # LME, SCE
.set SEL_CODE64, 0x08
.set SEL_DATA, 0x10
.set SEL_CODE32, 0x18
.set SEL_USER_DATA, 0x23
.set SEL_USER_CODE, 0x2b
.set SEL_TSS, 0x30
.set PERCPU_SHIFT, 15
.set MAX_CPUS, 64
.set KERNEL_STACK_TOP, 0x1000
.set USER_STACK_TOP, 0x8000
.set TSS_LIMIT, 0x267           # 0x68 bytes of TSS, a bitmap for ports 0 to 0xfff
.set LOCAL_APIC_ID, 0xfee00020

# The PVH entry point (XEN_ELFNOTE_PHYS32_ENTRY, Xen's public/elfnote.h). Eight
# bytes of value: some loaders read that much whatever the size field says.
.section .note.pvh, "a", @note
.balign 4
.long 4, 8, 18
.asciz "Xen"
.quad pvh_start

# ---- 16 bits: copied below 1 MiB, where the start-up IPI points ----
.section .rodata
.global trampoline_start, trampoline_end
.code16
trampoline_start:
    jmp 1f
.org trampoline_start + 4       # the GDT's limit and base
    .word gdt_end - gdt - 1
    .long gdt
1:  cli
    lgdt cs:[4]
    mov eax, 0x11               # PE, ET
    mov cr0, eax
    .byte 0x66, 0xea            # far jump with a 32-bit offset
    .long ap_start
    .word SEL_CODE32
trampoline_end:

# ---- 32 bits, no paging ----
.section .boot, "ax"
.code32
.global pvh_start
pvh_start:
    cli
    cld
    lgdt [gdt_pointer]
    mov ebp, ebx                # hvm_start_info; not zero marks the first processor
    jmp long_mode
ap_start:
    xor ebp, ebp
long_mode:
    mov eax, CR4_BITS
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, 0xc0000080         # EFER
    mov eax, EFER_BITS
    xor edx, edx
    wrmsr
    mov eax, CR0_BITS
    mov cr0, eax
    .byte 0xea                  # far jump
    .long ring0
    .word SEL_CODE64

# ---- 64 bits, ring 0 ----
.code64
ring0:
    mov ebx, LOCAL_APIC_ID
    mov ebx, [rbx]
    shr ebx, 24                 # local APIC id: the processor's slot
    cmp ebx, MAX_CPUS
    jb 3f
2:  hlt                         # no slot for this one
    jmp 2b
3:  mov esi, ebx
    shl esi, PERCPU_SHIFT
    add esi, offset percpu      # this slot's TSS is at its start
    lea eax, [rsi + KERNEL_STACK_TOP]
    mov esp, eax
    mov [rsi + 4], rax          # TSS: rsp0
    mov dword ptr [rsi + 0x64], 0x680000  # TSS: where the I/O bitmap starts

    mov edi, ebx                # this slot's TSS descriptor
    shl edi, 4
    lea ecx, [rdi + SEL_TSS]
    add edi, offset gdt + SEL_TSS
    mov edx, esi
    shl edx, 16
    or edx, TSS_LIMIT
    mov [rdi], edx              # base 15:0, limit
    mov edx, esi
    shr edx, 16
    mov eax, edx
    and edx, 0xff
    and eax, 0xff00
    shl eax, 16
    or eax, edx
    or eax, 0x8900              # present, available 64-bit TSS
    mov [rdi + 4], eax
    ltr cx
    lidt [idt_pointer]

    push SEL_USER_DATA
    lea eax, [rsi + USER_STACK_TOP]
    push rax
    push 2                      # interrupts stay off
    push SEL_USER_CODE
    push offset ring3
    mov ecx, SEL_USER_DATA
    mov ds, ecx
    mov es, ecx
    iretq

# ---- ring 3: rbp = hvm_start_info or 0, rsi = per-CPU area, rbx = slot ----
.section .text.boot, "ax"
ring3:
    test ebp, ebp
    jz 1f
    mov edi, offset bss_start   # a reset may have left RAM as it was
    mov ecx, offset bss_end
    sub ecx, edi
    xor eax, eax
    rep stosb
1:  lea edi, [rsi + 0x68]       # the I/O bitmap: every port is open
    mov ecx, TSS_LIMIT + 1 - 0x68
    xor eax, eax
    rep stosb
    mov edi, ebx
    mov esi, ebp
    xor ebp, ebp
    call enter
    ud2

# ---- exceptions and services ----
.section .boot, "ax"

# Exceptions end the guest with a report, made in ring 3. Those that a service
# raised (an MSR that does not exist) make the service fail instead.
.altmacro
.macro exception vector, has_error
exception_\vector:
  .if \has_error == 0
    push 0
  .endif
    push \vector
    jmp exception_common
.endm
.set v, 0
.rept 32
  .if (v == 8) || ((v >= 10) && (v <= 14)) || (v == 17) || (v == 21) || (v == 29) || (v == 30)
    exception %v, 1
  .else
    exception %v, 0
  .endif
  .set v, v + 1
.endr
.noaltmacro

exception_common:
    test byte ptr [rsp + 24], 3
    jz service_failed
    pop rdi                     # vector
    pop rsi                     # error code
    mov rdx, [rsp]              # instruction pointer
    mov rcx, cr2
    mov r8, [rsp + 24]          # stack pointer
    mov qword ptr [rsp], offset exception_ring3
    iretq

.section .text.boot, "ax"
exception_ring3:
    and rsp, -16
    call exception_report
    ud2

.section .boot, "ax"
# Asked for with UD1 from ring 3, because every hypervisor delivers a fault, and
# whole: what says of a software interrupt that it is on its way is not part of
# what KVM saves (KVM_GET_VCPU_EVENTS), so that one would be lost where the guest
# is stopped just then. In: rax = service, rcx = MSR, leaf or index, rdx = value.
# Out: rax = value, rdx = 0, or 1 if the processor refused. r8 and r9 are lost.
.global service
service:
    test byte ptr [rsp + 8], 3
    jz exception_6
    mov r8, [rsp]
    cmp word ptr [r8], 0xb90f   # any other invalid opcode is what it seems
    jne exception_6
    add qword ptr [rsp], 3      # go on behind it, however the service ends
    cmp eax, 1
    jb service_rdmsr
    je service_wrmsr
    cmp eax, 3
    jb service_get_debug
    je service_set_debug
    cmp eax, 5
    jb service_cpuid
    je service_halt
    cmp eax, 7
    je service_enable_vectors
    lidt [no_idt]               # 6: no handler for the next exception, nor for the
    ud2                         # double fault: the processor shuts down

service_failed:
    or rsp, 0xfff               # back to what the fault pushed: five words below the top
    sub rsp, 39
    mov edx, 1
    iretq
service_rdmsr:
    rdmsr
    shl rdx, 32
    or rax, rdx
    xor edx, edx
    iretq
service_wrmsr:
    mov eax, edx
    shr rdx, 32
    wrmsr
    xor edx, edx
    iretq
service_get_debug:
    lea eax, [rcx * 8 + get_debug]
    jmp rax
service_set_debug:
    lea eax, [rcx * 8 + set_debug]
    jmp rax
.balign 8
get_debug:
    mov rax, dr0
    jmp service_done
    .balign 8
    mov rax, dr1
    jmp service_done
    .balign 8
    mov rax, dr2
    jmp service_done
    .balign 8
    mov rax, dr3
    jmp service_done
    .balign 8
set_debug:
    mov dr0, rdx
    jmp service_done
    .balign 8
    mov dr1, rdx
    jmp service_done
    .balign 8
    mov dr2, rdx
    jmp service_done
    .balign 8
    mov dr3, rdx
    jmp service_done
service_done:
    xor edx, edx
    iretq
service_cpuid:                  # rcx = leaf and, above it, subleaf; rdx = address of four words
    mov r8, rdx
    mov r9, rbx
    mov eax, ecx
    shr rcx, 32
    cpuid
    mov [r8], eax
    mov [r8 + 4], ebx
    mov [r8 + 8], ecx
    mov [r8 + 12], edx
    mov rbx, r9
    jmp service_done
service_enable_vectors:         # rdx = XCR0
    mov rax, cr4
    or eax, CR4_OSXSAVE
    mov cr4, rax
    mov eax, edx
    shr rdx, 32
    xor ecx, ecx
    xsetbv
    jmp service_done
service_halt:                   # interrupts are off: for good
    hlt
    jmp service_halt

# ---- tables ----
.section .rodata
.balign 8
.global exception_table
exception_table:
.altmacro
.macro exception_address vector
    .quad exception_\vector
.endm
.set v, 0
.rept 32
    exception_address %v
    .set v, v + 1
.endr
.noaltmacro
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 32 * 16 - 1
    .quad idt
no_idt:
    .word 0
    .quad 0

.section .tables, "aw"
.balign 4096
# The first 4 GiB as they are, in 2 MiB pages that ring 3 may use; accessed and
# dirty bits set in advance, so that the processor never changes the tables.
.global pml4, pdpt
pml4:
    .quad pdpt + 0x27
    .fill 511, 8, 0
pdpt:
    .quad pd + 0x27, pd + 0x1027, pd + 0x2027, pd + 0x3027
    .fill 508, 8, 0
pd:
    .set i, 0
    .rept 2048
    .quad i * 0x200000 + 0xe7
    .set i, i + 1
    .endr
.balign 16
.global idt
idt:
    .fill 32 * 2, 8, 0        # filled from ring 3

# Not among the tables that never change: each processor adds its own TSS.
.section .data.gdt, "aw"
.balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # ring 0 code, 64 bits
    .quad 0x00cf93000000ffff    # ring 0 data
    .quad 0x00cf9b000000ffff    # ring 0 code, 32 bits
    .quad 0x00cff3000000ffff    # ring 3 data
    .quad 0x00affb000000ffff    # ring 3 code, 64 bits
    .fill 2 * MAX_CPUS, 8, 0    # a TSS each
gdt_end:

# A slot per processor: TSS and ring 0 stack; pages used by `percpu.rs`; ring 3 stack.
.section .percpu, "aw", @nobits
.balign 4096
.global percpu
percpu:
    .fill MAX_CPUS << PERCPU_SHIFT, 1, 0
