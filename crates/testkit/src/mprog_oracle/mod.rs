//! The multi-program oracle: random histories of attach requests at one tcx hook with the running kernel's answers.
//!
//! A history is a line of requests, each ` > ` its answer, separated by `; `:
//!
//! ```text
//! +1 > 0 1@2; *a2 B p1 > 0 a2,1@3; +1 A =9 > ESTALE; -1 > 0 a2@4; ua3 > 0 a3@5
//! ```
//!
//! Requests: `+P` attaches program P; `*SP` attaches P through a new link in slot S; `-P` detaches P and `-` by place; `uSP [oQ]` updates the
//! link in slot S to P if it holds Q; `dS` detaches the link in slot S; `cS` closes its last descriptor; `q[N]` queries with room for N.
//! Options: `B` before, `A` after; the relative is `pN` a program by descriptor, `iN` by id, `lS` a link by descriptor, `kS` by id; broken
//! ones are `x` (a program of another type), `y` (its id), `b` (no open descriptor), `I` (an id of nothing), `K` (a link id of nothing), `L`
//! (a link flag without a descriptor), `mN` (a program's descriptor as link's), `nS` (a link's descriptor as program's); `RN` replaces
//! program N, `R` replaces without a descriptor, `Rx` replaces a program of another type, `rN` gives a program to replace without the flag;
//! `=N` expects a revision; `fX` adds raw flag bits in hexadecimal. An answer is an errno, or 0 with order and revision; links are their
//! slot's letter and their program.
//!
//! [`Request`] is parsed and printed here, [`Generator`] makes histories. The kernel answers in `mprog_kernel`; ring3's `mprog` in its own
//! tests, which include this file.

use std::fmt::{self, Write};

/// Programs that may be attached.
pub const PROGS: u8 = 5;
/// Slots for links.
pub const SLOTS: u8 = 4;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `+P`
    Attach {
        /// Program.
        prog: u8,
    },
    /// `*SP`
    LinkCreate {
        /// Slot of the new link.
        slot: u8,
        /// Program.
        prog: u8,
    },
    /// `-P`, `-`
    Detach {
        /// Program, or by place.
        prog: Option<u8>,
    },
    /// `uSP`
    LinkUpdate {
        /// Slot of the link.
        slot: u8,
        /// Its new program.
        prog: u8,
        /// The program it is expected to hold.
        old: Option<u8>,
    },
    /// `dS`
    LinkDetach {
        /// Slot of the link.
        slot: u8,
    },
    /// `cS`
    LinkClose {
        /// Slot of the link.
        slot: u8,
    },
    /// `qN`
    Query {
        /// Entries there is room for; none asks for the count.
        room: Option<u32>,
    },
}

/// What `relative_fd` names, with the flags that say how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relative {
    /// Nothing.
    None,
    /// `pN`
    ProgFd(u8),
    /// `iN`
    ProgId(u8),
    /// `lS`
    LinkFd(u8),
    /// `kS`
    LinkId(u8),
    /// `x`
    OtherTypeFd,
    /// `y`
    OtherTypeId,
    /// `b`
    BadFd,
    /// `I`
    BadProgId,
    /// `K`
    BadLinkId,
    /// `L`
    LinkWithoutFd,
    /// `mN`
    ProgFdAsLink(u8),
    /// `nS`
    LinkFdAsProg(u8),
}

/// What `replace_bpf_fd` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Nothing.
    None,
    /// `RN`
    Prog(u8),
    /// `R`
    FlagOnly,
    /// `Rx`
    OtherType,
    /// `rN`
    FdOnly(u8),
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub action: Action,
    /// BPF_F_BEFORE
    pub before: bool,
    /// BPF_F_AFTER
    pub after: bool,
    /// What it is relative to.
    pub relative: Relative,
    /// What it replaces.
    pub replace: Replace,
    /// `expected_revision`, 0 for any.
    pub revision: u64,
    /// Further flag bits.
    pub raw_flags: u32,
}

/// One attached entry: program, and the slot of its link.
pub type Seen = (u8, Option<u8>);

/// What is attached, and the revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// In the order it runs.
    pub order: Vec<Seen>,
    /// `revision` of a query.
    pub revision: u64,
}

impl Request {
    /// An action without options.
    pub fn of(action: Action) -> Request {
        Request {
            action,
            before: false,
            after: false,
            relative: Relative::None,
            replace: Replace::None,
            revision: 0,
            raw_flags: 0,
        }
    }

