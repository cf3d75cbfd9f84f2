//! Encodings, read back by iced-x86.

use super::*;
use crate::regs::*;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

fn text(emit: impl FnOnce(&mut Asm)) -> String {
    let mut asm = Asm::in_buffer(Vec::new(), 0);
    emit(&mut asm);
    let code = asm.code().to_vec();
    let mut decoder = Decoder::with_ip(64, &code, 0, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    let mut out = String::new();
    let mut texts = Vec::new();
    while decoder.can_decode() {
        let insn = decoder.decode();
        out.clear();
        formatter.format(&insn, &mut out);
        texts.push(out.clone());
    }
    texts.join("; ")
}

const ALL: [X; 16] = [
    RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15,
];
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const NAMES8: [&str; 16] = [
    "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b", "r12b",
    "r13b", "r14b", "r15b",
];

#[test]
fn every_register_as_base_and_operand_with_every_displacement_form() {
    for base in ALL {
        for reg in ALL {
            for (disp, shown) in [(0, String::new()), (8, "+8".into()), (-300, "-12Ch".into())] {
                let mem = Mem::at(base, disp);
                let place = format!("[{}{shown}]", NAMES[base.0 as usize]);
                let load = text(|asm| asm.load(MemSize::Dw, reg, mem));
                assert_eq!(load, format!("mov {},{place}", NAMES[reg.0 as usize]));
                let store = text(|asm| asm.store(MemSize::B, mem, reg));
                assert_eq!(store, format!("mov {place},{}", NAMES8[reg.0 as usize]));
            }
        }
    }
}

#[test]
fn byte_registers_get_their_prefix() {
    for reg in ALL {
        let movzx = text(|asm| asm.movzx_rr(MemSize::B, RAX, reg));
        assert_eq!(movzx, format!("movzx eax,{}", NAMES8[reg.0 as usize]));
        let test = text(|asm| asm.test_ri(Width::W64, reg, 0x40));
        assert_eq!(test, format!("test {},40h", NAMES8[reg.0 as usize]));
    }
}

#[test]
fn instructions_of_each_pattern_read_back() {
    let w = Width::W64;
    let cases: Vec<(String, &str)> = vec![
        (
            text(|a| a.arith_ri(Arith::Add, w, R13, 1000)),
            "add r13,3E8h",
        ),
        (
            text(|a| a.arith_ri(Arith::Cmp, w, RAX, 1000)),
            "cmp rax,3E8h",
        ),
        (
            text(|a| a.arith_ri(Arith::Sub, Width::W32, RDI, -1)),
            "sub edi,0FFFFFFFFh",
        ),
        (
            text(|a| a.arith_mi(Arith::Sub, w, Mem::at(R12, 24), 1000)),
            "sub qword ptr [r12+18h],3E8h",
        ),
        (
            text(|a| a.arith_rm(Arith::Cmp, w, R9, Mem::at(R12, 8))),
            "cmp r9,[r12+8]",
        ),
        (
            text(|a| a.mov_imm(R15, u64::MAX)),
            "mov r15,0FFFFFFFFFFFFFFFFh",
        ),
        (text(|a| a.mov_imm(RBX, 0x8000_0000)), "mov ebx,80000000h"),
        (text(|a| a.mov_imm(RBX, 1 << 40)), "mov rbx,10000000000h"),
        (
            text(|a| a.imul_rri(w, RDX, R8, 77777)),
            "imul rdx,r8,12FD1h",
        ),
        (text(|a| a.shift_ri(Shift::Sar, w, R14, 63)), "sar r14,3Fh"),
        (
            text(|a| a.shiftx(Shift::Shl, w, RDI, RSI, R15)),
            "shlx rdi,rsi,r15",
        ),
        (
            text(|a| a.shiftx(Shift::Sar, Width::W32, R8, R9, RCX)),
            "sarx r8d,r9d,ecx",
        ),
        (text(|a| a.rorx(Width::W32, R8, RDI, 7)), "rorx r8d,edi,7"),
        (text(|a| a.mulx(w, RAX, R9, R11)), "mulx rax,r9,r11"),
        (
            text(|a| a.load_swapped(Width::W32, R9, Mem::at(R13, 0))),
            "movbe r9d,[r13]",
        ),
        (
            text(|a| a.lock_xadd(w, Mem::at(RDI, 4), R9)),
            "lock xadd [rdi+4],r9",
        ),
        (
            text(|a| a.lock_cmpxchg(Width::W32, Mem::at(R12, 4), RBX)),
            "lock cmpxchg [r12+4],ebx",
        ),
        (
            text(|a| a.lock_arith(Arith::Or, w, Mem::at(RSP, 4), RBX)),
            "lock or [rsp+4],rbx",
        ),
        (
            text(|a| a.store_imm(MemSize::H, Mem::at(RBP, -2), 0x1234)),
            "mov word ptr [rbp-2],1234h",
        ),
        (
            text(|a| a.lea(w, RAX, Mem::indexed(R11, R13, 3, 16))),
            "lea rax,[r11+r13*8+10h]",
        ),
        (text(|a| a.bswap(w, R13)), "bswap r13"),
        (text(|a| a.swap16(RSI)), "rol si,8"),
        (text(|a| a.nop5()), "nop [rax+rax]"),
        (
            text(|a| a.load_thread(Width::W64, R11, -8)),
            "mov r11,fs:[0FFFFFFFFFFFFFFF8h]",
        ),
        (text(|a| a.unary(Unary::Idiv, w, R11)), "idiv r11"),
        (text(|a| a.jmp_reg(R11)), "jmp r11"),
    ];
    for (ours, expected) in cases {
        assert_eq!(ours, expected);
    }
}
