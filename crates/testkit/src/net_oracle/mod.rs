//! The packet oracle: one small program per helper, random packets and arguments, and what a test run gives.
//!
//! A tc program takes its helper's arguments from `cb`, an XDP program from the packet's first bytes, so one program serves every case. After
//! the call it shows what it sees: result, length, protocol, VLAN tag and packet type in `cb`, the first bytes at the network header in
//! `mark`. A case is a line of `fixtures/oracle/net/HELPER.txt`:
//!
//! ```text
//! FRAME ARG,ARG,ARG,ARG -> RETVAL LENGTH HASH CB... MARK
//! ```
//!
//! FRAME is the number that [`frame`] makes the packet from; LENGTH and HASH are the packet's afterwards (FNV-1a); numbers are hexadecimal. Programs of
//! XDP fragments get up to 80,000 bytes and a linear part of any length; their answers have `data_end` at the end.
//! The kernel answers in `net_kernel`, in a network namespace with the devices and routes of [`WORLD`]; ring3 in the tests of `net`, which include
//! this file.

use std::fmt::Write;

mod programs;

pub use programs::subjects;

/// A helper with the program around it.
pub struct Subject {
    /// Name, of the fixture too.
    pub name: &'static str,
    /// What runs it, over what.
    pub kind: Kind,
    /// Instructions, 8 bytes each.
    pub insns: Vec<u8>,
    /// Makes arguments.
    pub args: fn(&mut Random) -> [u32; 4],
}

/// What a program is and what it runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A classifier.
    Tc,
    /// XDP, over a frame in one page.
    Xdp,
    /// XDP with fragments.
    XdpFrags,
}

/// The network around the test runs, as `ip -batch` reads it. Devices have fixed numbers; what is not here does not exist.
pub const WORLD: &str = "\
link set lo up
link add va index 10 address 02:00:00:00:00:0a type veth peer name vb index 11 address 02:00:00:00:00:0b
link set va up
link set vb up
addr add 10.9.0.1/24 dev va
addr add fd09::1/64 dev va nodad
route add 10.20.0.0/16 via 10.9.0.2 dev va
route add 10.20.7.0/24 via 10.9.0.3 dev va metric 7
route add blackhole 10.21.0.0/16
route add unreachable 10.22.0.0/16
route add prohibit 10.23.0.0/16
route add fd20::/16 via fd09::2 dev va
neigh add 10.9.0.2 lladdr 02:00:00:00:00:99 dev va nud permanent
neigh add fd09::2 lladdr 02:00:00:00:00:99 dev va nud permanent
";

/// Index of `va`, the only device that forwards, and IPv4 only.
pub const VA: u32 = 10;

/// Where `cb` lies in `struct __sk_buff`.
const CB: i16 = 48;

/// xorshift64*
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next_u32(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u32) -> u32 {
        self.next_u32() % limit
    }

    pub(super) fn pick(&mut self, of: &[u32]) -> u32 {
        of[self.below(of.len() as u32) as usize]
    }

    /// Often small, sometimes at an edge, seldom anything.
    pub(super) fn offset(&mut self) -> u32 {
        match self.below(8) {
            0 => self.next_u32(),
            1 => self.pick(&[0, 0xffff, 0x10000, 0x7fff_ffff, 0x8000_0000, u32::MAX]),
            2..=4 => self.below(40),
            _ => self.below(300),
        }
    }
}