    /// Reads a request.
    pub fn parse(text: &str) -> Option<Request> {
        let mut words = text.split_whitespace();
        let first = words.next()?;
        let mut chars = first.chars();
        let kind = chars.next()?;
        let rest = chars.as_str();
        let action = match kind {
            '+' => Action::Attach { prog: digit(rest)? },
            '-' if rest.is_empty() => Action::Detach { prog: None },
            '-' => Action::Detach {
                prog: Some(digit(rest)?),
            },
            '*' => Action::LinkCreate {
                slot: letter(rest)?,
                prog: digit(&rest[1..])?,
            },
            'u' => Action::LinkUpdate {
                slot: letter(rest)?,
                prog: digit(&rest[1..])?,
                old: None,
            },
            'd' => Action::LinkDetach {
                slot: letter(rest)?,
            },
            'c' => Action::LinkClose {
                slot: letter(rest)?,
            },
            'q' if rest.is_empty() => Action::Query { room: None },
            'q' => Action::Query {
                room: Some(rest.parse().ok()?),
            },
            _ => return None,
        };
        let mut request = Request::of(action);
        for word in words {
            request.option(word)?;
        }
        Some(request)
    }

    fn option(&mut self, word: &str) -> Option<()> {
        let rest = word.get(1..)?;
        match (word.chars().next()?, rest) {
            ('B', "") => self.before = true,
            ('A', "") => self.after = true,
            ('p', n) => self.relative = Relative::ProgFd(digit(n)?),
            ('i', n) => self.relative = Relative::ProgId(digit(n)?),
            ('l', n) => self.relative = Relative::LinkFd(letter(n)?),
            ('k', n) => self.relative = Relative::LinkId(letter(n)?),
            ('x', "") => self.relative = Relative::OtherTypeFd,
            ('y', "") => self.relative = Relative::OtherTypeId,
            ('b', "") => self.relative = Relative::BadFd,
            ('I', "") => self.relative = Relative::BadProgId,
            ('K', "") => self.relative = Relative::BadLinkId,
            ('L', "") => self.relative = Relative::LinkWithoutFd,
            ('m', n) => self.relative = Relative::ProgFdAsLink(digit(n)?),
            ('n', n) => self.relative = Relative::LinkFdAsProg(letter(n)?),
            ('R', "") => self.replace = Replace::FlagOnly,
            ('R', "x") => self.replace = Replace::OtherType,
            ('R', n) => self.replace = Replace::Prog(digit(n)?),
            ('r', n) => self.replace = Replace::FdOnly(digit(n)?),
            ('=', n) => self.revision = n.parse().ok()?,
            ('f', n) => self.raw_flags = u32::from_str_radix(n, 16).ok()?,
            ('o', n) => match &mut self.action {
                Action::LinkUpdate { old, .. } => *old = Some(digit(n)?),
                _ => return None,
            },
            _ => return None,
        }
        Some(())
    }
}

fn digit(text: &str) -> Option<u8> {
    text.parse().ok()
}

fn letter(text: &str) -> Option<u8> {
    text.bytes().next()?.checked_sub(b'a')
}

fn slot_name(slot: u8) -> char {
    char::from(b'a' + slot)
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::Attach { prog } => write!(f, "+{prog}")?,
            Action::LinkCreate { slot, prog } => write!(f, "*{}{prog}", slot_name(slot))?,
            Action::Detach { prog: None } => f.write_char('-')?,
            Action::Detach { prog: Some(prog) } => write!(f, "-{prog}")?,
            Action::LinkUpdate { slot, prog, old } => {
                write!(f, "u{}{prog}", slot_name(slot))?;
                if let Some(old) = old {
                    write!(f, " o{old}")?;
                }
            }
            Action::LinkDetach { slot } => write!(f, "d{}", slot_name(slot))?,
            Action::LinkClose { slot } => write!(f, "c{}", slot_name(slot))?,
            Action::Query { room: None } => f.write_char('q')?,
            Action::Query { room: Some(room) } => write!(f, "q{room}")?,
        }
        for (is_set, name) in [(self.before, " B"), (self.after, " A")] {
            if is_set {
                f.write_str(name)?;
            }
        }
        match self.relative {
            Relative::None => {}
            Relative::ProgFd(prog) => write!(f, " p{prog}")?,
            Relative::ProgId(prog) => write!(f, " i{prog}")?,
            Relative::LinkFd(slot) => write!(f, " l{}", slot_name(slot))?,
            Relative::LinkId(slot) => write!(f, " k{}", slot_name(slot))?,
            Relative::OtherTypeFd => f.write_str(" x")?,
            Relative::OtherTypeId => f.write_str(" y")?,
            Relative::BadFd => f.write_str(" b")?,
            Relative::BadProgId => f.write_str(" I")?,
            Relative::BadLinkId => f.write_str(" K")?,
            Relative::LinkWithoutFd => f.write_str(" L")?,
            Relative::ProgFdAsLink(prog) => write!(f, " m{prog}")?,
            Relative::LinkFdAsProg(slot) => write!(f, " n{}", slot_name(slot))?,
        }
        match self.replace {
            Replace::None => {}
            Replace::Prog(prog) => write!(f, " R{prog}")?,
            Replace::FlagOnly => f.write_str(" R")?,
            Replace::OtherType => f.write_str(" Rx")?,
            Replace::FdOnly(prog) => write!(f, " r{prog}")?,
        }
        if self.revision != 0 {
            write!(f, " ={}", self.revision)?;
        }
        if self.raw_flags != 0 {
            write!(f, " f{:x}", self.raw_flags)?;
        }
        Ok(())
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (prog, slot)) in self.order.iter().enumerate() {
            if at > 0 {
                f.write_char(',')?;
            }
            if let Some(slot) = slot {
                f.write_char(slot_name(*slot))?;
            }
            write!(f, "{prog}")?;
        }
        write!(f, "@{}", self.revision)
    }
}

