//! The programs of the packet oracle: one per helper, its arguments taken from the case.

use super::{CB, Kind, Random, Subject};

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R6: u8 = 6;
const R7: u8 = 7;
const R8: u8 = 8;
const R9: u8 = 9;
const R10: u8 = 10;

/// Instructions under construction.
#[derive(Default)]
struct Asm(Vec<u8>);

impl Asm {
    fn raw(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) -> &mut Asm {
        self.0.extend([code, src << 4 | dst]);
        self.0.extend(off.to_le_bytes());
        self.0.extend(imm.to_le_bytes());
        self
    }

    fn mov(&mut self, dst: u8, src: u8) -> &mut Asm {
        self.raw(0xbf, dst, src, 0, 0)
    }

    fn imm(&mut self, dst: u8, imm: i32) -> &mut Asm {
        self.raw(0xb7, dst, 0, 0, imm)
    }

    fn add(&mut self, dst: u8, imm: i32) -> &mut Asm {
        self.raw(0x07, dst, 0, 0, imm)
    }

    fn load32(&mut self, dst: u8, src: u8, off: i16) -> &mut Asm {
        self.raw(0x61, dst, src, off, 0)
    }

    fn store32(&mut self, dst: u8, off: i16, src: u8) -> &mut Asm {
        self.raw(0x63, dst, src, off, 0)
    }

    fn store64(&mut self, dst: u8, off: i16, src: u8) -> &mut Asm {
        self.raw(0x7b, dst, src, off, 0)
    }

    fn call(&mut self, helper: i32) -> &mut Asm {
        self.raw(0x85, 0, 0, 0, helper)
    }

    fn exit(&mut self) -> &mut Asm {
        self.raw(0x95, 0, 0, 0, 0)
    }

    /// Shows what a tc program in r6 sees after its call, whose result is in r7, and returns that.
    fn fold_and_show(&mut self) {
        // What memory arguments hold now, folded: m = m * 31 + word.
        self.imm(R8, 0);
        for word in 0..16 {
            self.load32(R9, R10, MEMORY + word * 4)
                .raw(0x27, R8, 0, 0, 31)
                .raw(0x0f, R8, R9, 0, 0);
        }
        // skb_load_bytes_relative(skb, 0, fp - 72, 4, BPF_HDR_START_NET)
        self.imm(R1, 0)
            .store64(R10, -72, R1)
            .mov(R1, R6)
            .imm(R2, 0)
            .mov(3, R10)
            .add(3, -72)
            .imm(4, 4)
            .imm(5, 1)
            .call(68);
        self.load32(R1, R10, -72).store32(R6, 8, R1);
        self.store32(R6, CB, R8);
        self.load32(R1, R6, 0).store32(R6, CB + 4, R1);
        // protocol | vlan_proto << 16
        self.load32(R1, R6, 16)
            .load32(R2, R6, 28)
            .raw(0x67, R2, 0, 0, 16)
            .raw(0x4f, R1, R2, 0, 0)
            .store32(R6, CB + 8, R1);
        // vlan_tci | vlan_present << 16 | pkt_type << 24
        self.load32(R1, R6, 24)
            .load32(R2, R6, 20)
            .raw(0x67, R2, 0, 0, 16)
            .raw(0x4f, R1, R2, 0, 0)
            .load32(R2, R6, 4)
            .raw(0x67, R2, 0, 0, 24)
            .raw(0x4f, R1, R2, 0, 0)
            .store32(R6, CB + 12, R1);
        self.mov(R0, R7).exit();
    }
}

/// 64 bytes of the stack that memory arguments point to.
const MEMORY: i16 = -64;

/// What a helper's argument is.
#[derive(Clone, Copy)]
enum Arg {
    /// The next word of the case.
    Word,
    /// This number.
    Const(i32),
    /// A pointer to memory filled with a pattern.
    Memory,
    /// The context; only first.
    Ctx,
}

