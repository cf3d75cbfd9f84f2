//! Running packet programs over packets: the one place that promises a program the context its type says.

use ring3_runtime::{Entry, ProgObject, is_anyone_counting, run_in_section};
use ring3_sync::rcu;
use ring3_uapi::{Errno, ProgType};

use super::{Skb, XdpBuff};

/// Program types whose context is an `sk_buff`.
pub const SKB_PROG_TYPES: &[ProgType] = &[
    ProgType::SocketFilter,
    ProgType::SchedCls,
    ProgType::SchedAct,
    ProgType::CgroupSkb,
    ProgType::LwtIn,
    ProgType::LwtOut,
    ProgType::LwtXmit,
    ProgType::LwtSeg6local,
    ProgType::SkSkb,
];

/// A program whose context was checked to be an `sk_buff` or `xdp_buff`, ready to run many times.
#[derive(Clone, Copy)]
pub struct PacketProgram<'a> {
    entry: Entry,
    prog: &'a dyn ProgObject,
}

impl<'a> PacketProgram<'a> {
    /// A program that runs over [`Skb`]s.
    ///
    /// # Errors
    /// EINVAL: the program's context is something else.
    pub fn over_skb(prog: &'a dyn ProgObject) -> Result<SkbProgram<'a>, Errno> {
        if !SKB_PROG_TYPES.contains(&prog.prog_type()) {
            return Err(Errno::EINVAL);
        }
        Ok(SkbProgram(PacketProgram {
            entry: prog.entry(),
            prog,
        }))
    }

    /// One run in a read section of its own; the low half of r0.
    ///
    /// # Safety
    /// `ctx` is a context of the program's type that nobody else uses.
    #[inline]
    unsafe fn run(&self, ctx: u64) -> u32 {
        let _section = rcu::read();
        if is_anyone_counting() {
            // SAFETY: 1. the caller's contract; 2. a read section is active.
            return unsafe { self.run_counted(ctx) };
        }
        // SAFETY: 1. the program is borrowed, so it is alive; 2. the caller vouches for the context; 3. a read section is active.
        unsafe { run_in_section(&self.entry, ctx) as u32 }
    }

    /// A run while somebody counts. Out of line: what it keeps in registers would be saved in every run.
    ///
    /// # Safety
    /// As [`PacketProgram::run`], in a read section.
    #[cold]
    #[inline(never)]
    unsafe fn run_counted(&self, ctx: u64) -> u32 {
        // SAFETY: as above.
        let run = || unsafe { run_in_section(&self.entry, ctx) as u32 };
        match self.prog.run_stats() {
            None => run(),
            Some(stats) => stats.measure(run),
        }
    }

    /// A program that runs over [`XdpBuff`]s.
    ///
    /// # Errors
    /// EINVAL: not an XDP program.
    pub fn over_xdp(prog: &'a dyn ProgObject) -> Result<XdpProgram<'a>, Errno> {
        if prog.prog_type() != ProgType::Xdp {
            return Err(Errno::EINVAL);
        }
        Ok(XdpProgram(PacketProgram {
            entry: prog.entry(),
            prog,
        }))
    }
}

/// A program over socket buffers.
#[derive(Clone, Copy)]
pub struct SkbProgram<'a>(PacketProgram<'a>);

impl SkbProgram<'_> {
    /// One run; the low half of r0.
    #[inline]
    pub fn run(&self, skb: &mut Skb) -> u32 {
        // SAFETY: 1. the type was checked: the context is an sk_buff, which an `Skb` begins with; 2. the skb is borrowed for the run.
        unsafe { self.0.run(skb.program_ptr()) }
    }
}

/// A program over XDP frames.
#[derive(Clone, Copy)]
pub struct XdpProgram<'a>(PacketProgram<'a>);

impl XdpProgram<'_> {
    /// One run; the low half of r0.
    #[inline]
    pub fn run(&self, xdp: &mut XdpBuff) -> u32 {
        // SAFETY: as for skbs, with an xdp_buff.
        unsafe { self.0.run(xdp.program_ptr()) }
    }
}