/// Makes random requests that fit what is attached often enough to be interesting.
pub struct Generator(u64);

impl Generator {
    /// The same seed gives the same choices.
    pub fn new(seed: u64) -> Generator {
        Generator(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn one_in(&mut self, limit: u64) -> bool {
        self.below(limit) == 0
    }

    fn prog(&mut self) -> u8 {
        self.below(u64::from(PROGS)) as u8
    }

    /// The next request. `open` says which link slots hold a link.
    pub fn request(&mut self, view: &View, open: &[bool]) -> Request {
        let used: Vec<u8> = (0..SLOTS).filter(|&slot| open[usize::from(slot)]).collect();
        let free = (0..SLOTS).find(|&slot| !open[usize::from(slot)]);
        let action = match (self.below(16), free) {
            (0..=3, _) => Action::Attach { prog: self.prog() },
            (4..=7, Some(slot)) => Action::LinkCreate {
                slot,
                prog: self.prog(),
            },
            (8..=9, _) => Action::Detach {
                prog: Some(self.prog()),
            },
            (10, _) => Action::Detach { prog: None },
            (11..=12, _) if !used.is_empty() => {
                let slot = self.pick(&used);
                let prog = self.prog();
                let old = self.one_in(2).then(|| self.prog());
                Action::LinkUpdate { slot, prog, old }
            }
            (13, _) if !used.is_empty() => Action::LinkDetach {
                slot: self.pick(&used),
            },
            (14, _) if !used.is_empty() => Action::LinkClose {
                slot: self.pick(&used),
            },
            (15, _) => Action::Query {
                room: Some(self.below(5) as u32).filter(|room| *room != 4),
            },
            _ => Action::Attach { prog: self.prog() },
        };
        let mut request = Request::of(action);
        let takes_options = matches!(
            action,
            Action::Attach { .. } | Action::LinkCreate { .. } | Action::Detach { .. }
        );
        if takes_options {
            self.options(&mut request, view, &used);
        }
        request
    }

    fn pick(&mut self, slots: &[u8]) -> u8 {
        slots[self.below(slots.len() as u64) as usize]
    }

    fn options(&mut self, request: &mut Request, view: &View, used: &[u8]) {
        match self.below(8) {
            0..=2 => request.before = true,
            3..=5 => request.after = true,
            6 => {}
            _ => (request.before, request.after) = (self.one_in(2), self.one_in(2)),
        }
        if self.below(3) > 0 {
            request.relative = self.relative(used);
        }
        if self.one_in(5) {
            request.replace = match self.below(8) {
                0 => Replace::FlagOnly,
                1 => Replace::OtherType,
                2 => Replace::FdOnly(self.prog()),
                _ => Replace::Prog(self.prog()),
            };
            if self.one_in(2) {
                (request.before, request.after, request.relative) = (false, false, Relative::None);
            }
        }
        if self.one_in(6) {
            request.revision = match self.below(3) {
                0 => 1 + self.below(view.revision + 2),
                _ => view.revision,
            };
        }
        if self.one_in(40) {
            request.raw_flags = [1, 2, 1 << 6, 1 << 7, 1 << 31][self.below(5) as usize];
        }
    }

    fn relative(&mut self, used: &[u8]) -> Relative {
        if used.is_empty() || self.one_in(2) {
            match self.below(14) {
                0 => Relative::OtherTypeFd,
                1 => Relative::OtherTypeId,
                2 => Relative::BadFd,
                3 => Relative::BadProgId,
                4 => Relative::BadLinkId,
                5 => Relative::LinkWithoutFd,
                6 => Relative::ProgFdAsLink(self.prog()),
                7..=10 => Relative::ProgId(self.prog()),
                _ => Relative::ProgFd(self.prog()),
            }
        } else {
            let slot = self.pick(used);
            match self.below(8) {
                0 => Relative::LinkFdAsProg(slot),
                1..=3 => Relative::LinkId(slot),
                _ => Relative::LinkFd(slot),
            }
        }
    }
}