fn fill_memory(asm: &mut Asm) {
    // Bytes 1, 2, 3, ... so that copies show.
    for word in 0..8u64 {
        let pattern = u64::from_le_bytes(std::array::from_fn(|i| (word * 8 + i as u64 + 1) as u8));
        asm.0.extend([0x18, R1, 0, 0]);
        asm.0.extend((pattern as u32).to_le_bytes());
        asm.0.extend([0; 4]);
        asm.0.extend(((pattern >> 32) as u32).to_le_bytes());
        asm.store64(R10, MEMORY + word as i16 * 8, R1);
    }
}

fn set_args(asm: &mut Asm, args: &[Arg], words: impl Fn(&mut Asm, u8, i16)) {
    let mut next = 0;
    for (reg, arg) in (R1..).zip(args) {
        match arg {
            Arg::Ctx => {
                asm.mov(reg, R6);
            }
            Arg::Word => {
                words(asm, reg, next * 4);
                next += 1;
            }
            Arg::Const(imm) => {
                asm.imm(reg, *imm);
            }
            Arg::Memory => {
                asm.mov(reg, R10).add(reg, i32::from(MEMORY));
            }
        }
    }
}

/// A helper call that comes before the one in question.
type Before = &'static [(i32, &'static [Arg])];

fn tc(before: Before, helper: i32, args: &[Arg]) -> Vec<u8> {
    let mut asm = Asm::default();
    asm.mov(R6, R1);
    fill_memory(&mut asm);
    let from_cb = |asm: &mut Asm, reg: u8, at: i16| {
        asm.load32(reg, R6, CB + at);
    };
    for (helper, args) in before {
        set_args(&mut asm, args, from_cb);
        asm.call(*helper);
    }
    set_args(&mut asm, args, from_cb);
    asm.call(helper).mov(R7, R0);
    asm.fold_and_show();
    asm.0
}

fn xdp(before: Before, helper: i32, args: &[Arg]) -> Vec<u8> {
    let mut asm = Asm::default();
    asm.mov(R6, R1);
    fill_memory(&mut asm);
    // The words are the packet's first sixteen bytes; shorter packets run nothing.
    asm.load32(R8, R6, 0).load32(R9, R6, 4);
    asm.mov(R1, R8).add(R1, 16);
    asm.raw(0xbd, R1, R9, 2, 0).imm(R0, 99).exit();
    for word in 0..4 {
        asm.load32(R1, R8, word * 4)
            .store64(R10, -104 + word * 8, R1);
    }
    let from_stack = |asm: &mut Asm, reg: u8, at: i16| {
        asm.raw(0x79, reg, R10, -104 + at * 2, 0);
    };
    for (helper, args) in before {
        set_args(&mut asm, args, from_stack);
        asm.call(*helper);
    }
    set_args(&mut asm, args, from_stack);
    asm.call(helper).mov(R7, R0);
    // The result, and memory folded into it.
    for word in 0..16 {
        asm.load32(R9, R10, MEMORY + word * 4)
            .raw(0x27, R7, 0, 0, 31)
            .raw(0x0f, R7, R9, 0, 0);
    }
    asm.mov(R0, R7).exit();
    asm.0
}

const VLAN_PUSH: (i32, &[Arg]) = (18, &[Arg::Ctx, Arg::Const(0x81), Arg::Const(0x5fe)]);
const VLAN_POP: (i32, &[Arg]) = (19, &[Arg::Ctx]);
const SET_KEY: (i32, &[Arg]) = (21, &[Arg::Ctx, Arg::Memory, Arg::Const(22), Arg::Const(0)]);
const ENCAP: (i32, &[Arg]) = (
    50,
    &[Arg::Ctx, Arg::Const(20), Arg::Const(1), Arg::Const(2)],
);