/// A frame: IPv4, IPv6, ARP, tagged once or twice, or anything, of 14 to 300 bytes.
pub fn frame(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed.wrapping_add(0x5eed));
    let mut bytes: Vec<u8> = (0..300).map(|_| random.next_u32() as u8).collect();
    let mut at = 12;
    for _ in 0..[0, 0, 0, 0, 1, 2][random.below(6) as usize] {
        let tag: [u8; 2] = if random.below(3) == 0 {
            [0x88, 0xa8]
        } else {
            [0x81, 0]
        };
        bytes[at..at + 2].copy_from_slice(&tag);
        at += 4;
    }
    let kind = random.below(8);
    let protocol = [6, 17, 1, 47][random.below(4) as usize];
    match kind {
        0..=3 => {
            bytes[at..at + 3].copy_from_slice(&[8, 0, 0x45]);
            bytes[at + 11] = protocol;
        }
        4..=5 => {
            bytes[at..at + 3].copy_from_slice(&[0x86, 0xdd, 0x60]);
            bytes[at + 8] = protocol;
        }
        6 => bytes[at..at + 2].copy_from_slice(&[8, 6]),
        _ => bytes[at] |= 0x10,
    }
    let shortest = if kind == 7 { at + 8 } else { at + 2 };
    let len = match random.below(8) {
        0 => shortest as u32 + random.below(12),
        1 => shortest as u32 + random.below(48),
        _ => 80 + random.below(220),
    };
    bytes.truncate(len as usize);
    bytes
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Number of the frame.
    pub frame: u64,
    /// Words for the program.
    pub args: [u32; 4],
}

impl Case {
    /// A random case of a subject.
    pub fn random(subject: &Subject, seed: u64) -> Case {
        let mut random = Random::new(seed);
        Case {
            frame: seed,
            args: (subject.args)(&mut random),
        }
    }

    /// The packet and the context of the test run.
    pub fn input(&self, subject: &Subject) -> (Vec<u8>, Vec<u8>) {
        let mut frame = frame(self.frame);
        let words: Vec<u8> = self
            .args
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        if subject.kind != Kind::Tc {
            let mut ctx = Vec::new();
            if subject.kind == Kind::XdpFrags {
                let mut random = Random::new(self.frame ^ 0xf4a6);
                let len = match random.below(8) {
                    0 => 14 + random.below(400),
                    1 => 73_140 + random.below(40),
                    2 => random.below(80_000),
                    _ => 3_400 + random.below(14_000),
                };
                frame = frame.iter().copied().cycle().take(len as usize).collect();
                let linear = match random.below(4) {
                    0 => len,
                    1 => 3_520,
                    _ => random.below(3_800),
                };
                ctx = vec![0; 24];
                ctx[4..8].copy_from_slice(&linear.to_le_bytes());
            }
            let known = frame.len().min(16);
            frame[..known].copy_from_slice(&words[..known]);
            return (frame, ctx);
        }
        let mut ctx = vec![0; 192];
        ctx[CB as usize..CB as usize + 16].copy_from_slice(&words);
        (frame, ctx)
    }

    /// A line's case and answer.
    pub fn parse(line: &str) -> Option<(Case, &str)> {
        let (case, answer) = line.split_once(" -> ")?;
        let (frame, args) = case.split_once(' ')?;
        let mut words = args.split(',').map(|word| u32::from_str_radix(word, 16));
        let mut next = || words.next()?.ok();
        let args = [next()?, next()?, next()?, next()?];
        let frame = u64::from_str_radix(frame, 16).ok()?;
        Some((Case { frame, args }, answer))
    }

    /// The line without its answer.
    pub fn text(&self) -> String {
        let [a, b, c, d] = self.args;
        format!("{:x} {a:x},{b:x},{c:x},{d:x}", self.frame)
    }
}

/// The answer of a test run: what came back, or the errno's name.
pub fn answer(retval: u32, data: &[u8], ctx: &[u8]) -> String {
    let hash = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut text = format!("{retval:x} {:x} {hash:x}", data.len());
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| ctx[at + i]));
    if ctx.len() >= CB as usize + 16 {
        for at in [
            CB as usize,
            CB as usize + 4,
            CB as usize + 8,
            CB as usize + 12,
            8,
        ] {
            let _ = write!(text, " {:x}", word(at));
        }
    } else if ctx.len() >= 8 {
        let _ = write!(text, " {:x}", word(4));
    }
    text
}