/// Every helper of the oracle.
pub fn subjects() -> Vec<Subject> {
    use Arg::{Const, Ctx, Memory, Word};
    let tc =
        |name, before: Before, helper, args: &[Arg], words: fn(&mut Random) -> [u32; 4]| Subject {
            name,
            kind: Kind::Tc,
            insns: tc(before, helper, args),
            args: words,
        };
    let xdp =
        |name, before: Before, helper, args: &[Arg], words: fn(&mut Random) -> [u32; 4]| Subject {
            name,
            kind: Kind::Xdp,
            insns: xdp(before, helper, args),
            args: words,
        };
    let frags = |name, helper, args: &[Arg], words: fn(&mut Random) -> [u32; 4]| Subject {
        kind: Kind::XdpFrags,
        ..xdp(name, &[], helper, args, words)
    };
    let none: fn(&mut Random) -> [u32; 4] = |_| [0; 4];
    let offsets: fn(&mut Random) -> [u32; 4] = |r| [r.offset(), r.next_u32(), r.next_u32(), 0];
    let vlan: fn(&mut Random) -> [u32; 4] = |r| {
        let proto = r.pick(&[0x0081, 0xa888, 0x0081, 0x0008, 0]);
        let tci = r.pick(&[0, 5, 0x1234, 0xffff, 0x1_0007]);
        [proto, tci, 0, 0]
    };
    let room: fn(&mut Random) -> [u32; 4] = |r| {
        let diff = match r.below(8) {
            0 => r.pick(&[
                0,
                0xfff,
                0x1000,
                -0xfff_i32 as u32,
                -0x1000_i32 as u32,
                1 << 31,
            ]),
            1..=4 => r.below(64),
            _ => (r.below(80) as i32).wrapping_neg() as u32,
        };
        let flags = match r.below(4) {
            0 => 0,
            1 => r.below(1 << 9),
            _ => r.pick(&[
                1,
                2,
                4,
                2 | 8,
                2 | 16,
                4 | 16,
                32,
                64 | 2,
                128,
                256,
                128 | 256,
                1 << 9,
            ]),
        };
        [diff, r.pick(&[0, 1, 1, 0, 2]), flags, 0]
    };
    let key: fn(&mut Random) -> [u32; 4] =
        |r| [r.pick(&[0, 0, 1, 2, 4, 8, 16, 3, 32, 1 << 31]), 0, 0, 0];
    vec![
        tc("skb_vlan_push", &[], 18, &[Ctx, Word, Word], vlan),
        tc(
            "skb_vlan_push_twice",
            &[VLAN_PUSH],
            18,
            &[Ctx, Word, Word],
            vlan,
        ),
        tc("skb_vlan_pop", &[], 19, &[Ctx], none),
        tc(
            "skb_vlan_pop_pushed",
            &[VLAN_PUSH, VLAN_PUSH],
            19,
            &[Ctx],
            none,
        ),
        tc("skb_vlan_pop_twice", &[VLAN_POP], 19, &[Ctx], none),
        tc("skb_change_proto", &[], 31, &[Ctx, Word, Word], |r| {
            [
                r.pick(&[0x0008, 0xdd86, 0x0081]),
                u32::from(r.below(8) == 0),
                0,
                0,
            ]
        }),
        tc("skb_change_type", &[], 32, &[Ctx, Word], |r| {
            [r.below(6), 0, 0, 0]
        }),
        tc("skb_adjust_room", &[], 50, &[Ctx, Word, Word, Word], room),
        tc(
            "skb_adjust_room_vlan",
            &[VLAN_PUSH, VLAN_PUSH],
            50,
            &[Ctx, Word, Word, Word],
            room,
        ),
        tc(
            "skb_adjust_room_encap",
            &[ENCAP],
            50,
            &[Ctx, Word, Word, Word],
            room,
        ),
        tc("skb_ecn_set_ce", &[], 97, &[Ctx], none),
        tc("skb_set_tstamp", &[], 192, &[Ctx, Word, Word], |r| {
            [r.below(3), r.below(4), 0, 0]
        }),
        tc("csum_level", &[], 135, &[Ctx, Word], |r| {
            [r.below(5), 0, 0, 0]
        }),
        tc(
            "csum_level_known",
            &[(135, &[Ctx, Const(1)]), (135, &[Ctx, Const(1)])],
            135,
            &[Ctx, Word],
            |r| [r.below(5), 0, 0, 0],
        ),
        tc("csum_update", &[], 40, &[Ctx, Word], offsets),
        tc(
            "skb_set_tunnel_key",
            &[],
            21,
            &[Ctx, Memory, Const(22), Word],
            key,
        ),
        tc(
            "skb_set_tunnel_key_full",
            &[],
            21,
            &[Ctx, Memory, Const(44), Word],
            key,
        ),
        tc(
            "skb_get_tunnel_key",
            &[SET_KEY],
            20,
            &[Ctx, Memory, Const(44), Word],
            key,
        ),
        tc(
            "skb_get_tunnel_key_unset",
            &[],
            20,
            &[Ctx, Memory, Const(28), Word],
            key,
        ),
        tc(
            "skb_set_tunnel_opt",
            &[SET_KEY],
            30,
            &[Ctx, Memory, Const(12)],
            none,
        ),
        tc(
            "skb_get_tunnel_opt",
            &[SET_KEY],
            29,
            &[Ctx, Memory, Const(12)],
            none,
        ),
        tc(
            "skb_load_bytes",
            &[],
            26,
            &[Ctx, Word, Memory, Const(17)],
            offsets,
        ),
        tc(
            "skb_load_bytes_relative",
            &[],
            68,
            &[Ctx, Word, Memory, Const(9), Word],
            |r| [r.offset(), r.below(3), 0, 0],
        ),
        tc(
            "skb_store_bytes",
            &[],
            9,
            &[Ctx, Word, Memory, Const(13), Word],
            |r| [r.offset(), r.below(4), 0, 0],
        ),
        tc(
            "l3_csum_replace",
            &[],
            10,
            &[Ctx, Word, Word, Word, Word],
            |r| {
                [
                    r.offset() & !u32::from(r.below(4) != 0),
                    r.next_u32(),
                    r.next_u32(),
                    r.pick(&[2, 4, 2, 4, 0, 3, 16]),
                ]
            },
        ),
        tc(
            "l4_csum_replace",
            &[],
            11,
            &[Ctx, Word, Word, Word, Word],
            |r| {
                let flags = r.pick(&[0, 2, 4]) | r.pick(&[0, 16, 32, 48, 64, 96, 128, 256]);
                [
                    r.offset() & !u32::from(r.below(4) != 0),
                    r.next_u32() >> (r.below(2) * 16),
                    r.next_u32() >> (r.below(2) * 16),
                    flags,
                ]
            },
        ),
        tc(
            "l4_csum_replace_diff",
            &[],
            11,
            &[Ctx, Word, Const(0), Word, Word],
            |r| [r.below(100) & !1, r.next_u32(), r.pick(&[0, 16, 32, 96]), 0],
        ),
        tc(
            "csum_diff",
            &[],
            28,
            &[Memory, Const(16), Memory, Const(32), Word],
            offsets,
        ),
        tc("skb_pull_data", &[], 39, &[Ctx, Word], offsets),
        tc("skb_change_tail", &[], 38, &[Ctx, Word, Word], |r| {
            [r.below(400), u32::from(r.below(8) == 0), 0, 0]
        }),
        tc("skb_change_head", &[], 43, &[Ctx, Word, Word], |r| {
            [r.below(300), u32::from(r.below(8) == 0), 0, 0]
        }),
        tc("set_hash_invalid", &[], 41, &[Ctx], none),
        tc("set_hash", &[], 48, &[Ctx, Word], offsets),
        tc(
            "get_hash_recalc_set",
            &[(48, &[Ctx, Word])],
            34,
            &[Ctx],
            |r| [r.next_u32(), 0, 0, 0],
        ),
        tc("redirect", &[], 23, &[Word, Word], |r| {
            [r.below(4), r.pick(&[0, 1, 0, 1, 2, 4]), 0, 0]
        }),
        tc("redirect_peer", &[], 155, &[Word, Word], |r| {
            [r.below(4), r.below(3), 0, 0]
        }),
        tc(
            "redirect_neigh",
            &[],
            152,
            &[Word, Const(0), Const(0), Word],
            |r| [r.below(4), r.below(3), 0, 0],
        ),
        tc(
            "check_mtu",
            &[],
            163,
            &[Ctx, Word, Memory, Word, Word],
            |r| {
                [
                    r.pick(&[0, 1, 7777]),
                    r.offset(),
                    r.pick(&[0, 0, 0, 1, 2]),
                    0,
                ]
            },
        ),
        tc("get_route_realm", &[], 24, &[Ctx], none),
        tc("get_cgroup_classid", &[], 17, &[Ctx], none),
        xdp("xdp_adjust_head", &[], 44, &[Ctx, Word], |r| {
            [head_delta(r), 0, 0, 0]
        }),
        xdp("xdp_adjust_meta", &[], 54, &[Ctx, Word], |r| {
            [head_delta(r), 0, 0, 0]
        }),
        xdp("xdp_adjust_tail", &[], 65, &[Ctx, Word], |r| {
            [(r.below(4200) as i32 - 300) as u32, 0, 0, 0]
        }),
        xdp(
            "xdp_adjust_head_meta",
            &[(54, &[Ctx, Const(-16)])],
            44,
            &[Ctx, Word],
            |r| [head_delta(r), 0, 0, 0],
        ),
        xdp("xdp_get_buff_len", &[], 188, &[Ctx], none),
        xdp(
            "xdp_load_bytes",
            &[],
            189,
            &[Ctx, Word, Memory, Const(17)],
            offsets,
        ),
        xdp(
            "xdp_store_bytes",
            &[],
            190,
            &[Ctx, Word, Memory, Const(13)],
            offsets,
        ),
        xdp("xdp_redirect", &[], 23, &[Word, Word], |r| {
            [r.below(4), r.below(3), 0, 0]
        }),
        xdp(
            "xdp_check_mtu",
            &[],
            163,
            &[Ctx, Word, Memory, Word, Word],
            |r| [r.pick(&[0, 1, 7777]), r.offset(), r.pick(&[0, 0, 0, 1]), 0],
        ),
        frags("xdp_frags_get_buff_len", 188, &[Ctx], none),
        frags(
            "xdp_frags_load_bytes",
            189,
            &[Ctx, Word, Memory, Const(17)],
            deep_offsets,
        ),
        frags(
            "xdp_frags_store_bytes",
            190,
            &[Ctx, Word, Memory, Const(13)],
            deep_offsets,
        ),
        frags("xdp_frags_adjust_tail", 65, &[Ctx, Word], |r| {
            let delta = match r.below(4) {
                0 => r.below(4200) as i32,
                1 => -(r.below(80_000) as i32),
                _ => -(r.below(9_000) as i32),
            };
            [delta as u32, 0, 0, 0]
        }),
        frags("xdp_frags_adjust_head", 44, &[Ctx, Word], |r| {
            let delta = match r.below(2) {
                0 => head_delta(r),
                _ => r.below(3_600),
            };
            [delta, 0, 0, 0]
        }),
        frags(
            "xdp_frags_check_mtu",
            163,
            &[Ctx, Word, Memory, Word, Word],
            |r| [r.pick(&[0, 1, 10]), r.offset(), r.pick(&[0, 0, 0, 1]), 0],
        ),
        tc(
            "check_mtu_veth",
            &[],
            163,
            &[Ctx, Word, Memory, Word, Word],
            |r| [r.pick(&[10, 11, 12]), r.below(40), r.pick(&[0, 0, 1]), 0],
        ),
        tc("clone_redirect", &[], 13, &[Ctx, Word, Word], |r| {
            [r.pick(&[0, 5, 10, 99]), r.pick(&[0, 0, 1, 2]), 0, 0]
        }),
        tc(
            "redirect_neigh_next_hop",
            &[],
            152,
            &[Word, Memory, Const(20), Word],
            |r| [r.below(12), r.below(3), 0, 0],
        ),
        tc("skb_cgroup_classid", &[], 151, &[Ctx], none),
        Subject {
            name: "fib_lookup",
            kind: Kind::Tc,
            insns: fib_lookup(2),
            args: |r| {
                let destination = [
                    10,
                    r.pick(&[9, 20, 20, 21, 22, 23, 24]) as u8,
                    r.pick(&[0, 7]) as u8,
                    r.pick(&[1, 2, 3]) as u8,
                ];
                fib_args(r, u32::from_le_bytes(destination))
            },
        },
        Subject {
            name: "fib_lookup_ipv6",
            kind: Kind::Tc,
            insns: fib_lookup(10),
            args: |r| {
                let prefix = r.pick(&[0x09fd, 0x20fd, 0x21fd]);
                fib_args(r, prefix)
            },
        },
    ]
}

fn deep_offsets(random: &mut Random) -> [u32; 4] {
    let offset = match random.below(4) {
        0 => random.offset(),
        1 => 3_500 + random.below(40),
        _ => random.below(20_000),
    };
    [offset, random.next_u32(), random.next_u32(), 0]
}

/// Device, destination, flags and length of a route lookup.
fn fib_args(random: &mut Random, destination: u32) -> [u32; 4] {
    let ifindex = random.pick(&[10, 10, 11, 1, 99]);
    let flags = random.pick(&[0, 1, 2, 4, 6, 3, 128, 5]);
    [
        ifindex,
        destination,
        flags,
        random.pick(&[0, 100, 1500, 1501]),
    ]
}

/// `bpf_fib_lookup` with `struct bpf_fib_lookup` in the memory that the answer folds: family, `tot_len`, `ifindex` and the first word of the destination
/// given, an IPv6 destination ending in 2.
fn fib_lookup(family: i32) -> Vec<u8> {
    const TOT_LEN: i16 = 6;
    const IFINDEX: i16 = 8;
    const DST: i16 = 32;
    let mut asm = Asm::default();
    asm.mov(R6, R1).imm(R1, 0);
    for word in 0..8 {
        asm.store64(R10, MEMORY + word * 8, R1);
    }
    asm.imm(R1, family).raw(0x73, R10, R1, MEMORY, 0);
    asm.load32(R1, R6, CB).store32(R10, MEMORY + IFINDEX, R1);
    asm.load32(R1, R6, CB + 4).store32(R10, MEMORY + DST, R1);
    asm.load32(R1, R6, CB + 12)
        .raw(0x6b, R10, R1, MEMORY + TOT_LEN, 0);
    if family == 10 {
        asm.imm(R1, 2).raw(0x73, R10, R1, MEMORY + DST + 15, 0);
    }
    asm.mov(R1, R6).mov(R2, R10).add(R2, i32::from(MEMORY));
    asm.imm(3, 64).load32(4, R6, CB + 8).call(69).mov(R7, R0);
    asm.fold_and_show();
    asm.0
}

fn head_delta(random: &mut Random) -> u32 {
    match random.below(4) {
        0 => (random.below(300) as i32) as u32,
        1 => random.pick(&[
            0,
            4,
            -4_i32 as u32,
            -252_i32 as u32,
            -256_i32 as u32,
            -8_i32 as u32,
        ]),
        _ => (random.below(280) as i32).wrapping_neg() as u32,
    }
}
